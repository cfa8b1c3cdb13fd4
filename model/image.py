"""Picture bytes to pixels: the one decode-and-resize, shared by training's evaluation and by the service.

JPEGs are read by simplejpeg (model/formats/jpeg.py), every other format by Pillow. Knows picture formats, pixel limits
and the colours a person sees. Knows no torch, no model, no HTTP and no files.

What a person sees: grey, palette, CMYK and YCbCr become RGB; of 16 (or 12) bits a sample the upper 8 count;
transparency is laid over white; the EXIF orientation is applied. Colour profiles are not applied, in training and in
serving alike. Refused rather than guessed: floating-point, signed and 32-bit samples, CIELAB, and files that hold
several pictures (a z-stack, an animation), of which all but one would be lost without a word. Smaller copies of the
same picture (the levels of a pyramid TIFF, a camera's preview) are not further pictures.

A picture is refused when any of its data is missing: no decoder fills the rest with grey. JPEG, BMP and plain TIFF
carry no checksums, so a changed byte inside data that is all there can go unseen.
"""

from collections.abc import Callable
from io import BytesIO
from itertools import count

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.formats import jpeg
from model.formats.errors import (
    ArchiveForPicture,
    PictureError,
    PictureTooLarge,
    UndecodablePicture,
    UnsupportedPicture,
)
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

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
DEFAULT_MAX_PIXELS = 16_000_000
#: A picture of one cell is neither a line nor a dot; stretched to a square such a shape would show nothing.
MIN_SIDE_PIXELS = 8
MAX_ASPECT_RATIO = 10
#: A pyramid of 2^16 px has fewer levels; the limit ends a walk over a forged chain of TIFF directories.
MAX_TIFF_LEVELS = 16

# One parser a format, called directly: Image.open would try further ones (MPO) and speaks of large pictures by a
# warning, and warning filters belong to the whole process, not to a thread.
_READERS: dict[str, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
}
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_SUBFILE_TYPE, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANES = 254, 258, 262, 284
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH, _TIFF_SAMPLE_FORMAT = 322, 323, 339
# Leaves out what no camera writes today and what libtiff decodes least safely (old-style JPEG, SGI Log, ThunderScan).
_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg", "zstd", "group4")


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
    found = format_of(data[:12])
    if found == "WEBP":  # its parser allocates the canvas on opening, so the size is read before
        _check_size(*_webp_canvas(data[:30]), max_pixels)
    try:
        if found == "JPEG":
            return _jpeg_as_seen(data, max_pixels)
        picture = _READERS[found](BytesIO(data))
        _check_size(*picture.size, max_pixels)
        _check_kind(picture, max_pixels)
        return np.asarray(_as_seen(picture))
    except PictureError:
        raise
    except Exception as error:  # Pillow's parsers raise a dozen kinds, from struct.error to MemoryError
        raise UndecodablePicture(f"the {found} data is broken, cut off or of a layout that is not read") from error


def format_of(head: bytes) -> str:
    """Which of FORMATS a file is, by its first 16 bytes; its name says nothing.

    Raises:
        UnsupportedPicture: none of them.
        UndecodablePicture: nothing at all.
    """
    if not head:
        raise UndecodablePicture("the picture is empty (0 bytes)")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    for magic, found in _MAGIC.items():
        if head.startswith(magic):
            return found
    if head.startswith(b"PK\x03\x04"):
        raise ArchiveForPicture("a ZIP archive, where one picture belongs")
    raise UnsupportedPicture(f"not a picture type that is read here ({', '.join(FORMATS)})")


def _webp_canvas(head: bytes) -> tuple[int, int]:
    """Width and height by the first chunk (WebP container specification, RFC 9649 sections 2.5 to 2.7)."""
    chunk = head[12:16]
    if len(head) == 30 and chunk == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if len(head) == 30 and chunk == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    if len(head) >= 25 and chunk == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise UndecodablePicture("the WEBP data is broken or cut off")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PictureTooLarge(f"{width} x {height} pixels; at most {max_pixels} are read")
    if min(width, height) < MIN_SIDE_PIXELS:
        raise UndecodablePicture(f"{width} x {height} pixels; each side must have at least {MIN_SIDE_PIXELS}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UndecodablePicture(f"{width} x {height} pixels; the sides may differ by {MAX_ASPECT_RATIO} times at most")


def _check_kind(picture: ImageFile.ImageFile, max_pixels: int) -> None:
    """Refuse, before decoding, what would come out as something other than the one picture a person sees."""
    if isinstance(picture, TiffImageFile):
        _check_tiff_samples(picture)
        _check_tiff_pages(picture)
        _check_tiff_tiles(picture, max_pixels)
    elif isinstance(picture, BmpImageFile):
        if picture.tile[0].codec_name != "raw":  # run lengths are decoded in Python, for seconds, under the GIL
            raise UnsupportedPicture("a run-length encoded BMP; send a plain one")
    elif getattr(picture, "n_frames", 1) > 1:
        raise UnsupportedPicture("an animation: which of its frames is the cell cannot be told; send one picture")
    if picture.mode not in _RGB_OF:
        raise UnsupportedPicture(f"samples of mode {picture.mode} have no agreed way to be shown; send 8-bit RGB")


def _check_tiff_samples(picture: TiffImageFile) -> None:
    tags = picture.tag_v2
    if picture.info["compression"] not in _TIFF_COMPRESSIONS:
        raise UnsupportedPicture(f"a TIFF compressed by {picture.info['compression']}; send LZW, deflate or plain")
    if set(tags.get(_TIFF_SAMPLE_FORMAT, (1,))) != {1}:
        raise UnsupportedPicture("a TIFF of signed or floating-point samples; send unsigned 8 or 16 bits")
    if tags.get(_TIFF_PLANES, 1) == 2 and max(tags.get(_TIFF_BITS, (1,))) > 8:
        raise UnsupportedPicture("a TIFF with 16-bit colours in separate planes; send them interleaved")


def _check_tiff_pages(picture: TiffImageFile) -> None:
    try:
        for page in count(1):
            picture.seek(page)
            if page > MAX_TIFF_LEVELS or not picture.tag_v2.get(_TIFF_SUBFILE_TYPE, 0) & 1:
                raise UnsupportedPicture("a TIFF of several pages; send each page as a picture of its own")
    except EOFError:
        picture.seek(0)


def _check_tiff_tiles(picture: TiffImageFile, max_pixels: int) -> None:
    width, height = picture.size
    tile_pixels = picture.tag_v2.get(_TIFF_TILE_WIDTH, 1) * picture.tag_v2.get(_TIFF_TILE_LENGTH, 1)
    if tile_pixels > max_pixels:  # a tile is decompressed whole, however little of it the picture shows
        raise PictureTooLarge(f"TIFF tiles of {tile_pixels} pixels; at most {max_pixels} are read")
    if picture.tile[0].codec_name != "libtiff":  # libtiff counts for itself
        planes = len(picture.getbands()) if picture.tag_v2.get(_TIFF_PLANES, 1) == 2 else 1
        corners = [tile.extents or (0, 0, width, height) for tile in picture.tile]
        if sum((right - left) * (low - top) for left, top, right, low in corners) < width * height * planes:
            raise UndecodablePicture("the TIFF data is incomplete: its strips do not cover the picture")


def _jpeg_as_seen(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    frame = jpeg.read_frame(data)
    _check_size(frame.width, frame.height, max_pixels)
    layout = jpeg.read_layout(data)
    pixels = jpeg.decode(data, layout)
    if len(frame.components) == 4:
        pixels = np.asarray(Image.fromarray(pixels, "CMYK").convert("RGB"))
    orientation = _orientation(JpegImageFile(BytesIO(data))) if jpeg.has_metadata(layout) else 1
    if orientation not in _UPRIGHT:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(_UPRIGHT[orientation]))


def _orientation(picture: Image.Image) -> int:
    return picture.getexif().get(ExifTags.Base.Orientation, 1)  # type: ignore[no-any-return]


def _as_seen(picture: ImageFile.ImageFile) -> Image.Image:
    picture.load()  # first: a PNG may say it behind its pixels
    orientation = _orientation(picture)
    shown = _RGB_OF[picture.mode](picture)
    return shown.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else shown


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        return _over_white(picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _over_white(picture: Image.Image) -> Image.Image:
    layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    samples = np.asarray(picture)
    bits = 16
    if isinstance(picture, TiffImageFile):
        bits = picture.tag_v2[_TIFF_BITS][0]
        if picture.tag_v2.get(_TIFF_PHOTOMETRIC, 0) == 0:  # white is zero; Pillow inverts 8-bit samples only
            samples = ~samples
    grey = Image.fromarray((samples >> (bits - 8)).astype(np.uint8)).convert("RGB")
    transparent = picture.info.get("transparency")
    if transparent is not None:
        grey.paste("white", mask=Image.fromarray(samples == transparent))
    return grey


_RGB_OF: dict[str, Callable[[Image.Image], Image.Image]] = {
    **dict.fromkeys(("RGB", "L", "1", "P", "CMYK", "YCbCr", "LA", "La", "PA", "RGBA"), _opaque),
    **dict.fromkeys(("I;16", "I;16B"), _from_16_bit),
}
