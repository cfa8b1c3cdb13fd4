"""Resizing of RGB pixels to the network's square input with an antialiased bilinear (triangle) filter.

By Pillow; or for common shapes by SIMD code (cykooz.resizer), if it is installed. The results differ in a few values of
a thousand, by one level of 256, and in a few shapes in some values by two (docs/decisions/0008).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

try:
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
except ImportError:  # no wheel for this platform
    SIMD = False
else:
    SIMD = True
    _BILINEAR = ResizeOptions(resize_alg=ResizeAlg.convolution(FilterType.bilinear), use_alpha=False)

Pixels = NDArray[np.uint8]
#: Height and width of a picture in pixels, not always whole ones.
Extent = tuple[float, float]
#: Larger pictures are resized by Pillow, which needs no copy; copying holds the GIL.
MAX_COPIED_PIXELS = 1_000_000


def to_square(pixels: Pixels, size: int, extent: Extent | None = None) -> Pixels:
    """Stretch the whole picture to a square. Thread-safe.

    Args:
        pixels: (H, W, 3) RGB.
        size: S, the side of the square in pixels.
        extent: height and width of the picture, if the last row and column of `pixels` are partly outside it.

    Returns:
        (S, S, 3), C-contiguous. `pixels` itself if it has that size.
    """
    height, width, _ = pixels.shape
    extent = extent or (height, width)
    if (height, width) == (size, size) == extent:
        return pixels
    return _by_simd(pixels, size, extent) if _suits_simd(height, width) else by_pillow(pixels, size, extent)


def picture_to_square(picture: Image.Image, size: int) -> Pixels:
    """`to_square` of a Pillow picture of mode RGB, whose pixels are not copied. Thread-safe."""
    width, height = picture.size
    if width == height == size:
        return np.asarray(picture)
    if not _suits_simd(height, width):
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    narrowed, square = Image.new("RGB", (size, height)), Image.new("RGB", (size, size))
    resizer = Resizer()
    resizer.resize_pil(picture, narrowed, _BILINEAR)
    resizer.resize_pil(narrowed, square, _BILINEAR)
    return np.asarray(square)


def _suits_simd(height: int, width: int) -> bool:
    """Whether the SIMD code is used. Pillow may resize a tall picture vertically first, which rounds differently."""
    return SIMD and height <= width and height * width <= MAX_COPIED_PIXELS


def by_pillow(pixels: Pixels, size: int, extent: Extent | None = None) -> Pixels:
    """`to_square` without SIMD, and the reference for it."""
    box = (0, 0, extent[1], extent[0]) if extent else None
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box))


def _by_simd(pixels: Pixels, size: int, extent: Extent) -> Pixels:
    height, width, _ = pixels.shape
    picture = ImageData(width, height, PixelType.U8x3, pixels.tobytes())
    narrowed, square = ImageData(size, height, PixelType.U8x3), ImageData(size, size, PixelType.U8x3)
    resizer = Resizer()  # one per call: it has buffers that threads must not share
    # Horizontally first, as Pillow does; cykooz.resizer's default is the opposite.
    resizer.resize(picture, narrowed, _filter(extent[1], height) if extent[1] < width else _BILINEAR)
    resizer.resize(narrowed, square, _filter(size, extent[0]) if extent[0] < height else _BILINEAR)
    return np.frombuffer(square.get_buffer(), np.uint8).reshape(size, size, 3)


def _filter(width: float, height: float) -> "ResizeOptions":
    """The filter, applied to the upper left part of this size."""
    options = _BILINEAR.copy()
    options.crop_box = CropBox(0, 0, width, height)
    return options
