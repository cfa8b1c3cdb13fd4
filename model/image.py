"""Decoding and resizing of pictures, the same in training and serving.

simplejpeg decodes JPEG (model/formats/jpeg.py), Pillow the other formats. The result is what a viewer shows: grey,
palette, CMYK and YCbCr become RGB; of deeper samples the upper 8 significant bits are kept; transparency becomes white;
colour profile and orientation are applied.

Refused instead of guessed: floating-point, signed and 32-bit samples, CIELAB, 16-bit samples of unknown brightness,
unreadable colour profiles, completely transparent pictures, and files with several pictures (a z-stack, an animation).
Smaller copies of the same picture, as in a pyramid TIFF, are allowed. See docs/picture-formats.md.

A picture with missing data is refused. JPEG, BMP and plain TIFF have no checksums, so a changed byte in complete data
can go unnoticed.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.formats import jpeg, png, tiff
from model.formats.bmp_webp import read_bmp, read_webp
from model.formats.checks import DEFAULT_MAX_PIXELS, check_line_ends, check_size
from model.formats.color_profile import Transform, in_srgb, transform_to_srgb
from model.formats.display import UPRIGHT, opaque, orientation_of_metadata, upright
from model.formats.embedded_profile import embedded_profile
from model.formats.errors import (
    ArchiveForPicture,
    PictureError,
    PictureTooLarge,
    UndecodablePicture,
    UnsupportedPicture,
)
from model.formats.file_types import format_of
from model.resize import picture_to_square, to_square

__all__ = [
    "ArchiveForPicture",
    "PictureError",
    "PictureTooLarge",
    "UndecodablePicture",
    "UnsupportedPicture",
    "decode",
    "format_of",
]

# One parser for each format, called directly. Image.open would try others (MPO), and reports large pictures by a
# warning, whose filters are global to the process.
_READERS: dict[str, Callable[[bytes, int], tuple[Image.Image, int]]] = {
    "PNG": png.read,
    "BMP": read_bmp,
    "TIFF": tiff.read,
    "WEBP": read_webp,
}
_BAND_PIXELS = 1 << 20
_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}


def decode(
    data: bytes | bytearray | memoryview, size: int, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode a picture and resize it with an antialiased bilinear filter (`model.resize`). Thread-safe.

    The whole picture is stretched to the square; nothing is cropped or padded.

    Args:
        data: a JPEG, PNG, BMP, TIFF or WebP file.
        size: S, the side of the square in pixels.
        max_pixels: largest width times height. It replaces Pillow's own limit, which only Image.open checks.

    Returns:
        RGB, uint8, (S, S, 3), C-contiguous, writable.

    Raises:
        UnsupportedPicture: another format, several pictures in one file, or unsupported samples.
        PictureTooLarge: more than max_pixels.
        UndecodablePicture: empty, cut off, damaged, or of an extreme shape.
    """
    data = bytes(data)
    found = format_of(data[:512])
    try:
        square = _jpeg(data, size, max_pixels) if found == "JPEG" else _other(found, data, size, max_pixels)
    except PictureError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds, from struct.error to MemoryError
        raise UndecodablePicture(f"the {found} data is damaged, cut off or of an unsupported layout") from error
    return square if square.flags.writeable else square.copy()


def _other(found: str, data: bytes, size: int, max_pixels: int) -> NDArray[np.uint8]:
    if found != "PNG":  # PNG has a signature and checksums that show it
        check_line_ends(found, data)
    picture, orientation = _READERS[found](data, max_pixels)
    picture = in_srgb(picture, embedded_profile(found, data) or picture.info.get("icc_profile"))
    return picture_to_square(upright(opaque(picture), orientation), size)


def _jpeg(data: bytes, size: int, max_pixels: int) -> NDArray[np.uint8]:
    """A large JPEG is decoded at a smaller scale, in less time and memory (docs/decisions/0019).

    The filter is as wide as two pixels of the square at every scale, so the pixels are almost the same. The orientation
    comes last, when the picture is small.
    """
    layout = jpeg.read_layout(data, lambda frame: check_size(frame.width, frame.height, max_pixels))
    frame = layout.frame
    profile = jpeg.profile(data, layout)  # before decoding: libjpeg's message about a damaged one is less clear
    scale = jpeg.scale_for(frame, size)
    pixels = jpeg.decode(data, layout, scale)
    mode = _JPEG_MODES[len(frame.components)]
    transform = transform_to_srgb(profile, mode)
    if transform or mode == "CMYK":
        pixels = _converted(pixels, mode, transform)
    square = to_square(pixels, size, (frame.height * scale / 8, frame.width * scale / 8))
    metadata = jpeg.metadata(data, layout)
    orientation = orientation_of_metadata(metadata) if metadata else UPRIGHT
    return square if orientation == UPRIGHT else np.asarray(upright(Image.fromarray(square), orientation))


def _converted(pixels: NDArray[np.uint8], mode: str, transform: Transform | None) -> NDArray[np.uint8]:
    """Convert decoded samples of a JPEG to RGB, in bands: Pillow's pictures need a third more memory than arrays."""
    shown = np.empty((*pixels.shape[:2], 3), np.uint8) if mode == "CMYK" else pixels
    rows = max(1, _BAND_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        picture = Image.fromarray(pixels[top : top + rows], "CMYK" if mode == "CMYK" else "RGB")
        shown[top : top + rows] = np.asarray(transform(picture) if transform else picture.convert("RGB"))
    return shown
