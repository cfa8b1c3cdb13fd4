"""Conversion of samples of more than 8 bits to 8 bits, by the depth that the file declares.

12-bit cameras often store values in the lower bits of 16; read as 16-bit values, they would be nearly black. The
declared depth is used if the samples fit in it, and the upper 8 of the significant bits are kept. A display range is
scaled to 0..255. Without a declared depth that fits, 16 bits are significant. Then a picture with no values in the
upper half of the range is refused, because its brightness is unknown.
"""

from collections.abc import Sequence
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
_CHUNK_SAMPLES = 1 << 20


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
    counts = _histogram(samples[..., :colours])
    scales = [scale for scale in dict.fromkeys(declared) if 0 <= scale.low < scale.high < full_scale]
    found = next((scale for scale in scales if _fits(counts, scale)), None)
    if found is None and (swapped := _swapped(counts)) is not None:
        found = next((scale for scale in scales if _fits(swapped, scale)), None)
        if found is None:
            raise UnsupportedPicture("16-bit samples with their two bytes swapped; write them in the file's byte order")
        samples = samples.byteswap()
    if found is None:
        _check_brightness(counts, full_scale)
        found = Scale(full_scale)
    colour = _levels(found)[samples[..., :colours]]
    if samples.shape[2] == colours:
        return colour
    alpha = samples[..., colours:]
    opacity = _levels(found if alpha.max() <= found.high else Scale(full_scale))[alpha]
    return np.concatenate([colour, opacity], axis=2)


def _levels(scale: Scale) -> NDArray[np.uint8]:
    """The 8-bit level of each sample value."""
    values = np.arange(FULL_SCALE + 1)
    bits = scale.high.bit_length()
    if scale.low == 0 and scale.high + 1 == 1 << bits and bits >= 8:
        shown = values >> (bits - 8)
    else:
        shown = np.rint((values - scale.low) * (255 / (scale.high - scale.low)))
    return shown.clip(0, 255).astype(np.uint8)


def _histogram(samples: NDArray[np.uint16]) -> NDArray[np.int64]:
    flat = samples.reshape(-1)
    counts = np.zeros(FULL_SCALE + 1, np.int64)
    for start in range(0, flat.size, _CHUNK_SAMPLES):  # bincount needs eight bytes for each sample
        counts += np.bincount(flat[start : start + _CHUNK_SAMPLES], minlength=counts.size)
    return counts


def _fits(counts: NDArray[np.int64], scale: Scale) -> bool:
    outside = counts[: scale.low].sum() + counts[scale.high + 1 :].sum()
    return bool(outside <= scale.clipped * counts.sum())


def _swapped(counts: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The histogram with the bytes of each sample swapped, if they must be in the wrong order; else None.

    The lower byte of a picture takes all values, or follows from the upper one (8 bits widened to 16). A lower byte
    that stays small and is independent of the other is the upper byte of a 12-bit or 14-bit picture.
    """
    high_low = counts.reshape(256, 256)
    widened = bool(((high_low > 0).sum(axis=1) <= 1).all())
    if widened or high_low[:, 64:].any() or not high_low[128:].any():
        return None
    return high_low.T.reshape(-1)


def _check_brightness(counts: NDArray[np.int64], full_scale: int) -> None:
    brightest = int(counts.nonzero()[0][-1])
    most = int(np.searchsorted(counts.cumsum(), BRIGHT_SHARE * counts.sum()))
    if brightest >= MIN_BRIGHTEST * full_scale and most >= MIN_BRIGHT_PERCENTILE * full_scale:
        return
    raise UnsupportedPicture(
        f"samples far below full scale: the maximum is {brightest} of {full_scale}, 99 % are at most {most}, and the "
        "number of significant bits is not declared; save it with 8 bits a sample or scaled to the full range"
    )
