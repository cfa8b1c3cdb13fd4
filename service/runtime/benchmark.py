"""Trial of one execution provider: whether it starts, whether it matches the CPU's outputs, and how fast it is."""

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
from service.runtime.parity import compare
from service.runtime.providers import Provider
from service.runtime.session import ProviderUnavailable, Session

SessionOpener = Callable[[ProviderChoice], Session]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatchTrial:
    """One batch size, compared with the CPU."""

    pictures: int
    first_ms: float
    median_ms: float
    pictures_per_s: float
    differences: dict[str, float]  # largest absolute difference of each output
    relative: float  # largest difference, each relative to its output's largest value or to 1
    top1: float  # share of images with the same top class, 0..1


@dataclass(frozen=True, slots=True)
class ProviderTrial:
    """One provider. `reason` says why it does not work or was not tried."""

    provider: Provider
    offered: bool
    works: bool
    reason: str | None = None
    precision: str | None = None  # what it computes in; None if it does not work
    opened_s: float | None = None
    sizes: tuple[BatchTrial, ...] = ()


def try_provider(
    provider: Provider,
    open_on: SessionOpener,
    reference: Session,
    offered: Sequence[str],
    sizes: Sequence[int],
    repeats: int,
) -> ProviderTrial:
    """Open a session on a provider and run it at every batch size.

    Args:
        reference: an open session on the CPU.
        offered: providers of the installed onnxruntime, by onnxruntime's names.
        repeats: timed calls at each size, after one that is not counted.
    """
    if providers.NAMES[provider] not in offered:
        missing = f"not in the installed onnxruntime: {providers.install_command(provider)}"
        return ProviderTrial(provider, False, False, missing)
    try:
        opened_s, session = timed(lambda: open_on(provider))
    except (ProviderUnavailable, ArtefactError) as error:
        return ProviderTrial(provider, True, False, str(error))
    images = probe_images(reference.manifest, max(sizes))
    trials = tuple(_try_batch(session, reference, images[:size], repeats) for size in sizes)
    return ProviderTrial(provider, True, True, None, session.precision, opened_s, trials)


def _try_batch(session: Session, reference: Session, images: NDArray[np.uint8], repeats: int) -> BatchTrial:
    first_s, outputs = timed(lambda: session.run(images))
    found = compare(outputs.by_name(), reference.run(images).by_name())
    median_s = statistics.median(timed(lambda: session.run(images))[0] for _ in range(repeats))
    count = len(images)
    times = 1000 * first_s, 1000 * median_s, count / median_s
    return BatchTrial(count, *times, found.differences, found.relative, found.top1)


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Call a function; returns the seconds it took, and its result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result
