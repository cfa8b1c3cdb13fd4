"""The command `feed`: how much of a training step waits for its pictures, on this machine and from this disk.

Knows arguments and messages. Trains as `fit` does, in a folder of its own that goes away: begun with no weights and
without teachers, which only make a step longer.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from training import pipeline
from training.compare.speed import processor
from training.config import Config, DistilConfig, read_config
from training.evaluation.tables import Table
from training.run import Halted, Run
from training.terminal import show, told_plainly

if TYPE_CHECKING:
    from training.data.wait_times import Waits
    from training.fit.train import Execution

#: The first steps claim memory and start workers.
LEFT_OUT = 2


def feed(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's configuration.")],
    data: Annotated[Path, typer.Option("--data", help="Folder that the sources' folders lie in.")] = Path("."),
    cache: Annotated[Path | None, typer.Option("--cache", help="Decoded pictures; default: decoded anew.")] = None,
    take: Annotated[int, typer.Option("--steps", min=LEFT_OUT + 1, help="Steps that are taken.")] = 40,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts in which a device takes its share of a batch.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes a device that read pictures ahead.")] = 0,
    cold: Annotated[bool, typer.Option("--cold", help="Read from the disk, as the first epoch may have to.")] = False,
) -> None:
    """Take a few steps of a training and say how much of them waited for pictures. Keeps nothing."""
    with told_plainly(), tempfile.TemporaryDirectory() as folder:
        from training.data.wait_times import Waits
        from training.fit.module import OVERSIZE
        from training.fit.train import Execution

        run, config = Run(Path(folder) / "run"), bare(read_config(config_path))
        kept, execution, waits = cache or run.cache, Execution(1, accumulate, workers, steps=take), Waits()
        parts = pipeline.begin(config, config_path.read_text(encoding="utf-8"), run, data, kept)
        if cold:
            pipeline.decoded(config, parts, "train", round(config.model.input_size * OVERSIZE), kept)
            forget(kept)
        with suppress(Halted):  # after so many steps
            pipeline.train(config, parts, run, kept, str(config_path), execution, waits)
        show(_table(config, waits, execution, cold))


def bare(config: Config) -> Config:
    """The same without weights to begin with and without teachers."""
    model = config.model.model_copy(update={"init": ""})
    return config.model_copy(update={"model": model, "distil": DistilConfig()})


def forget(cache: Path) -> None:
    """Have the operating system drop what it holds of decoded pictures in memory."""
    for rows in cache.glob("*/rows.npy"):
        with rows.open("rb") as file:
            os.fsync(file.fileno())  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _table(config: Config, waits: "Waits", execution: "Execution", cold: bool) -> Table:
    taken = waits.steps(execution.accumulate)[LEFT_OUT:]
    if not len(taken):
        raise ValueError(f"no step is left to measure: the first {LEFT_OUT} and the last ones are not")
    waited_ms, whole_ms = 1e3 * taken.T
    rows = (
        ("step, median", f"{np.median(whole_ms):.0f} ms"),
        ("of it waiting for pictures, median", f"{np.median(waited_ms):.1f} ms"),
        ("of it waiting for pictures, 95 of 100 steps", f"{np.quantile(waited_ms, 0.95):.1f} ms"),
        ("share of the time of all steps", f"{waited_ms.sum() / whole_ms.sum():.2%}"),
        ("share of a step, 95 of 100 steps", f"{np.quantile(waited_ms / whole_ms, 0.95):.2%}"),
    )
    title = f"{config.name}: {len(taken)} steps of {config.fit.batch_size} pictures, {execution.workers} workers"
    note = f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the end; "
    return Table(title, ("what", "how much"), rows, note + ("read from the disk" if cold else "read from memory"))
