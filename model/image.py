"""Picture bytes to pixels: the one decode-and-resize, shared by training's evaluation and by the service.

JPEGs are read by simplejpeg (model/formats/jpeg.py), every other format by Pillow. Knows picture formats, pixel limits
and the colours a person sees. Knows no torch, no model, no HTTP and no files.

What a person sees: grey, palette, CMYK and YCbCr become RGB; of deeper samples the upper 8 of the bits that are
significant count; transparency is laid over white; the colour profile and the orientation are applied, in training
and in serving alike. Refused rather than guessed: floating-point, signed and 32-bit samples, CIELAB, 16-bit samples
of unknown brightness, colour profiles that cannot be read, pictures that are transparent everywhere, and files that
hold several pictures (a z-stack, an animation), of which all but one would be lost without a word. Smaller copies of
the same picture (the levels of a pyramid TIFF) are not further pictures. docs/picture-formats.md lists it all.

A picture is refused when any of its data is missing: no decoder fills the rest with grey. JPEG, BMP and plain TIFF
carry no checksums, so a changed byte inside data that is all there can go unseen.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.formats import jpeg, png, tiff
from model.formats.bmp_webp import read_bmp, read_webp
from model.formats.checks import DEFAULT_MAX_PIXELS, check_line_ends, check_size
from model.formats.color_profile import Transform, in_srgb, transform_to_srgb
from model.formats.display import UPRIGHT, opaque, orientation_of_jpeg, upright
from model.formats.embedded_profile import embedded_profile
from model.formats.errors import (
    ArchiveForPicture,
    PictureError,
    PictureTooLarge,
    UndecodablePicture,
    UnsupportedPicture,
)
from model.formats.file_types import format_of
from model.resize import to_square

__all__ = [
    "ArchiveForPicture",
    "PictureError",
    "PictureTooLarge",
    "UndecodablePicture",
    "UnsupportedPicture",
    "decode",
    "format_of",
]

# One parser a format, called directly: Image.open would try further ones (MPO) and speaks of large pictures by a
# warning, and warning filters belong to the whole process, not to a thread.
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
    """Read one picture and resize it with an antialiased bilinear filter (`model.resize`).

    Safe to call from many threads. The whole picture is stretched to the square; nothing is cropped or padded.

    Args:
        data: a whole JPEG, PNG, BMP, TIFF or WebP file
        size: S, the side of the square in pixels
        max_pixels: width times height that is still decoded; the one limit, for Pillow's own guards Image.open alone

    Returns:
        RGB, uint8, (S, S, 3), C-contiguous, writable and the caller's own.

    Raises:
        UnsupportedPicture: another format, several pictures in one file, or samples that cannot be shown
        PictureTooLarge: more than max_pixels
        UndecodablePicture: empty, cut off, broken, or an extreme shape
    """
    square = to_square(_upright_rgb(bytes(data), max_pixels), size)
    return square if square.flags.writeable else square.copy()


def _upright_rgb(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    found = format_of(data[:512])
    try:
        if found == "JPEG":
            return _jpeg_as_seen(data, max_pixels)
        if found != "PNG":  # whose signature and checksums tell
            check_line_ends(found, data)
        picture, orientation = _READERS[found](data, max_pixels)
        picture = in_srgb(picture, embedded_profile(found, data) or picture.info.get("icc_profile"))
        return np.asarray(upright(opaque(picture), orientation))
    except PictureError:
        raise
    except Exception as error:  # Pillow's parsers raise a dozen kinds, from struct.error to MemoryError
        raise UndecodablePicture(f"the {found} data is broken, cut off or of a layout that is not read") from error


def _jpeg_as_seen(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    frame = jpeg.read_frame(data)
    check_size(frame.width, frame.height, max_pixels)
    layout = jpeg.read_layout(data, frame)
    profile = jpeg.profile(data, layout)  # first: libjpeg complains of a damaged one, too, and less clearly
    pixels = jpeg.decode(data, layout)
    mode = _JPEG_MODES[len(frame.components)]
    transform = transform_to_srgb(profile, mode)
    if transform or mode == "CMYK":
        pixels = _converted(pixels, mode, transform)
    orientation = orientation_of_jpeg(data) if jpeg.has_metadata(layout) else UPRIGHT
    return pixels if orientation == UPRIGHT else np.asarray(upright(Image.fromarray(pixels), orientation))


def _converted(pixels: NDArray[np.uint8], mode: str, transform: Transform | None) -> NDArray[np.uint8]:
    """Decoded samples of a JPEG → RGB, in bands: Pillow's pictures take a third more room than arrays."""
    shown = np.empty((*pixels.shape[:2], 3), np.uint8) if mode == "CMYK" else pixels
    rows = max(1, _BAND_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        picture = Image.fromarray(pixels[top : top + rows], "CMYK" if mode == "CMYK" else "RGB")
        shown[top : top + rows] = np.asarray(transform(picture) if transform else picture.convert("RGB"))
    return shown
