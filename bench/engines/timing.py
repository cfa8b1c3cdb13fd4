"""Time an engine: the same decoded pictures, one untimed call, then calls for some seconds; one JSON line a timing."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.peers.decoders import by_pillow

Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Task:
    """What to time; JSON from the command line."""

    artefact: str
    pictures: list[str]  # JPEG files
    size: int
    batches: list[int]
    seconds: float

    @property
    def threads(self) -> int:
        return int(os.environ["BENCH_THREADS"])

    def decoded(self) -> Images:
        """All decoded pictures, (N, S, S, 3)."""
        return np.stack([by_pillow(Path(path).read_bytes(), self.size) for path in self.pictures])


def task() -> Task:
    """Parse the first command-line argument."""
    return Task(**json.loads(sys.argv[1]))


def time_batches(
    engine: str, setting: str, asked: Task, images: Images, opened: Callable[[int], Callable[[Images], object]]
) -> None:
    """Time an engine at each batch size.

    Args:
        opened: batch size → the call to time.
    """
    for batch in asked.batches:
        run = opened(batch)
        starts = range(0, len(images) - batch + 1, batch)
        slices = [np.ascontiguousarray(images[at : at + batch]) for at in starts]
        run(slices[0])
        calls, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < asked.seconds or not calls:
            run(slices[calls % len(slices)])
            calls += 1
        tell(engine=engine, setting=setting, batch=batch, pictures_per_s=calls * batch / elapsed)


def tell(**said: object) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
