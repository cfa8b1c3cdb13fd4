"""A picture → 255 bits that stay when it is encoded again, resized or lit otherwise: a perceptual hash.

Knows pixels and the cosine transform. Knows nothing of pairs, thresholds or splits (training/data/near_duplicates.py).

The signs of the lowest 16 x 16 frequencies of the luminance at 64 px, without the mean: the DCT hash of Zauner (2010,
"Implementation and benchmarking of perceptual image hash functions", section 3.2.1) with 255 bits for 63 and sign for
median. Cells are dark discs in the middle of light fields: with 63 bits some differ in 5 (docs/data.md). The signs
make turned and mirrored copies easy: mirroring changes the sign of each odd frequency along the axis, a diagonal
swaps the axes. ImageHash's phash has 64 bits by default, goes picture by picture and sees no turn.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from model.image import decode
from training.data.cache import Recipe, Rows, rows_of
from training.data.images import decoder_version
from training.data.samples import Sample

Words = NDArray[np.uint64]  # (N, 4): the signs by parity of the two frequencies, in the order of PARITIES
PARITIES = ((0, 0), (1, 1), (0, 1), (1, 0))  # (vertical, horizontal); 64 bits each, of which the mean's is always 0
BITS = 255
SIDE, FREQUENCIES = 64, 16
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as JPEG's Y


def fingerprint(picture: NDArray[np.uint8]) -> Words:
    """The hash (4,) of an RGB picture (64, 64, 3)."""
    spectrum = dctn(picture @ LUMINANCE)[:FREQUENCIES, :FREQUENCIES]
    signs = spectrum > 0
    signs[0, 0] = False
    return pack(signs[None])[0]


def pack(signs: NDArray[np.bool_]) -> Words:
    """Signs (N, 16, 16) → words (N, 4)."""
    flat = (len(signs), (FREQUENCIES // 2) ** 2)
    planes = [np.packbits(signs[:, v::2, h::2].reshape(flat), axis=1) for v, h in PARITIES]
    return np.ascontiguousarray(np.stack(planes, axis=1)).view(np.uint64)[..., 0]


def transposed(words: Words) -> Words:
    """The words (N, 4) of the pictures mirrored at their diagonal."""
    octets = np.ascontiguousarray(words)[..., None].view(np.uint8)  # (N, 4, 8)
    planes = np.unpackbits(octets, axis=2).reshape(len(words), len(PARITIES), FREQUENCIES // 2, FREQUENCIES // 2)
    signs = np.empty((len(words), FREQUENCIES, FREQUENCIES), bool)
    for (v, h), plane in zip(PARITIES, planes.swapaxes(0, 1), strict=True):
        signs[:, h::2, v::2] = plane.swapaxes(1, 2)
    return pack(signs)


def fingerprints(samples: list[Sample], cache: Path | None) -> Rows:
    """The hash (4,) of each sample that can be decoded; the whole picture counts, whatever its source's crop."""
    version = f"fingerprint {decoder_version(Path(__file__))}"
    recipe = Recipe(lambda _, data: fingerprint(decode(data, SIDE)), (len(PARITIES),), np.uint64, version)
    return rows_of(samples, recipe, cache, "comparing pictures")
