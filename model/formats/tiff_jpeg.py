"""JPEG streams in a TIFF's strips or tiles (TIFF Technical Note 2), checked as strictly as a JPEG file.

libtiff ignores the warnings of libjpeg, and leaves arbitrary bytes where a stream ends early. So each is decoded here.
Where libjpeg would take the colours for others than the TIFF says, libtiff decodes the pixels once more.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.formats import jpeg
from model.formats.errors import UndecodablePicture, UnsupportedPicture
from model.formats.tiff_directory import Directory, Tag

_SEPARATE, _RGB, _YCBCR = 2, 2, 6
_RGB_IDENTIFIERS = tuple(b"RGB")
_JFIF, _ADOBE = 0xE0, 0xEE  # segments that tell libjpeg the colours
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"


class Stream(NamedTuple):
    """Offset and size of a stream in the file, and where its pixels are. The last strip may have up to `most_rows`."""

    at: int
    size: int
    top: int
    left: int
    width: int
    rows: int
    most_rows: int


def read_streams(main: Directory) -> NDArray[np.uint8] | None:
    """Check that every stream is complete, undamaged and as large as its strip or tile.

    Returns:
        The pixels, RGB (H, W, 3); None if libtiff has to decode them.

    Raises:
        UnsupportedPicture: a kind of JPEG that is not supported.
        UndecodablePicture: a stream is cut off, damaged or of another size.
    """
    photometric = main.number(Tag.PHOTOMETRIC, 0)
    planes = main.number(Tag.PLANAR_CONFIGURATION, 1) == _SEPARATE
    if planes and photometric == _YCBCR:
        raise UnsupportedPicture("a TIFF of JPEG-compressed YCbCr in separate planes; save it interleaved")
    tables = main.raw(Tag.JPEG_TABLES)
    tables = tables[2 : tables.rfind(_EOI)] if tables.startswith(_SOI) else b""
    streams = list(_streams(main))
    if sum(stream.size for stream in streams) > len(main.data):  # each is copied, so a small file could need terabytes
        raise UndecodablePicture("the TIFF data is damaged: its strips overlap")
    pixels = None if planes else _empty(main, streams)
    for stream in streams:
        data = main.data[stream.at : stream.at + stream.size]
        if not data.startswith(_SOI):
            raise UndecodablePicture("the TIFF data is damaged: a strip is not a JPEG stream")
        data = _SOI + tables + data[2:]
        layout = _layout(data, stream)
        if pixels is None or _colours(layout) != photometric:
            pixels = None
            jpeg.decode(data, layout, scale=1)  # for its warnings, not for its pixels
        else:
            place = pixels[stream.top : stream.top + stream.rows, stream.left : stream.left + stream.width]
            place[:] = jpeg.decode(data, layout)[: place.shape[0], : place.shape[1]]
    return pixels


def _empty(main: Directory, streams: list[Stream]) -> NDArray[np.uint8] | None:
    """Memory for the pixels of three samples; None if there are others, or streams are missing or too many."""
    width, height = main.number(Tag.IMAGE_WIDTH, 0), main.number(Tag.IMAGE_LENGTH, 0)
    covered = sum(
        max(0, min(stream.rows, height - stream.top)) * max(0, min(stream.width, width - stream.left))
        for stream in streams
    )
    inside = all(stream.top < height and stream.left < width for stream in streams)
    if main.number(Tag.SAMPLES_PER_PIXEL, 1) != 3 or covered != width * height or not inside:
        return None
    return np.empty((height, width, 3), np.uint8)


def _colours(layout: jpeg.Layout) -> int | None:
    """The PhotometricInterpretation that libjpeg assumes for a stream; None if it is not RGB or YCbCr, or declared."""
    identifiers = tuple(component.identifier for component in layout.frame.components)
    if len(identifiers) != 3 or any(segment.marker in (_JFIF, _ADOBE) for segment in layout.segments):
        return None
    return _RGB if identifiers == _RGB_IDENTIFIERS else _YCBCR


def _layout(data: bytes, stream: Stream) -> jpeg.Layout:
    def check_size(frame: jpeg.Frame) -> None:
        if frame.width != stream.width or not stream.rows <= frame.height <= stream.most_rows:
            raise UndecodablePicture(
                f"the TIFF data is damaged: a JPEG stream of {frame.width} x {frame.height} pixels instead of"
                f" {stream.width} x {stream.rows}"
            )

    return jpeg.read_layout(data, check_size)


def _streams(main: Directory) -> Iterator[Stream]:
    width, height = main.number(Tag.IMAGE_WIDTH, 0), main.number(Tag.IMAGE_LENGTH, 0)
    if offsets := main.numbers(Tag.TILE_OFFSETS):
        across, down = main.number(Tag.TILE_WIDTH, 0), main.number(Tag.TILE_LENGTH, 0)
        columns = -(-width // max(1, across))
        for tile, (at, size) in enumerate(zip(offsets, main.numbers(Tag.TILE_BYTE_COUNTS), strict=False)):
            row, column = divmod(tile, columns)
            yield Stream(at, size, row * down, column * across, across, down, down)
        return
    most = max(1, min(main.number(Tag.ROWS_PER_STRIP, height), height))
    starts = range(0, height, most)  # of one plane
    strips = zip(main.numbers(Tag.STRIP_OFFSETS), main.numbers(Tag.STRIP_BYTE_COUNTS), strict=False)
    for strip, (at, size) in enumerate(strips):
        top = starts[strip % len(starts)]
        yield Stream(at, size, top, 0, width, min(most, height - top), most)
