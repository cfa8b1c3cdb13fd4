"""Checks of the JPEG streams in a TIFF's strips or tiles (TIFF Technical Note 2), as strict as those of a JPEG file.

libtiff decodes the pixels, ignores libjpeg's warnings, and leaves arbitrary bytes where a stream ends early. So each
stream is decoded here first, to find its warnings.
"""

from collections.abc import Iterator
from typing import NamedTuple

from model.formats import jpeg
from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.tiff_directory import Directory, Tag

_SEPARATE, _YCBCR = 2, 6
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"


class Stream(NamedTuple):
    """Offset and size of a stream in the file, and its pixels. The last strip may have up to `most_rows`."""

    at: int
    size: int
    width: int
    rows: int
    most_rows: int


def check_streams(main: Directory) -> None:
    """Check that every stream is complete, undamaged and as large as its strip or tile.

    Raises:
        UnsupportedPicture: a kind of JPEG that is not supported.
        UndecodablePicture: a stream is cut off, damaged or of another size.
    """
    if main.number(Tag.PLANAR_CONFIGURATION, 1) == _SEPARATE and main.number(Tag.PHOTOMETRIC, 0) == _YCBCR:
        raise UnsupportedPicture("a TIFF of JPEG-compressed YCbCr in separate planes; save it interleaved")
    tables = main.raw(Tag.JPEG_TABLES)
    tables = tables[2 : tables.rfind(_EOI)] if tables.startswith(_SOI) else b""
    streams = list(_streams(main))
    if sum(stream.size for stream in streams) > len(main.data):  # each is copied, so a small file could need terabytes
        raise UndecodablePicture("the TIFF data is damaged: its strips overlap")
    for stream in streams:
        data = main.data[stream.at : stream.at + stream.size]
        if not data.startswith(_SOI):
            raise UndecodablePicture("the TIFF data is damaged: a strip is not a JPEG stream")
        _check_stream(_SOI + tables + data[2:], stream)


def _check_stream(data: bytes, stream: Stream) -> None:
    def check_size(frame: jpeg.Frame) -> None:
        if frame.width != stream.width or not stream.rows <= frame.height <= stream.most_rows:
            raise UndecodablePicture(
                f"the TIFF data is damaged: a JPEG stream of {frame.width} x {frame.height} pixels instead of"
                f" {stream.width} x {stream.rows}"
            )

    jpeg.decode(data, jpeg.read_layout(data, check_size), scale=1)  # for its warnings, not for its pixels


def _streams(main: Directory) -> Iterator[Stream]:
    width, height = main.number(Tag.IMAGE_WIDTH, 0), main.number(Tag.IMAGE_LENGTH, 0)
    if offsets := main.numbers(Tag.TILE_OFFSETS):
        across, down = main.number(Tag.TILE_WIDTH, 0), main.number(Tag.TILE_LENGTH, 0)
        for at, size in zip(offsets, main.numbers(Tag.TILE_BYTE_COUNTS), strict=False):
            yield Stream(at, size, across, down, down)
        return
    most = max(1, min(main.number(Tag.ROWS_PER_STRIP, height), height))
    starts = range(0, height, most)  # of one plane
    strips = zip(main.numbers(Tag.STRIP_OFFSETS), main.numbers(Tag.STRIP_BYTE_COUNTS), strict=False)
    for strip, (at, size) in enumerate(strips):
        rows = min(most, height - starts[strip % len(starts)])
        yield Stream(at, size, width, rows, most)
