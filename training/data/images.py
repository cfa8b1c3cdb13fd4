"""Samples → arrays: decodes every picture once, through the one decode-and-resize, and keeps them as uint8.

Knows files and arrays. Knows nothing of networks. A picture that cannot be read is listed, never silently dropped.
"""

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.image import decode
from training.data.cache import Recipe, cached_rows
from training.data.samples import Sample

#: Distributions that turn a file into pixels; their wheels carry libjpeg-turbo, libtiff and littleCMS.
DECODER_LIBRARIES = ("pillow", "simplejpeg", "cykooz.resizer")


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """A picture that could not be decoded, and why."""

    sample: Sample
    reason: str


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Decoded pictures with their labels; row i of each belongs to samples[i]."""

    samples: list[Sample]
    images: NDArray[np.uint8]  # (N, size, size, 3) RGB
    labels: NDArray[np.int64]  # (N,) index into the class list
    unreadable: list[UnreadableImage]


def decode_samples(
    samples: Sequence[Sample],
    codes: Sequence[str],
    size: int,
    crops: dict[str, float],
    title: str,
    cache: Path | None = None,
) -> LabelledImages:
    """Decode samples to `size` pixels a side, keeping the centre that the source's crop leaves.

    Args:
        crops: source name → share of the side kept around the centre.
        title: what the progress bar says.
        cache: folder where decoded pictures are kept and from where they are mapped; None: they stay in memory.

    Raises:
        DataError: the disk has no room for them, or files changed while they were read.
    """
    text = f"pictures {decoder_version(Path(__file__))} {sorted(crops.items())}"
    recipe = Recipe(lambda sample, data: decode_crop(data, size, crops[sample.source]), (size, size, 3), np.uint8, text)
    rows = cached_rows(samples, recipe, cache, title)
    kept = [samples[at] for at in rows.kept]
    labels = np.array([codes.index(sample.code) for sample in kept], dtype=np.int64)
    unreadable = [UnreadableImage(samples[at], reason) for at, reason in rows.refused.items()]
    return LabelledImages(kept, rows.array, labels, unreadable)


def decode_crop(data: bytes, size: int, crop: float) -> NDArray[np.uint8]:
    """Decode the centre of a picture: `crop` of its side, at `size` pixels.

    Raises:
        PictureError: it cannot be decoded.
    """
    whole = round(size / crop)
    start = (whole - size) // 2
    return decode(data, whole)[start : start + size, start : start + size]


def decoder_version(*computing: Path) -> str:
    """Changes with whatever may change a pixel: the decoder's sources and libraries, and further source files."""
    digest = hashlib.sha256()
    for path in (*decoder_sources(), *computing):
        digest.update(path.read_bytes())
    libraries = " ".join(f"{name} {_installed(name)}" for name in DECODER_LIBRARIES)
    return f"{digest.hexdigest()[:16]} {libraries}"


def decoder_sources() -> list[Path]:
    """The modules between a file's bytes and its pixels."""
    decoder = Path(inspect.getfile(decode))
    return [decoder, decoder.with_name("resize.py"), *sorted(decoder.with_name("formats").glob("*.py"))]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # cykooz.resizer has no wheel for every machine
        return "absent"
