"""Whether a session gives the answers that its manifest has stored for the probe pictures.

Knows the manifest and arrays. Knows nothing of how a session came about, nor what a disagreement leads to.
"""

import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest
from model.probes import images_sha256, probe_images, stored_summary, summary
from service.runtime.agreement import compare, complaint

log = logging.getLogger(__name__)

#: Pictures a call: as many as an opening has computed before, so that nothing is built and no memory kept for more.
AT_ONCE = 2

Run = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]


def parity_complaint(manifest: Manifest, run: Run, tolerance: float) -> str | None:
    """What is wrong with the answers, or None where nothing is, or nothing can be said.

    Nothing can be said of a manifest without probes; and where these pictures are not those of the export, of which
    the log tells.

    Args:
        run: (N, S, S, 3) RGB to the outputs by name.
        tolerance: how far off they may be, relative to the largest.
    """
    stored = manifest.probes
    if stored is None:
        return None
    images = probe_images(manifest, len(stored.logits))
    if images_sha256(images) != stored.images_sha256:
        log.warning("%s was not held against its stored answers: they are to other probe pictures", manifest.name)
        return None
    parts = [summary(run(images[start : start + AT_ONCE])) for start in range(0, len(images), AT_ONCE)]
    expected = stored_summary(stored)
    found = {name: np.concatenate([part[name] for part in parts]) for name in expected}
    return complaint(compare(found, expected), tolerance)
