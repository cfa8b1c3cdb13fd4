"""Cost of input drift for a model call: `DriftWindow.add` compared with the call, by batch size.

    python -m bench.timings.drift_cost

Both are timed alternately on one thread, with the bundled model's reference. The minimum counts, because other programs
only add time. Drift is computed for sixteen pictures together: smaller calls are timed until sixteen are collected, and
each gets its share.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Table

from model.drift.reference import SUFFIX, read_reference
from service.inference.drift_window import GROUP_SIZE, DriftWindow
from service.runtime.artifact import bundled_artefact
from service.runtime.session import open_session

ROUNDS = 60
BATCHES = (1, 4, 16)


def main() -> None:
    """Print the table."""
    path = bundled_artefact()
    session = open_session(path, provider="cpu")
    window = DriftWindow(read_reference(path.with_suffix(SUFFIX)), 2000)
    size = session.manifest.preprocessing.input_size
    table = Table("pictures a call", "model, ms", "drift, ms", "part", box=None)
    for count in BATCHES:
        images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        outputs = session.run(images)
        add = partial(window.add, outputs.embedding, outputs.probabilities, images)
        calls = GROUP_SIZE // count
        timed = [(_seconds(partial(session.run, images)), _seconds(add, calls)) for _ in range(ROUNDS)]
        model_s, drift_s = zip(*timed, strict=True)
        least = min(model_s), min(drift_s)
        table.add_row(str(count), *(f"{1000 * seconds:.3f}" for seconds in least), f"{least[1] / least[0]:.2%}")
    reading = min(_seconds(window.measure) for _ in range(ROUNDS))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"one reading, at a scrape: {1000 * reading:.3f} ms")


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    """Mean time of a call over a number of calls, in seconds."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    main()
