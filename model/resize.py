"""Resizing of RGB pixels to the network's square input with an antialiased bilinear (triangle) filter.

By Pillow; or for common shapes by SIMD code (cykooz.resizer), if it is installed. The results differ in a few values of
a thousand, by one level of 256 (docs/decisions/0008).
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
#: Larger pictures are resized by Pillow, which needs no copy; copying holds the GIL.
MAX_COPIED_PIXELS = 1_000_000


def to_square(pixels: Pixels, size: int) -> Pixels:
    """Stretch the whole picture to a square. Thread-safe.

    Args:
        pixels: (H, W, 3) RGB.
        size: S, the side of the square in pixels.

    Returns:
        (S, S, 3), C-contiguous. `pixels` itself if it has that size.
    """
    height, width, _ = pixels.shape
    if (height, width) == (size, size):
        return pixels
    # Pillow may resize a tall picture vertically first, which rounds differently.
    if SIMD and height <= width and height * width <= MAX_COPIED_PIXELS:
        return _by_simd(pixels, size)
    return by_pillow(pixels, size)


def by_pillow(pixels: Pixels, size: int) -> Pixels:
    """`to_square` without SIMD, and the reference for it."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def _by_simd(pixels: Pixels, size: int) -> Pixels:
    height, width, _ = pixels.shape
    picture = ImageData(width, height, PixelType.U8x3, pixels.tobytes())
    narrowed, square = ImageData(size, height, PixelType.U8x3), ImageData(size, size, PixelType.U8x3)
    resizer = Resizer()  # one per call: it has buffers that threads must not share
    # Horizontally first, as Pillow does; cykooz.resizer's default is the opposite.
    resizer.resize(picture, narrowed, _BILINEAR)
    resizer.resize(narrowed, square, _BILINEAR)
    return np.frombuffer(square.get_buffer(), np.uint8).reshape(size, size, 3)
