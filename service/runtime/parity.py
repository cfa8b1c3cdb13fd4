"""Comparison of a session's outputs with expected ones: another provider's, or those stored in the manifest."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest
from model.probes import images_sha256, probe_images, stored_summary, summary
from service.runtime.providers import Tolerance

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.float32]]
#: (N, S, S, 3) RGB to the outputs by name.
Run = Callable[[NDArray[np.uint8]], Arrays]

#: Probe images in one call. Opening a session computes batches of 2 anyway, so no further buffers are allocated.
PROBE_BATCH_SIZE = 2


class Comparison(NamedTuple):
    """Differences between two sets of outputs for the same images. A difference is NaN if an output has NaN."""

    differences: dict[str, float]  # largest absolute difference of each output
    relatives: dict[str, NDArray[np.float64]]  # (N,): of each image, relative to the output's largest value or to 1
    top1: float  # share of images with the same top class, 0..1

    @property
    def relative(self) -> float:
        """The largest relative difference of all outputs and images."""
        return float(np.max([found.max() for found in self.relatives.values()]))


def compare(found: Arrays, expected: Arrays, scale: Arrays | None = None) -> Comparison:
    """Compare outputs with expected ones.

    Args:
        found, expected: outputs by name, first axis N; "logits" (N, C) is required.
        scale: outputs for more images, whose largest values the differences are relative to. Default: `expected`.

    Raises:
        ValueError: an output has another shape than expected.
    """
    differences, relatives = {}, {}
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape:
            raise ValueError(f"{name} has the shape {found[name].shape}, expected {wanted.shape}")
        of_images = np.abs(found[name] - wanted).reshape(len(wanted), -1).max(axis=1).astype(np.float64)
        differences[name] = float(of_images.max())
        relatives[name] = of_images / max(1.0, float(np.abs((scale or expected)[name]).max()))
    same = found["logits"].argmax(axis=1) == expected["logits"].argmax(axis=1)
    return Comparison(differences, relatives, float(same.mean()))


def mismatch(comparison: Comparison, tolerance: Tolerance) -> str | None:
    """The output that differs most of those beyond their tolerance, as a sentence; None if all are within theirs.

    Three of four images must be within the smaller tolerance of the output, and every image within the larger one.
    """
    excesses = {name: _excess(found, tolerance.of(name)) for name, found in comparison.relatives.items()}
    beyond = [name for name, (excess, _) in excesses.items() if excess > 1]
    if not beyond:
        return None
    worst = max(beyond, key=lambda name: np.nan_to_num(comparison.differences[name], nan=np.inf))
    bound = f"{excesses[worst][1]:.1e}".replace(".0e", "e")
    return f"{worst} differs by {comparison.differences[worst]:.1e}; {bound} of the largest value is allowed"


def _excess(relatives: NDArray[np.float64], tolerances: tuple[float, float]) -> tuple[float, float]:
    """The difference of three of four images or of all as a multiple of its tolerance, the larger, and that tolerance.

    The multiple is infinite for NaN.
    """
    most = np.sort(relatives)[-(-3 * len(relatives) // 4) - 1]
    differences = np.nan_to_num([most, relatives.max()], nan=np.inf)
    return max((float(found / allowed), allowed) for found, allowed in zip(differences, tolerances, strict=True))


def probe_mismatch(manifest: Manifest, run: Run, tolerance: Tolerance) -> str | None:
    """How the outputs for the probe images differ from those stored in the manifest; None if they agree.

    None also for a manifest without probes. Where the probe images themselves differ from those at the export, the
    check is skipped with a warning in the log.

    Args:
        tolerance: allowed differences.
    """
    stored = manifest.probes
    if stored is None:
        return None
    images = probe_images(manifest, len(stored.logits))
    if images_sha256(images) != stored.images_sha256:
        log.warning("%s: stored outputs not checked; they are of other probe images", manifest.name)
        return None
    starts = range(0, len(images), PROBE_BATCH_SIZE)
    parts = [summary(run(images[start : start + PROBE_BATCH_SIZE])) for start in starts]
    expected = stored_summary(stored)
    found = {name: np.concatenate([part[name] for part in parts]) for name in expected}
    return mismatch(compare(found, expected), tolerance)
