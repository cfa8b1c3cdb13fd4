"""Entries of a ZIP in memory: names, places and bytes, with every byte of the file accounted for.

Once, here, instead of by `zipfile`: that takes whichever end record stands last, passes over bytes that no entry claims
(a second archive, entries that the directory does not list) and makes an object of every entry before one can be
counted. Two parsers of one archive would disagree about hostile ones. Deflate is zlib's. Numbers of sections are those
of PKWARE's APPNOTE 6.3.10.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_LOCAL, _ENTRY, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_ZIP64_END, _ZIP64_LOCATOR, _DESCRIPTOR = b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08"
#: Before the first entry of an archive that may have had several parts and has one (8.5.3, 8.5.4).
_ONE_PART = (_DESCRIPTOR, b"PK00")
_LOCAL_FIELDS = struct.Struct("<4s2x2H4xLLLHH")
_ENTRY_FIELDS = struct.Struct("<4s4x2H4xLLLHHHH6xL")
_END_FIELDS = struct.Struct("<4sHHHHLLH")
_ZIP64_END_FIELDS = struct.Struct("<4sQ4xLLQQQQ")
_ZIP64_LOCATOR_FIELDS = struct.Struct("<4sLQL")
_MAX_COMMENT_BYTES = 0xFFFF
_MAX_EXTRA_FIELDS = 32
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075
_ENCRYPTED, _WITH_DESCRIPTOR, _UTF8 = 1 << 0, 1 << 3, 1 << 11
_STORED, _DEFLATED = 0, 8
_ZEROS_AT_ONCE = 1 << 20


class DamagedZip(Exception):
    """Not a whole ZIP, or one entry that cannot be read."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the central directory lies, and how many entries it says to have."""

    at: int
    end: int
    entries: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the directory lists it. `name` is decoded, `raw_name` is as it stands there."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size: int
    at: int

    @property
    def encrypted(self) -> bool:
        return bool(self.flags & _ENCRYPTED)

    @property
    def packed_by_other_method(self) -> bool:
        """By another method than deflate and store."""
        return self.method not in (_STORED, _DEFLATED)


def find_directory(body: memoryview) -> Directory:
    """The central directory that the one end record names (4.3.16).

    Raises:
        DamagedZip: no end record, two that could be it, or one that contradicts itself or ZIP64's.
    """
    end_at = _end_record(body)
    _, disk, first_disk, here, count, size, at, _ = _END_FIELDS.unpack_from(body, end_at)
    behind = end_at
    if (zip64 := _zip64_end(body, end_at)) is not None:
        behind, *fields = zip64
        known = [(disk, 0xFFFF), (first_disk, 0xFFFF), (here, 0xFFFF), (count, 0xFFFF), (size, 0xFFFFFFFF)]
        for (narrow, full), wide in zip([*known, (at, 0xFFFFFFFF)], fields, strict=True):
            if narrow not in (full, wide):
                raise DamagedZip("its ZIP64 end record contradicts the other one")
        disk, first_disk, here, count, size, at = fields
    if disk or first_disk or here != count:
        raise DamagedZip("one of several parts; send the archive in one file")
    if at + size != behind:
        raise DamagedZip(
            f"its directory should end at byte {at + size} and ends at {behind}: cut off, or several archives in one"
        )
    return Directory(at, behind, count)


def _end_record(body: memoryview) -> int:
    tail_at = max(0, len(body) - _END_FIELDS.size - _MAX_COMMENT_BYTES)
    tail = bytes(body[tail_at:])
    found: list[int] = []
    at = len(tail)
    while (at := tail.rfind(_END, 0, at)) >= 0 and len(found) < 2:
        if len(tail) - at >= _END_FIELDS.size:
            comment_bytes = _END_FIELDS.unpack_from(tail, at)[-1]
            behind = at + _END_FIELDS.size + comment_bytes
            if behind <= len(tail) and not tail[behind:].strip(b"\0"):
                found.append(tail_at + at)
    if len(found) > 1:
        raise DamagedZip("it has two end records")
    if not found:
        raise DamagedZip("there is no directory at its end: cut off, or followed by other data")
    return found[0]


def _zip64_end(body: memoryview, end_at: int) -> tuple[int, ...] | None:
    """Where the ZIP64 end record stands (4.3.14), and its fields in the order of the other end record's."""
    locator_at = end_at - _ZIP64_LOCATOR_FIELDS.size
    if locator_at < 0 or body[locator_at : locator_at + 4] != _ZIP64_LOCATOR:
        return None
    _, _, at, _ = _ZIP64_LOCATOR_FIELDS.unpack_from(body, locator_at)
    if at + _ZIP64_END_FIELDS.size > locator_at:
        raise DamagedZip("its ZIP64 end record is not where its locator says")
    mark, size, *fields = _ZIP64_END_FIELDS.unpack_from(body, at)
    if mark != _ZIP64_END or at + 12 + size != locator_at:
        raise DamagedZip("its ZIP64 end record is not where its locator says")
    return at, *fields


def entries(body: memoryview, directory: Directory) -> Iterator[Entry]:
    """Every entry of the directory, in order, one at a time.

    Raises:
        DamagedZip: the directory has other entries than its end record says.
    """
    at, count = directory.at, 0
    while at < directory.end:
        entry, at = _entry(body, at, directory.end)
        count += 1
        yield entry
    if at != directory.end or count != directory.entries:
        raise DamagedZip(f"its directory has {count} entries and should have {directory.entries}")


def _entry(body: memoryview, at: int, end: int) -> tuple[Entry, int]:
    if end - at < _ENTRY_FIELDS.size or body[at : at + 4] != _ENTRY:
        raise DamagedZip(f"its directory is damaged at byte {at}")
    _, flags, method, crc, packed, size, names, extras, comments, disk, place = _ENTRY_FIELDS.unpack_from(body, at)
    name_at = at + _ENTRY_FIELDS.size
    behind = name_at + names + extras + comments
    if behind > end:
        raise DamagedZip(f"its directory is damaged at byte {at}")
    raw_name, extra = bytes(body[name_at : name_at + names]), bytes(body[name_at + names : behind - comments])
    size, packed, place = _widened(extra, size, packed, place)
    if disk not in (0, 0xFFFF):
        raise DamagedZip("one of several parts; send the archive in one file")
    return Entry(_name(raw_name, flags, extra), raw_name, flags, method, crc, packed, size, place), behind


def _widened(extra: bytes, *fields: int) -> Iterator[int]:
    """Fields with those that are saturated taken from the ZIP64 extra field, which holds these alone (4.5.3)."""
    wide = _extra_field(extra, _ZIP64_EXTRA) if 0xFFFFFFFF in fields else b""
    at = 0
    for value in fields:
        if value == 0xFFFFFFFF:
            if at + 8 > len(wide):
                raise DamagedZip("a ZIP64 entry without its ZIP64 field")
            (value,) = struct.unpack_from("<Q", wide, at)
            at += 8
        yield value


def _extra_field(extra: bytes, wanted: int) -> bytes:
    """The extra field of a number; empty where there is none. Some writers pad with bytes that are no field."""
    at = 0
    for _ in range(_MAX_EXTRA_FIELDS):
        if at + 4 > len(extra):
            break
        number, size = struct.unpack_from("<HH", extra, at)
        if number == wanted:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return b""


def _name(raw: bytes, flags: int, extra: bytes) -> str:
    """A name in UTF-8 where it says so, where the Unicode path of the same name does (4.6.9), or where it is valid.

    macOS writes UTF-8 and does not say so. What is no UTF-8 is the code page 437 of the format's beginning.
    """
    if flags & _UTF8:
        return raw.decode("utf-8", "replace")
    field = _extra_field(extra, _UNICODE_PATH_EXTRA)
    if len(field) > 5 and field[0] == 1 and field[1:5] == struct.pack("<L", zlib.crc32(raw)):
        raw = field[5:]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def span(body: memoryview, entry: Entry, directory: Directory) -> tuple[int, int]:
    """Where an entry begins and ends: its own header, its packed bytes, and the descriptor behind them.

    Raises:
        DamagedZip: there is no entry at that place.
    """
    data_at, _, flags = _local(body, entry, directory.at)
    end = data_at + entry.packed_bytes
    if end > directory.at:
        raise DamagedZip(f"the entry at byte {entry.at} ends behind the directory's beginning")
    if flags & _WITH_DESCRIPTOR:
        end += _descriptor_bytes(body[end : directory.at], entry)
    return entry.at, end


def _local(body: memoryview, entry: Entry, end: int) -> tuple[int, bool, int]:
    """Where the packed bytes begin, whether the entry's own header agrees with the directory, and its flags."""
    if entry.at + _LOCAL_FIELDS.size > end or body[entry.at : entry.at + 4] != _LOCAL:
        raise DamagedZip(f"its directory names an entry at byte {entry.at} where there is none")
    _, flags, method, crc, packed, size, names, extras = _LOCAL_FIELDS.unpack_from(body, entry.at)
    name_at = entry.at + _LOCAL_FIELDS.size
    data_at = name_at + names + extras
    agrees = (method, bytes(body[name_at : name_at + names])) == (entry.method, entry.raw_name)
    size, packed = _widened(bytes(body[name_at + names : data_at]), size, packed)
    unknown = (0, 0xFFFFFFFF) if flags & _WITH_DESCRIPTOR else ()  # each for itself: streams often know the size alone
    listed = (entry.crc, entry.packed_bytes, entry.size)
    agrees = agrees and all(own in (*unknown, other) for own, other in zip((crc, packed, size), listed, strict=True))
    return data_at, agrees and bool(flags & _ENCRYPTED) == entry.encrypted, flags


def _descriptor_bytes(behind: memoryview, entry: Entry) -> int:
    """How long the data descriptor is (4.3.9): with or without its mark, with sizes of 4 or of 8 bytes."""
    for mark in (_DESCRIPTOR, b""):
        for sizes in ("<LQQ", "<LLL"):
            if sizes == "<LLL" and max(entry.packed_bytes, entry.size) > 0xFFFFFFFF:
                continue
            wanted = mark + struct.pack(sizes, entry.crc, entry.packed_bytes, entry.size)
            if behind[: len(wanted)] == wanted:
                return len(wanted)
    return 0


def check_covered(body: memoryview, directory: Directory, spans: list[tuple[int, int]]) -> None:
    """Check that entries lie one behind the other up to the directory, with nothing between them.

    Raises:
        DamagedZip: two share bytes, or there are bytes of none that are not zero.
    """
    at = len(_DESCRIPTOR) if body[: len(_DESCRIPTOR)] in _ONE_PART else 0
    for start, end in [*sorted(spans), (directory.at, directory.at)]:
        if start < at:
            raise DamagedZip(f"two of its entries share the bytes at {start}")
        if not _is_zero(body[at:start]):
            raise DamagedZip(
                f"{start - at} bytes at {at} belong to no entry of its directory: several archives in one file, or a "
                "damaged part"
            )
        at = end


def _is_zero(view: memoryview) -> bool:
    pieces = (bytes(view[at : at + _ZEROS_AT_ONCE]) for at in range(0, len(view), _ZEROS_AT_ONCE))
    return all(piece.count(0) == len(piece) for piece in pieces)


def unpacked(body: memoryview, entry: Entry, directory: Directory) -> bytes:
    """The bytes of an entry, of which its size and checksum are right.

    Raises:
        DamagedZip: they are not, or the entry's own header contradicts the directory.
    """
    data_at, agrees, _ = _local(body, entry, directory.at)
    if not agrees:
        raise DamagedZip("its own header contradicts the directory")
    packed = body[data_at : data_at + entry.packed_bytes]
    data = bytes(packed[: entry.size + 1])
    if entry.method == _DEFLATED and packed:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflate.decompress(packed, entry.size + 1)
        except zlib.error as error:
            raise DamagedZip(str(error)) from error
        if not inflate.eof or inflate.unused_data:
            raise DamagedZip("its packed bytes are not as long as the directory says")
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise DamagedZip("not of the size and checksum that the directory says")
    return data
