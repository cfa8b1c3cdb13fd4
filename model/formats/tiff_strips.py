"""The pixels of a TIFF directory through Pillow, which hands compressed ones to libtiff."""

from collections.abc import Iterable, Mapping
from io import BytesIO

from PIL.TiffImagePlugin import TiffImageFile

from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.tiff_directory import Directory, classic

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _STRIPS, _SAMPLES, _ROWS, _STRIP_SIZES = 256, 257, 258, 259, 273, 277, 278, 279
_PLANES, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES = 284, 322, 323, 324, 325
_RAW, _SEPARATE = 1, 2


def loaded(main: Directory, tags: Iterable[int], changes: Mapping[int, tuple[int, ...]]) -> TiffImageFile:
    """The picture that these tags of a directory describe, some of them changed.

    Raises:
        UnsupportedPicture: Pillow knows no picture of such samples.
        UndecodablePicture: the strips or tiles lie outside the file or do not cover the picture.
    """
    _check_inside(main)
    try:
        picture = TiffImageFile(BytesIO(classic(main, tags, changes)))
    except SyntaxError as error:
        if str(error) == "unknown pixel mode":
            raise UnsupportedPicture("a TIFF of an unusual pixel layout; save it as 8-bit RGB or grey") from error
        raise
    _check_cover(picture)
    picture.load()
    return picture


def _check_inside(main: Directory) -> None:
    """Refuse strips and tiles that go on behind the end of the file, and more of them than the picture has."""
    offsets = main.numbers(_TILES) or main.numbers(_STRIPS)
    planes = main.number(_SAMPLES, 1) if main.number(_PLANES, 1) == _SEPARATE else 1
    if len(offsets) > planes * _strips_of_plane(main):  # Pillow would decode each of them, over the others
        raise UndecodablePicture("the TIFF data is broken: it has more strips than the picture")
    if main.number(_COMPRESSION, _RAW) == _RAW:
        sizes = _raw_sizes(main, len(offsets))
    else:
        sizes = list(main.numbers(_TILE_SIZES) or main.numbers(_STRIP_SIZES))
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=False)]
    if len(sizes) < len(offsets) or max(ends, default=0) > len(main.data):
        raise UndecodablePicture("the TIFF data is broken or cut off: its strips go on behind the end of the file")


def _strips_of_plane(main: Directory) -> int:
    width, height = main.number(_WIDTH, 0), main.number(_LENGTH, 0)
    if tile := main.number(_TILE_WIDTH, 0):
        return -(-width // tile) * -(-height // max(1, main.number(_TILE_LENGTH, 0)))
    return -(-height // max(1, main.number(_ROWS, height)))


def _raw_sizes(main: Directory, count: int) -> list[int]:
    """The bytes of each uncompressed strip or tile."""
    bits = main.number(_BITS, 1) * (1 if main.number(_PLANES, 1) == _SEPARATE else main.number(_SAMPLES, 1))
    if main.number(_TILE_WIDTH, 0):
        return [(main.number(_TILE_WIDTH, 0) * bits + 7) // 8 * main.number(_TILE_LENGTH, 0)] * count
    row, height = (main.number(_WIDTH, 0) * bits + 7) // 8, main.number(_LENGTH, 0)
    rows = max(1, min(main.number(_ROWS, height), height))
    starts = range(0, height, rows)
    return [row * min(rows, height - starts[strip % len(starts)]) for strip in range(count)]


def _check_cover(picture: TiffImageFile) -> None:
    if picture.tile[0].codec_name == "libtiff":  # which counts for itself
        return
    width, height = picture.size
    planes = len(picture.getbands()) if picture.tag_v2.get(_PLANES, 1) == _SEPARATE else 1
    corners = [tile.extents or (0, 0, width, height) for tile in picture.tile]
    if sum((right - left) * (low - top) for left, top, right, low in corners) < width * height * planes:
        raise UndecodablePicture("the TIFF data is incomplete: its strips do not cover the picture")
