"""Comparison of a session's outputs with expected ones: another provider's, or those stored in the manifest."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest
from model.probes import images_sha256, probe_images, stored_summary, summary

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.float32]]
#: (N, S, S, 3) RGB to the outputs by name.
Run = Callable[[NDArray[np.uint8]], Arrays]

#: Probe images in one call. Opening a session computes batches of 2 anyway, so no further buffers are allocated.
PROBE_BATCH_SIZE = 2


class Comparison(NamedTuple):
    """Differences between two sets of outputs for the same images."""

    differences: dict[str, float]  # largest absolute difference of each output; NaN if it contains NaN
    relative: float  # largest difference, each relative to its output's largest expected value or to 1
    top1: float  # share of images with the same top class, 0..1


def compare(found: Arrays, expected: Arrays) -> Comparison:
    """Compare outputs with expected ones.

    Args:
        found, expected: outputs by name, first axis N; "logits" (N, C) is required.

    Raises:
        ValueError: an output has another shape than expected.
    """
    differences, relative = {}, 0.0
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape:
            raise ValueError(f"{name} has the shape {found[name].shape}, expected {wanted.shape}")
        difference = float(np.abs(found[name] - wanted).max())
        differences[name] = difference
        relative = float(np.maximum(relative, difference / max(1.0, float(np.abs(wanted).max()))))  # keeps NaN
    same = found["logits"].argmax(axis=1) == expected["logits"].argmax(axis=1)
    return Comparison(differences, relative, float(same.mean()))


def mismatch(comparison: Comparison, tolerance: float) -> str | None:
    """The output that differs most, as a sentence; None if all differences are within the tolerance."""
    if comparison.relative <= tolerance:  # false for NaN too
        return None
    differences = comparison.differences
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    return f"{worst} differs by {differences[worst]:.1e}; {tolerance:.0e} of the largest value is allowed"


def probe_mismatch(manifest: Manifest, run: Run, tolerance: float) -> str | None:
    """How the outputs for the probe images differ from those stored in the manifest; None if they agree.

    None also for a manifest without probes. Where the probe images themselves differ from those at the export, the
    check is skipped with a warning in the log.

    Args:
        tolerance: allowed difference, relative to the largest value.
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
