"""Samples → arrays: decodes every picture once, through the one decode-and-resize, and keeps them as uint8.

Knows files and arrays. Knows nothing of networks. A picture that cannot be read is listed, never silently dropped.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from model.image import PictureError, decode
from training.data import Sample


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A picture that could not be decoded, and why."""

    sample: Sample
    reason: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """Decoded pictures with their labels; row i of each belongs to samples[i]."""

    samples: list[Sample]
    images: NDArray[np.uint8]  # (N, size, size, 3) RGB
    labels: NDArray[np.int64]  # (N,) index into the class list
    unreadable: list[Unreadable]


def decode_all(
    samples: Sequence[Sample], codes: Sequence[str], size: int, crops: dict[str, float], title: str
) -> Pictures:
    """Decode samples to `size` pixels a side, keeping the centre that the source's crop leaves.

    Args:
        crops: source name → share of the side kept around the centre.
        title: what the progress bar says.
    """
    images = np.empty((len(samples), size, size, 3), np.uint8)  # filled in place: a large set fits only once
    kept: list[Sample] = []
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor() as pool:
        outcomes = pool.map(lambda sample: _decode(sample, size, crops[sample.source]), samples)
        for sample, outcome in zip(samples, track(outcomes, description=title, total=len(samples)), strict=True):
            if isinstance(outcome, Unreadable):
                unreadable.append(outcome)
            else:
                images[len(kept)] = outcome
                kept.append(sample)
    labels = np.array([codes.index(sample.code) for sample in kept], dtype=np.int64)
    return Pictures(kept, images[: len(kept)], labels, unreadable)


def _decode(sample: Sample, size: int, crop: float) -> NDArray[np.uint8] | Unreadable:
    whole = round(size / crop)
    start = (whole - size) // 2
    try:
        image = decode(sample.path.read_bytes(), whole)
    except (PictureError, OSError) as error:
        return Unreadable(sample, str(error))
    return image[start : start + size, start : start + size]
