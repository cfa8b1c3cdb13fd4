"""Decoded pictures: samples → uint8 arrays with labels, decoded and resized by the same code as in the service."""

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

#: Packages that decode pictures; their wheels bundle libjpeg-turbo, libtiff and littleCMS.
DECODER_LIBRARIES = ("pillow", "simplejpeg", "cykooz.resizer")


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """A picture that could not be decoded, and the error."""

    sample: Sample
    reason: str


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Decoded pictures and labels; row i belongs to samples[i]."""

    samples: list[Sample]
    images: NDArray[np.uint8]  # (N, size, size, 3) RGB; (N, size, size, 4) with a rough mask of the cell
    labels: NDArray[np.int64]  # (N,) index into the class list
    unreadable: list[UnreadableImage]


def decode_samples(
    samples: Sequence[Sample],
    codes: Sequence[str],
    size: int,
    crops: dict[str, float],
    title: str,
    cache: Path | None = None,
    masks: bool = False,
) -> LabelledImages:
    """Decode samples to `size` x `size` pixels; unreadable pictures are listed in the result.

    Args:
        crops: source name → share of the side kept around the centre.
        title: title of the progress bar.
        cache: folder for the decoded pictures, which are memory-mapped from there; None: keep them in memory.
        masks: add a rough mask of the cell as a fourth channel.

    Raises:
        DataError: the disk is too full, or files changed while they were read.
    """
    text = f"pictures {decoder_version(Path(__file__))} {sorted(crops.items())}"
    if masks:
        from training.data.masks import with_mask  # loads scikit-image

        text += f" masks {decoder_version(Path(inspect.getfile(with_mask)))}"

    def compute(sample: Sample, data: bytes) -> NDArray[np.uint8]:
        picture = decode_crop(data, size, crops[sample.source])
        return with_mask(picture) if masks else picture

    recipe = Recipe(compute, (size, size, 4 if masks else 3), np.uint8, text)
    rows = cached_rows(samples, recipe, cache, title)
    kept = [samples[at] for at in rows.indices]
    labels = np.array([codes.index(sample.code) for sample in kept], dtype=np.int64)
    unreadable = [UnreadableImage(samples[at], reason) for at, reason in rows.errors.items()]
    return LabelledImages(kept, rows.array, labels, unreadable)


def decode_crop(data: bytes, size: int, crop: float) -> NDArray[np.uint8]:
    """Decode the centre of a picture (`crop` of its side) to `size` pixels.

    Raises:
        PictureError: it cannot be decoded.
    """
    whole = round(size / crop)
    start = (whole - size) // 2
    return decode(data, whole)[start : start + size, start : start + size]


def decoder_version(*computing: Path) -> str:
    """A text that changes with all that may change a pixel: decoder sources, libraries and the files `computing`."""
    digest = hashlib.sha256()
    for path in (*decoder_sources(), *computing):
        digest.update(path.read_bytes())
    libraries = " ".join(f"{name} {_installed(name)}" for name in DECODER_LIBRARIES)
    return f"{digest.hexdigest()[:16]} {libraries}"


def decoder_sources() -> list[Path]:
    """The source files that turn a file's bytes into pixels."""
    decoder = Path(inspect.getfile(decode))
    return [decoder, decoder.with_name("resize.py"), *sorted(decoder.with_name("formats").glob("*.py"))]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # cykooz.resizer has no wheels for some platforms
        return "absent"
