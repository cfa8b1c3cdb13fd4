"""Pictures a second of several models on this machine's CPU, timed side by side.

Knows onnxruntime and clocks. Knows no configuration and no accuracy.

A machine is never equally fast for long: another program, the temperature, the clock. So models take turns, in another
order each round, and a ratio to the first model is taken within a round before its median over the rounds.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.contract import INPUT, OUTPUTS

Images = NDArray[np.uint8]
Clock = Callable[[], float]
#: What all threads of this process have computed: what other programs take of the cores is not in it.
cpu_seconds: Clock = time.process_time


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that answers to uint8 pictures (N, size, size, 3)."""

    size: int
    answer: Callable[[Images], object]


class Timing(BaseModel):
    """Speed of one model at one batch size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int
    pictures_per_s: float  # median over the rounds
    ratio: float  # to the first model: median over the rounds of the ratio within a round
    ratio_low: float  # quartiles of the same
    ratio_high: float


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The CPU's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def artefact(path: Path, threads: int) -> Subject:
    """An exported model, with the session options of the service; all five outputs are computed.

    Raises:
        ValueError: onnxruntime cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors
    # The service does not let idle threads spin; here those of one model would take the cores from the next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise ValueError(f"{path}: onnxruntime cannot run it: {error}") from error
    size = session.get_inputs()[0].shape[1]
    return Subject(size, lambda images: session.run(list(OUTPUTS), {INPUT: images}))


def side_by_side(
    subjects: Mapping[str, Subject],
    batches: Sequence[int],
    rounds: int,
    round_s: float,
    tick: Callable[[], None] = lambda: None,
    clock: Clock = time.perf_counter,
) -> dict[str, tuple[Timing, ...]]:
    """Time every subject at every batch size once a round.

    Args:
        subjects: name → subject; ratios are to the first.
        round_s: seconds that one timing takes at least.
        tick: called after each of the `rounds * len(batches)` turns.
        clock: what a second is; `cpu_seconds` where other programs use the cores too.
    """
    random = np.random.default_rng(0)
    names = list(subjects)
    rates = {name: np.empty((len(batches), rounds)) for name in names}
    for turn in range(rounds):
        for column, batch in enumerate(batches):
            for name in random.permutation(names):
                rates[name][column, turn] = _rate(subjects[name], batch, round_s, random, clock)
            tick()
    return {
        name: tuple(_timing(batch, found[column], rates[names[0]][column]) for column, batch in enumerate(batches))
        for name, found in rates.items()
    }


def _rate(subject: Subject, batch: int, seconds: float, random: np.random.Generator, clock: Clock) -> float:
    """Pictures a second over `seconds` or a little more, after one call that is not timed."""
    images = random.integers(0, 256, (batch, subject.size, subject.size, 3), dtype=np.uint8)
    subject.answer(images)
    calls, start = 0, clock()
    while (elapsed := clock() - start) < seconds or not calls:
        subject.answer(images)
        calls += 1
    return calls * batch / elapsed


def _timing(batch: int, rates: NDArray[np.float64], first: NDArray[np.float64]) -> Timing:
    low, middle, high = np.quantile(rates / first, [0.25, 0.5, 0.75]).tolist()
    return Timing(batch=batch, pictures_per_s=float(np.median(rates)), ratio=middle, ratio_low=low, ratio_high=high)
