"""Inference speed of several models on the CPU, timed side by side.

The speed of a machine varies with other programs, temperature and clock rate. So models take turns, in a random order
each round, and the ratio to the first model is computed within a round before taking the median over rounds.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.contract import INPUT
from training.onnx_session import open_session

Images = NDArray[np.uint8]
Clock = Callable[[], float]
#: CPU time of all threads of this process: excludes other programs.
cpu_seconds: Clock = time.process_time


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to time: it takes uint8 pictures (N, size, size, 3)."""

    size: int
    predict: Callable[[Images], object]


class Timing(BaseModel):
    """Speed of one model at one batch size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int
    pictures_per_s: float  # median over the rounds
    ratio: float  # to the first model, median over the rounds
    ratio_low: float  # quartiles over the rounds
    ratio_high: float


def processor() -> str:
    """Name of the CPU, as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def load_artefact(path: Path, threads: int) -> Subject:
    """An exported model with the session options of the service; computes all outputs.

    Raises:
        ValueError: onnxruntime cannot run it.
    """
    session = open_session(path, threads)
    size = session.get_inputs()[0].shape[1]
    return Subject(size, lambda images: session.run(None, {INPUT: images}))


def time_side_by_side(
    subjects: Mapping[str, Subject],
    batches: Sequence[int],
    rounds: int,
    round_s: float,
    clock: Clock = time.perf_counter,
) -> dict[str, tuple[Timing, ...]]:
    """Time every model at every batch size once a round.

    Args:
        subjects: name → model; ratios are to the first.
        round_s: minimum duration of one timing, in seconds.
        clock: `cpu_seconds` on a machine that runs other programs.
    """
    random = np.random.default_rng(0)
    names = list(subjects)
    rates = {name: np.empty((len(batches), rounds)) for name in names}
    for turn in range(rounds):
        for column, batch in enumerate(batches):
            for name in random.permutation(names):
                rates[name][column, turn] = _rate(subjects[name], batch, round_s, random, clock)
    return {
        name: tuple(_timing(batch, rate[column], rates[names[0]][column]) for column, batch in enumerate(batches))
        for name, rate in rates.items()
    }


def _rate(subject: Subject, batch: int, seconds: float, random: np.random.Generator, clock: Clock) -> float:
    """Pictures/s over at least `seconds`, after one warm-up call."""
    images = random.integers(0, 256, (batch, subject.size, subject.size, 3), dtype=np.uint8)
    subject.predict(images)
    calls, start = 0, clock()
    while (elapsed := clock() - start) < seconds or not calls:
        subject.predict(images)
        calls += 1
    return calls * batch / elapsed


def _timing(batch: int, rates: NDArray[np.float64], first: NDArray[np.float64]) -> Timing:
    low, middle, high = np.quantile(rates / first, [0.25, 0.5, 0.75]).tolist()
    return Timing(batch=batch, pictures_per_s=float(np.median(rates)), ratio=middle, ratio_low=low, ratio_high=high)
