"""One execution provider on trial: does it start, does it give the CPU's answers, and how fast is it.

Knows sessions and a clock. Knows no settings and no tables.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.contract import ArtefactError
from model.probes import probe_images
from service.config.settings import ProviderChoice
from service.runtime import providers
from service.runtime.agreement import compare
from service.runtime.providers import Provider
from service.runtime.session import ProviderUnavailable, Session

Opener = Callable[[ProviderChoice], Session]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SizeTrial:
    """Batches of one size, against the CPU's."""

    pictures: int
    first_ms: float
    median_ms: float
    pictures_per_s: float
    differences: dict[str, float]  # by output: the largest absolute difference
    relative: float  # the largest of them, each relative to its output's largest value or to 1
    top1: float  # share of the pictures that are given the same class


@dataclass(frozen=True, slots=True)
class Trial:
    """One provider. `reason` says why it does not work or was not tried."""

    provider: Provider
    offered: bool
    works: bool
    reason: str | None = None
    opened_s: float | None = None
    sizes: tuple[SizeTrial, ...] = ()


def try_out(
    provider: Provider, open_on: Opener, reference: Session, offered: Sequence[str], sizes: Sequence[int], repeats: int
) -> Trial:
    """Open a provider and run it at every batch size.

    Args:
        reference: an opened session on the CPU.
        offered: onnxruntime's names of what its build holds.
        repeats: timed calls at each size, after one that is not counted.
    """
    there = providers.NAMES[provider] in offered
    if not there:
        return Trial(provider, False, False, f"not in the installed onnxruntime: {providers.install(provider)}")
    began = time.perf_counter()
    try:
        session = open_on(provider)
    except (ProviderUnavailable, ArtefactError) as error:
        return Trial(provider, True, False, str(error))
    opened_s = time.perf_counter() - began
    images = probe_images(reference.manifest, max(sizes))
    trials = tuple(_at_size(session, reference, images[:size], repeats) for size in sizes)
    return Trial(provider, True, True, None, opened_s, trials)


def _at_size(session: Session, reference: Session, images: NDArray[np.uint8], repeats: int) -> SizeTrial:
    first_s, outputs = timed(lambda: session.run(images))
    found = compare(outputs._asdict(), reference.run(images)._asdict())
    median_s = statistics.median(timed(lambda: session.run(images))[0] for _ in range(repeats))
    count = len(images)
    times = 1000 * first_s, 1000 * median_s, count / median_s
    return SizeTrial(count, *times, found.differences, found.relative, found.top1)


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that a call took, and its result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result
