"""The bare onnxruntime session, under several settings, and what one picture takes without any server.

The settings: as the service has them; with threads that spin while they wait; with memory patterns; and with a session
for each batch size whose shape is fixed. `best` in the table is the best of them at each batch size.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from bench.engines.names import AS_SERVED
from bench.engines.timing import Images, Task, task, tell, time_batches
from model.image import decode

OUTPUTS = ["probabilities", "logits", "attention", "evidence", "embedding"]


def session(
    asked: Task, *, spinning: bool = False, patterns: bool = False, batch: int | None = None
) -> Callable[[Images], object]:
    """All five outputs of a batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = patterns
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if batch is not None:
        options.add_free_dimension_override_by_name("N", batch)
    opened = onnxruntime.InferenceSession(asked.artefact, options, providers=["CPUExecutionProvider"])
    return lambda images: opened.run(OUTPUTS, {"image": images})


def _same(run: Callable[[Images], object], _: int) -> Callable[[Images], object]:
    return run


def time_one_picture(asked: Task) -> None:
    """Decode and run, one JPEG after the other, in one thread: what a lone client would wait without a server."""
    pictures = [Path(path).read_bytes() for path in asked.pictures]
    run = session(asked)
    took_s: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < 2 * asked.seconds or len(took_s) < 8:
        picture = pictures[len(took_s) % len(pictures)]
        start = time.perf_counter()
        run(decode(picture, asked.size)[np.newaxis])
        took_s.append(time.perf_counter() - start)
    tell(one_picture_ms=1000 * float(np.median(took_s[2:])))


if __name__ == "__main__":
    asked = task()
    images = asked.decoded()
    time_one_picture(asked)
    served = session(asked)
    time_batches("onnxruntime", AS_SERVED, asked, images, partial(_same, served))
    for setting, spinning, patterns in (("spinning", True, False), ("memory patterns", False, True)):
        changed = session(asked, spinning=spinning, patterns=patterns)
        time_batches("onnxruntime", setting, asked, images, partial(_same, changed))
    time_batches("onnxruntime", "fixed shapes", asked, images, lambda batch: session(asked, patterns=True, batch=batch))
