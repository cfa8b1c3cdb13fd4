"""Time the bare onnxruntime session under several settings, and decode + run of one picture.

Settings: the service's; threads that spin while waiting; memory patterns; one session with a fixed shape for each batch
size. `best` in the table is the best of them at each batch size.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import simplejpeg

from bench.engines.names import AS_SERVED
from bench.engines.timing import Images, Task, task, tell, time_batches
from bench.peers.decoders import by_pillow
from model.image import decode


def session(
    asked: Task, *, spinning: bool = False, patterns: bool = False, batch: int | None = None
) -> Callable[[Images], object]:
    """A function that computes all outputs of a batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = patterns
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if batch is not None:
        options.add_free_dimension_override_by_name("N", batch)
    opened = onnxruntime.InferenceSession(asked.artefact, options, providers=["CPUExecutionProvider"])
    return lambda images: opened.run(None, {"image": images})


def _same(run: Callable[[Images], object], _: int) -> Callable[[Images], object]:
    return run


def time_one_picture(asked: Task) -> None:
    """Time decode and run of single JPEGs in one thread: the waiting time of a lone client without a server.

    Beside it what decoding alone takes: by this project's code, by Pillow's, and by libjpeg-turbo without a filter.
    """
    pictures = [Path(path).read_bytes() for path in asked.pictures]
    run = session(asked)
    steps: dict[str, Callable[[bytes], object]] = {
        "one_picture_ms": lambda picture: run(decode(picture, asked.size)[np.newaxis]),
        "decode_ms": lambda picture: decode(picture, asked.size),
        "pillow_ms": lambda picture: by_pillow(picture, asked.size),
        "turbo_ms": simplejpeg.decode_jpeg,
    }
    took_ms: dict[str, list[float]] = {name: [] for name in steps}
    began, turn = time.perf_counter(), 0
    while time.perf_counter() - began < 2 * asked.seconds or turn < 8:
        for name, step in steps.items():
            start = time.perf_counter()
            step(pictures[turn % len(pictures)])
            took_ms[name].append(1000 * (time.perf_counter() - start))
        turn += 1
    tell(**{name: float(np.median(took[2:])) for name, took in took_ms.items()})


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
