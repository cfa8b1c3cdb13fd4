"""Conversion of samples of more than 8 bits to 8 bits, by the depth that the file declares.

12-bit cameras often store values in the lower bits of 16; read as 16-bit values, they would be nearly black. The
declared depth is used if the samples fit in it, and the upper 8 of the significant bits are kept. A display range is
scaled to 0..255. Without a declared depth that fits, 16 bits are significant. Then a picture with no values in the
upper half of the range is refused, because its brightness is unknown.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.formats.errors import UnsupportedPicture

FULL_SCALE = 0xFFFF
#: Of 11,779 real pictures of cells, 4 have no sample above half of full scale, and none has 99 % of its samples below a
#: quarter. The second rule is robust against hot pixels and scale bars.
MIN_BRIGHTEST, MIN_BRIGHT_PERCENTILE, BRIGHT_SHARE = 1 / 2, 1 / 4, 0.99
#: ImageJ's automatic contrast saturates 0.35 % of the samples. A range that clips more is of another picture.
MAX_CLIPPED_SHARE = 0.01


class Scale(NamedTuple):
    """The sample values shown as black and white, and the share of samples that may be outside."""

    high: int
    low: int = 0
    clipped: float = 0.0


def depth(bits: int) -> Scale:
    """The scale of samples with this many significant bits."""
    return Scale((1 << bits) - 1)


def to_8_bit(
    samples: NDArray[np.uint16], colours: int, declared: Sequence[Scale] = (), full_scale: int = FULL_SCALE
) -> NDArray[np.uint8]:
    """Convert samples (H, W, C) to 8 bits; the first `colours` of C are colour, the rest alpha.

    Args:
        declared: scales that the file declares; the first one that fits is used.
        full_scale: the largest sample value that the file can store.

    Raises:
        UnsupportedPicture: no scale fits, or the bytes of each sample are swapped.
    """
    colour = samples[..., :colours]
    scales = [scale for scale in dict.fromkeys(declared) if 0 <= scale.low < scale.high < full_scale]
    found = next((scale for scale in scales if _fits(colour, scale)), None)
    if found is None and _is_swapped(colour):
        samples = samples.byteswap()
        colour = samples[..., :colours]
        found = next((scale for scale in scales if _fits(colour, scale)), None)
        if found is None:
            raise UnsupportedPicture("16-bit samples with their two bytes swapped; write them in the file's byte order")
    if found is None:
        _check_brightness(colour, full_scale)
        found = Scale(full_scale)
    shown = _levels(colour, found)
    if samples.shape[2] == colours:
        return shown
    alpha = samples[..., colours:]
    opacity = _levels(alpha, found if alpha.max() <= found.high else Scale(full_scale))
    return np.concatenate([shown, opacity], axis=2)


def _levels(samples: NDArray[np.uint16], scale: Scale) -> NDArray[np.uint8]:
    """The 8-bit level of each sample."""
    bits = scale.high.bit_length()
    if scale.low == 0 and scale.high + 1 == 1 << bits and bits >= 8:
        upper = samples >> (bits - 8)
        np.minimum(upper, 255, out=upper)
        return upper.astype(np.uint8)
    shown: NDArray[np.uint8] = _table(scale)[samples]
    return shown


@lru_cache(maxsize=16)
def _table(scale: Scale) -> NDArray[np.uint8]:
    """The 8-bit level of each value that a sample can have."""
    shown = np.rint((np.arange(FULL_SCALE + 1) - scale.low) * (255 / (scale.high - scale.low))).clip(0, 255)
    levels: NDArray[np.uint8] = shown.astype(np.uint8)
    return levels


def _fits(samples: NDArray[np.uint16], scale: Scale) -> bool:
    outside = _count(samples < scale.low) + _count(samples > scale.high)
    return outside <= scale.clipped * samples.size


def _count(chosen: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(chosen))


def _is_swapped(samples: NDArray[np.uint16]) -> bool:
    """Whether the two bytes of each sample must be in the wrong order.

    The lower byte of a picture takes all values, or follows from the upper one (8 bits widened to 16). A lower byte
    that stays small and is independent of the other is the upper byte of a 12-bit or 14-bit picture.
    """
    if samples.max() < 0x8000 or (samples & 0xFF).max() >= 64:
        return False
    pairs = np.unique(samples)
    return len(np.unique(pairs >> 8)) < len(pairs)


def _check_brightness(samples: NDArray[np.uint16], full_scale: int) -> None:
    brightest = int(samples.max())
    dark = _count(samples < ceil(MIN_BRIGHT_PERCENTILE * full_scale))
    if brightest >= MIN_BRIGHTEST * full_scale and dark < BRIGHT_SHARE * samples.size:
        return
    most = int(np.quantile(samples, BRIGHT_SHARE, method="inverted_cdf"))
    raise UnsupportedPicture(
        f"samples far below full scale: the maximum is {brightest} of {full_scale}, 99 % are at most {most}, and the "
        "number of significant bits is not declared; save it with 8 bits a sample or scaled to the full range"
    )
