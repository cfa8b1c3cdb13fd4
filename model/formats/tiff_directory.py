"""TIFF directories: the tags of each picture in a file (TIFF 6.0, BigTIFF), and writing a file with one directory.

Both byte orders are supported. All sizes are limited by the length of the file. A tag with values outside the file is
an error only when it is read, so unused metadata may be cut off.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from model.formats.errors import UndecodablePicture, UnsupportedPicture

#: A pyramid of 2^16 px has fewer levels. The limit protects against a forged chain of directories.
MAX_DIRECTORIES = 17
#: Programs write up to 100 tags.
MAX_TAGS = 1024
#: More than the tiles of 16 million pixels in 5 planes with the smallest size, 16 x 16.
MAX_VALUES = 400_000

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_SHORT, _LONG = 3, 4


class Tag(IntEnum):
    """TIFF tags by their names in TIFF 6.0 and its extensions."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    IMAGE_DESCRIPTION = 270
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    MIN_SAMPLE_VALUE = 280
    MAX_SAMPLE_VALUE = 281
    PLANAR_CONFIGURATION = 284
    PREDICTOR = 317
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SUB_IFDS = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    XMP = 700
    IMAGE_DEPTH = 32997
    METAMORPH_UIC2 = 33629
    EXIF_IFD = 34665
    ICC_PROFILE = 34675
    GPS_IFD = 34853
    INTEROPERABILITY_IFD = 40965
    MICRO_MANAGER = 51123
    NDPI = 65420


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag: the type and number of its values, and their offset in the file."""

    kind: int
    count: int
    at: int

    @property
    def size(self) -> int:
        return _SIZES[self.kind] * self.count


class Directory:
    """The tags of one picture."""

    def __init__(self, data: bytes, order: str, entries: Mapping[int, Entry], following: int) -> None:
        self.data, self.order, self.entries, self.following = data, order, entries, following
        self._numbers: dict[int, tuple[int, ...]] = {}  # read before

    def raw(self, tag: int) -> bytes:
        """The bytes of a tag's values; empty if it is absent.

        Raises:
            UndecodablePicture: they are outside the file.
        """
        entry = self.entries.get(tag)
        if entry is None:
            return b""
        if entry.at + entry.size > len(self.data):
            raise UndecodablePicture("the TIFF data is damaged or cut off: a tag is outside the file")
        return self.data[entry.at : entry.at + entry.size]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """A tag's integers; empty if it is absent or of another type.

        Raises:
            UndecodablePicture: more values than a picture can need.
        """
        if tag in self._numbers:
            return self._numbers[tag]
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _WHOLE_NUMBERS:
            return ()
        if entry.count > MAX_VALUES:
            raise UndecodablePicture(f"a TIFF tag of {entry.count} values; at most {MAX_VALUES} are allowed")
        found = struct.unpack(f"{self.order}{entry.count}{_WHOLE_NUMBERS[entry.kind]}", self.raw(tag))
        self._numbers[tag] = found
        return found

    def number(self, tag: int, default: int) -> int:
        """A tag's first integer."""
        return next(iter(self.numbers(tag)), default)

    def text(self, tag: int) -> str:
        """A tag's text, at most 1 MB."""
        return self.raw(tag)[: 1 << 20].rstrip(b"\0").decode("utf-8", "replace")


def directories(data: bytes) -> list[Directory]:
    """The chain of directories, in file order.

    Raises:
        UndecodablePicture: a directory is cut off or outside the file.
        UnsupportedPicture: too many directories.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    at = _number(data, order, "Q", 8) if big else _number(data, order, "I", 4)
    found: dict[int, Directory] = {}
    while at and at not in found:
        if len(found) == MAX_DIRECTORIES:
            raise UnsupportedPicture("a TIFF of several pages; send each page as a separate picture")
        found[at] = _directory(data, order, big, at)
        at = found[at].following
    if not found:
        raise UndecodablePicture("the TIFF data is damaged: it has no directory")
    return list(found.values())


def directory_at(main: Directory, at: int) -> Directory:
    """The directory at an offset that a tag gives."""
    big = struct.unpack_from(main.order + "H", main.data, 2)[0] == 43
    return _directory(main.data, main.order, big, at)


def _number(data: bytes, order: str, form: str, at: int) -> int:
    try:
        return int(struct.unpack_from(order + form, data, at)[0])
    except (struct.error, OverflowError) as error:
        raise UndecodablePicture("the TIFF data is damaged or cut off: a directory is outside the file") from error


def _directory(data: bytes, order: str, big: bool, at: int) -> Directory:
    count = _number(data, order, "Q" if big else "H", at)
    first, step = (at + 8, 20) if big else (at + 2, 12)
    if count > MAX_TAGS:
        raise UndecodablePicture(f"a TIFF directory of {count} tags; at most {MAX_TAGS} are allowed")
    following = _number(data, order, "Q" if big else "I", first + step * count)
    entries = dict(_entries(data, order, big, range(first, first + step * count, step)))
    return Directory(data, order, entries, following)


def _entries(data: bytes, order: str, big: bool, places: Iterable[int]) -> Iterator[tuple[int, Entry]]:
    header, pointer, inline = ("HHQ", "Q", 8) if big else ("HHI", "I", 4)
    for place in places:
        tag, kind, count = struct.unpack_from(order + header, data, place)
        size = _SIZES.get(kind, 0) * count
        value = place + 4 + inline
        at = value if size <= inline else _number(data, order, pointer, value)
        if size:
            yield tag, Entry(kind, count, at)


def classic(main: Directory, tags: Iterable[int], changes: Mapping[int, tuple[int, ...]]) -> bytes:
    """A classic TIFF with one directory of these tags, some with new values.

    The pixels stay at their offsets; the new directory is appended to the old file.
    """
    data, order = main.data, main.order
    written = dict(changes)
    stored: dict[int, tuple[int, int, bytes]] = {}  # values of more than 4 bytes are stored by their offset
    for tag in set(tags) & main.entries.keys() - written.keys():
        entry = main.entries[tag]
        if entry.kind in _WHOLE_NUMBERS and _SIZES[entry.kind] == 8:  # BigTIFF's own
            written[tag] = main.numbers(tag)
        else:
            value = main.raw(tag)
            stored[tag] = entry.kind, entry.count, value if len(value) <= 4 else struct.pack(order + "I", entry.at)
    directory_at = len(data) + len(data) % 2
    behind_at = directory_at + 2 + 12 * (len(stored) + len(written)) + 4
    behind = b""
    for tag, numbers in written.items():
        kind = _SHORT if max(numbers) < 1 << 16 else _LONG
        value = struct.pack(f"{order}{len(numbers)}{_WHOLE_NUMBERS[kind]}", *numbers)
        if len(value) > 4:
            value, behind = struct.pack(order + "I", behind_at + len(behind)), behind + value
        stored[tag] = kind, len(numbers), value
    lines = (
        struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
        for tag, (kind, count, value) in sorted(stored.items())
    )
    head = data[:2] + struct.pack(order + "HI", 42, directory_at)
    count_of_tags = struct.pack(order + "H", len(stored))
    return b"".join((head, memoryview(data)[8:], bytes(len(data) % 2), count_of_tags, *lines, bytes(4), behind))
