"""The JPEG streams in a TIFF's strips or tiles (TIFF Technical Note 2): checked as strictly as a JPEG file.

libtiff decodes the pixels; it passes over libjpeg's warnings, and fills what a stream leaves empty with what it has at
hand. So each stream is decoded here once before, for its warnings alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

from model.formats import jpeg
from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.tiff_directory import Directory

_WIDTH, _LENGTH, _PHOTOMETRIC, _STRIPS, _ROWS, _STRIP_SIZES, _PLANES = 256, 257, 262, 273, 278, 279, 284
_TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES, _TABLES = 322, 323, 324, 325, 347
_SEPARATE, _YCBCR = 2, 6
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"


class Stream(NamedTuple):
    """Where a stream lies in the file, and how many pixels of the picture it holds; the last strip may have more."""

    at: int
    size: int
    width: int
    rows: int
    most_rows: int


def check_streams(main: Directory) -> None:
    """Refuse a picture of which any stream is cut off, damaged, or not as large as its strip or tile.

    Raises:
        UnsupportedPicture: a kind of JPEG that is not read here.
        UndecodablePicture: a stream is cut off, damaged or of another size.
    """
    if main.number(_PLANES, 1) == _SEPARATE and main.number(_PHOTOMETRIC, 0) == _YCBCR:
        raise UnsupportedPicture("a TIFF of JPEG-compressed YCbCr in separate planes; save it interleaved")
    tables = main.raw(_TABLES)
    tables = tables[2 : tables.rfind(_EOI)] if tables.startswith(_SOI) else b""
    streams = list(_streams(main))
    if sum(stream.size for stream in streams) > len(main.data):  # each is copied: a small file could cost terabytes
        raise UndecodablePicture("the TIFF data is damaged: its strips lie upon each other")
    for stream in streams:
        data = main.data[stream.at : stream.at + stream.size]
        if not data.startswith(_SOI):
            raise UndecodablePicture("the TIFF data is damaged: a strip is no JPEG stream")
        _check_stream(_SOI + tables + data[2:], stream)


def _check_stream(data: bytes, stream: Stream) -> None:
    frame = jpeg.read_frame(data)
    if frame.width != stream.width or not stream.rows <= frame.height <= stream.most_rows:
        raise UndecodablePicture(
            f"the TIFF data is damaged: a JPEG stream of {frame.width} x {frame.height} pixels, where"
            f" {stream.width} x {stream.rows} belong"
        )
    jpeg.decode(data, jpeg.read_layout(data, frame))


def _streams(main: Directory) -> Iterator[Stream]:
    width, height = main.number(_WIDTH, 0), main.number(_LENGTH, 0)
    if offsets := main.numbers(_TILES):
        across, down = main.number(_TILE_WIDTH, 0), main.number(_TILE_LENGTH, 0)
        for at, size in zip(offsets, main.numbers(_TILE_SIZES), strict=False):
            yield Stream(at, size, across, down, down)
        return
    most = max(1, min(main.number(_ROWS, height), height))
    starts = range(0, height, most)  # of one plane
    for strip, (at, size) in enumerate(zip(main.numbers(_STRIPS), main.numbers(_STRIP_SIZES), strict=False)):
        rows = min(most, height - starts[strip % len(starts)])
        yield Stream(at, size, width, rows, most)
