"""RGB pixels to the square that the network takes, by the antialiased bilinear (triangle) filter.

Done by Pillow, or for pictures of common shape by SIMD code (cykooz.resizer) where there is a wheel of it; the two
differ in a few values of a thousand, by one grey level of 256 (docs/decisions/0008). Knows arrays and sizes only.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

try:
    from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
except ImportError:  # no wheel for this platform
    SIMD = False
else:
    SIMD = True
    _BILINEAR = ResizeOptions(resize_alg=ResizeAlg.convolution(FilterType.bilinear), use_alpha=False)

Pixels = NDArray[np.uint8]
#: Larger pictures are Pillow's: its filter needs no copy of them, and copying holds Python's lock.
MAX_COPIED_PIXELS = 1_000_000


def to_square(pixels: Pixels, size: int) -> Pixels:
    """The whole picture stretched to a square; nothing is cropped or padded. Safe to call from many threads.

    Args:
        pixels: (H, W, 3) RGB
        size: S, the side of the square in pixels

    Returns:
        (S, S, 3), C-contiguous. `pixels` itself if it has that size.
    """
    height, width, _ = pixels.shape
    if (height, width) == (size, size):
        return pixels
    # A picture that is taller than wide Pillow may narrow last, and the order shows in what is rounded in between.
    if SIMD and height <= width and height * width <= MAX_COPIED_PIXELS:
        return _by_simd(pixels, size)
    return by_pillow(pixels, size)


def by_pillow(pixels: Pixels, size: int) -> Pixels:
    """What `to_square` does without SIMD, and the reference it is held against."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def _by_simd(pixels: Pixels, size: int) -> Pixels:
    height, width, _ = pixels.shape
    picture = ImageData(width, height, PixelType.U8x3, pixels.tobytes())
    narrowed, square = ImageData(size, height, PixelType.U8x3), ImageData(size, size, PixelType.U8x3)
    resizer = Resizer()  # one for each call: it holds buffers, and threads must not share them
    # First across, then down, as Pillow does; left to itself it goes the other way.
    resizer.resize(picture, narrowed, _BILINEAR)
    resizer.resize(narrowed, square, _BILINEAR)
    return np.frombuffer(square.get_buffer(), np.uint8).reshape(size, size, 3)
