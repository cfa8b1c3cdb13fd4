"""Reads a ZIP in memory and accounts for every byte of it. Section numbers are those of PKWARE's APPNOTE 6.3.10.

`zipfile` is not strict enough. It uses the last end record and skips bytes outside the entries (a second archive,
unlisted entries). It also creates an object for every entry before they can be counted. Checks by a second parser
could read a hostile archive differently, so this one replaces `zipfile`. Deflate is zlib's.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_LOCAL, _ENTRY, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_ZIP64_END, _ZIP64_LOCATOR, _DESCRIPTOR = b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08"
#: Marks before the first entry of an archive that was written for several parts but has one (8.5.3, 8.5.4).
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
    """Not a complete ZIP, or an entry that cannot be read."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Position of the central directory in bytes, and its number of entries."""

    at: int
    end: int
    entries: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as in the directory. `name` is decoded, `raw_name` is not; `at` is the position of its header."""

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
    def method_supported(self) -> bool:
        """Whether the compression method is deflate or store."""
        return self.method in (_STORED, _DEFLATED)


def find_directory(body: memoryview) -> Directory:
    """The central directory, from the end record (4.3.16).

    Raises:
        DamagedZip: no end record, two possible ones, or one that contradicts itself or its ZIP64 record.
    """
    end_at = _end_record(body)
    _, disk, first_disk, here, count, size, at, _ = _END_FIELDS.unpack_from(body, end_at)
    behind = end_at
    if (zip64 := _zip64_end(body, end_at)) is not None:
        behind, *fields = zip64
        known = [(disk, 0xFFFF), (first_disk, 0xFFFF), (here, 0xFFFF), (count, 0xFFFF), (size, 0xFFFFFFFF)]
        for (narrow, full), wide in zip([*known, (at, 0xFFFFFFFF)], fields, strict=True):
            if narrow not in (full, wide):
                raise DamagedZip("its ZIP64 end record contradicts its end record")
        disk, first_disk, here, count, size, at = fields
    if disk or first_disk or here != count:
        raise DamagedZip("it is one of several parts; send the archive as one file")
    if at + size != behind:
        raise DamagedZip(
            f"its directory should end at byte {at + size} but ends at {behind}: cut off, or several archives"
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
        raise DamagedZip("no directory at its end: cut off, or followed by other data")
    return found[0]


def _zip64_end(body: memoryview, end_at: int) -> tuple[int, ...] | None:
    """Position of the ZIP64 end record (4.3.14), then its fields in the order of the end record; None without one."""
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
    """The entries of the directory in order, one at a time.

    Raises:
        DamagedZip: the directory is damaged, or its number of entries differs from the end record.
    """
    at, count = directory.at, 0
    while at < directory.end:
        entry, at = _entry(body, at, directory.end)
        count += 1
        yield entry
    if at != directory.end or count != directory.entries:
        raise DamagedZip(f"its directory has {count} entries but should have {directory.entries}")


def _entry(body: memoryview, at: int, end: int) -> tuple[Entry, int]:
    if end - at < _ENTRY_FIELDS.size or body[at : at + 4] != _ENTRY:
        raise DamagedZip(f"its directory is damaged at byte {at}")
    _, flags, method, crc, packed, size, names, extras, comments, disk, place = _ENTRY_FIELDS.unpack_from(body, at)
    name_at = at + _ENTRY_FIELDS.size
    behind = name_at + names + extras + comments
    if behind > end:
        raise DamagedZip(f"its directory is damaged at byte {at}")
    raw_name, extra = bytes(body[name_at : name_at + names]), bytes(body[name_at + names : behind - comments])
    size, packed, place = _with_zip64_values(extra, size, packed, place)
    if disk not in (0, 0xFFFF):
        raise DamagedZip("it is one of several parts; send the archive as one file")
    return Entry(_name(raw_name, flags, extra), raw_name, flags, method, crc, packed, size, place), behind


def _with_zip64_values(extra: bytes, *fields: int) -> Iterator[int]:
    """The fields; those of 0xFFFFFFFF are replaced by the ZIP64 extra field, which holds only these (4.5.3)."""
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
    """The extra field with the number `wanted`; empty without one. Some writers pad with bytes that are no field."""
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
    """The decoded name: UTF-8 if flagged, if in a Unicode path field (4.6.9), or if valid; else code page 437.

    macOS writes UTF-8 without the flag. Code page 437 is the format's original encoding.
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
    """Start and end of an entry: its header, its packed bytes, and its data descriptor.

    Raises:
        DamagedZip: no entry at that position.
    """
    data_at, _, flags = _local(body, entry, directory.at)
    end = data_at + entry.packed_bytes
    if end > directory.at:
        raise DamagedZip(f"the entry at byte {entry.at} overlaps the directory")
    if flags & _WITH_DESCRIPTOR:
        end += _descriptor_bytes(body[end : directory.at], entry)
    return entry.at, end


def _local(body: memoryview, entry: Entry, end: int) -> tuple[int, bool, int]:
    """Start of the packed bytes, whether the local header agrees with the directory, and its flags."""
    if entry.at + _LOCAL_FIELDS.size > end or body[entry.at : entry.at + 4] != _LOCAL:
        raise DamagedZip(f"its directory names an entry at byte {entry.at} but there is none")
    _, flags, method, crc, packed, size, names, extras = _LOCAL_FIELDS.unpack_from(body, entry.at)
    name_at = entry.at + _LOCAL_FIELDS.size
    data_at = name_at + names + extras
    agrees = (method, bytes(body[name_at : name_at + names])) == (entry.method, entry.raw_name)
    size, packed = _with_zip64_values(bytes(body[name_at + names : data_at]), size, packed)
    unknown = (0, 0xFFFFFFFF) if flags & _WITH_DESCRIPTOR else ()  # each alone: streams often know only the size
    listed = (entry.crc, entry.packed_bytes, entry.size)
    agrees = agrees and all(own in (*unknown, other) for own, other in zip((crc, packed, size), listed, strict=True))
    return data_at, agrees and bool(flags & _ENCRYPTED) == entry.encrypted, flags


def _descriptor_bytes(behind: memoryview, entry: Entry) -> int:
    """Length of the data descriptor (4.3.9): with or without its mark, with sizes of 4 or 8 bytes; 0 without one."""
    for mark in (_DESCRIPTOR, b""):
        for sizes in ("<LQQ", "<LLL"):
            if sizes == "<LLL" and max(entry.packed_bytes, entry.size) > 0xFFFFFFFF:
                continue
            wanted = mark + struct.pack(sizes, entry.crc, entry.packed_bytes, entry.size)
            if behind[: len(wanted)] == wanted:
                return len(wanted)
    return 0


def check_covered(body: memoryview, directory: Directory, spans: list[tuple[int, int]]) -> None:
    """Check that the entries fill the file up to the directory, with only zeros between them.

    Raises:
        DamagedZip: two entries overlap, or bytes outside the entries are not zero.
    """
    at = len(_DESCRIPTOR) if body[: len(_DESCRIPTOR)] in _ONE_PART else 0
    for start, end in [*sorted(spans), (directory.at, directory.at)]:
        if start < at:
            raise DamagedZip(f"two of its entries share the bytes at {start}")
        if not _is_zero(body[at:start]):
            raise DamagedZip(
                f"{start - at} bytes at {at} belong to no entry of its directory: several archives in one file, or "
                "damage"
            )
        at = end


def _is_zero(view: memoryview) -> bool:
    pieces = (bytes(view[at : at + _ZEROS_AT_ONCE]) for at in range(0, len(view), _ZEROS_AT_ONCE))
    return all(piece.count(0) == len(piece) for piece in pieces)


def unpack(body: memoryview, entry: Entry, directory: Directory) -> bytes:
    """The unpacked bytes of an entry, checked by size and CRC.

    Raises:
        DamagedZip: wrong size or CRC, or the local header contradicts the directory.
    """
    data_at, agrees, _ = _local(body, entry, directory.at)
    if not agrees:
        raise DamagedZip("its local header contradicts the directory")
    packed = body[data_at : data_at + entry.packed_bytes]
    data = bytes(packed[: entry.size + 1])
    if entry.method == _DEFLATED and packed:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflate.decompress(packed, entry.size + 1)
        except zlib.error as error:
            raise DamagedZip(str(error)) from error
        if not inflate.eof or inflate.unused_data:
            raise DamagedZip("its compressed size differs from the directory")
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise DamagedZip("its size or checksum differs from the directory")
    return data
