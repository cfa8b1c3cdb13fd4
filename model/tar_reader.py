"""Members of an uncompressed tar archive with their offsets, refusing damaged and incomplete archives.

`tarfile` stops without an error at a damaged header, at a truncated end, and after the first of several archives. It
also keeps all headers in memory and applies global ones. So members are read here, one at a time, and `tarfile` only
parses single header blocks.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO

BLOCK_BYTES = 512
#: Largest extended header: enough for the longest path (4096 bytes) and a file's attributes.
MAX_EXTENDED_BYTES = 64 * 1024
MAX_RECORDS = 256
_ZEROS_AT_ONCE = 1 << 20
_POSIX_MAGIC = b"ustar\0"
_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n]+)=")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_ZIP = b"PK\x03\x04"
_EXTENDED = {b"x": "x", b"X": "x", b"L": "L", b"K": "K"}
#: Links, devices and folders have no data; their size field is ignored (POSIX, pax, "ustar Header Block").
_WITHOUT_DATA = b"123456"


class Kind(Enum):
    """The kind of a member."""

    FILE = "file"
    FOLDER = "folder"  # or an archive's label
    SPECIAL = "special"  # a link, a device, or of an unknown type
    PIECES = "pieces"  # sparse, or continued from another volume: its data is not contiguous


@dataclass(frozen=True, slots=True)
class Member:
    """One member: `size` bytes at `offset`. Bytes of the name that are not UTF-8 become surrogates (PEP 383)."""

    name: str
    kind: Kind
    offset: int
    size: int


#: Why a member of this kind cannot be read.
WITHOUT_BYTES = {
    Kind.SPECIAL: "a link or a special file in the archive",
    Kind.PIECES: "stored sparse or in several volumes in the archive; write the tar without these options",
}


class DamagedTar(Exception):
    """The archive is damaged, incomplete or not an uncompressed tar. Members before the damage were yielded."""


def members(file: BinaryIO) -> Iterator[Member]:
    """The members in order. Only headers are read, one at a time; the end of the file must be zeros.

    Raises:
        DamagedTar: a damaged or oversized header, a truncated archive, or data after the end marker. Raised after the
            last complete member.
    """
    blocks = _Blocks(file, file.seek(0, os.SEEK_END))
    blocks.check_not_compressed()
    while (member := _member(blocks)) is not None:
        yield member
    blocks.check_zeros()


@dataclass(slots=True)
class _Blocks:
    file: BinaryIO
    end: int
    at: int = 0

    def check_not_compressed(self) -> None:
        self.file.seek(0)
        first = self.file.read(max(map(len, _COMPRESSED)))
        if first.startswith(_ZIP):
            raise DamagedTar("it is a ZIP archive, not a tar")
        if packed := next((name for magic, name in _COMPRESSED.items() if first.startswith(magic)), None):
            raise DamagedTar(f"it is compressed with {packed}; decompress it to a .tar")

    def header(self) -> bytes | None:
        """The next block; None if it is the end marker."""
        block = self._read(min(BLOCK_BYTES, self.end - self.at))
        if len(block) < BLOCK_BYTES:
            raise DamagedTar(f"cut off at byte {self.end}: the end marker is missing")
        return block if block.strip(b"\0") else None

    def extended(self, size: int) -> bytes:
        """The data of an extended header."""
        if size > MAX_EXTENDED_BYTES:
            raise DamagedTar(f"an extended header of {size} bytes at byte {self.at}; {MAX_EXTENDED_BYTES} are allowed")
        data = self._read(size)
        self.at += -size % BLOCK_BYTES
        return data

    def skip(self, size: int, name: str) -> int:
        """Skip a member's data; returns its offset."""
        offset = self.at
        if size > self.end - offset:
            raise DamagedTar(f"cut off within {ascii(name[:200])}: {self.end - offset} of its {size} bytes are here")
        self.at += size + -size % BLOCK_BYTES
        return offset

    def check_zeros(self) -> None:
        while self.at < self.end:
            began, piece = self.at, self._read(min(_ZEROS_AT_ONCE, self.end - self.at))
            if (zeros := len(piece) - len(piece.lstrip(b"\0"))) < len(piece):
                raise DamagedTar(
                    f"more data at byte {began + zeros}, after the end marker: several archives in one file, or "
                    "damaged data; send one archive at a time, or join them with tar --concatenate"
                )

    def _read(self, size: int) -> bytes:
        self.file.seek(self.at)
        data = self.file.read(size)
        if len(data) < size:
            raise DamagedTar(f"ended at byte {self.at + len(data)} while it was read")
        self.at += size
        return data


@dataclass(slots=True)
class _Extended:
    """Extended headers of the member that follows them."""

    kinds: list[str] = field(default_factory=list)
    name: bytes = b""
    size: int | None = None
    sparse: bool = False

    def take(self, kind: str, data: bytes) -> None:
        if kind in self.kinds:
            raise DamagedTar(f"two extended headers of type {kind} for one member")
        self.kinds.append(kind)
        if kind == "L":
            self.name = data.rstrip(b"\0")
        elif kind == "x":
            for number, (key, value) in enumerate(_records(data)):
                if number == MAX_RECORDS:
                    raise DamagedTar(f"an extended header of more than {MAX_RECORDS} records")
                self._note(key, value)

    def _note(self, key: bytes, value: bytes) -> None:
        self.sparse = self.sparse or key.startswith(b"GNU.sparse.")
        if key == b"GNU.sparse.name" or (key == b"path" and value and not self.sparse):
            self.name = value
        elif key == b"size" and value:
            if not (value.isdigit() and len(value) < 20):
                raise DamagedTar(f"an extended header with the size {ascii(value[:20].decode('latin-1'))}")
            self.size = int(value)


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a pax header: lines of "length key=value" (POSIX, pax Extended Header)."""
    at = 0
    while at < len(data):
        found = _RECORD.match(data, at)
        end = at + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise DamagedTar("a damaged extended header")
        yield found[2], data[found.end() : end - 1]
        at = end


def _member(blocks: _Blocks) -> Member | None:
    extended = _Extended()
    while (block := blocks.header()) is not None:
        header = _parsed(block, blocks.at - BLOCK_BYTES)
        kind = block[156:157]
        if kind == b"g":
            raise DamagedTar("a global extended header (type g, as git archive writes it); pack the files with tar -cf")
        if kind not in _EXTENDED:
            return _described(blocks, block, header, extended)
        extended.take(_EXTENDED[kind], blocks.extended(header.size))
    if extended.kinds:
        raise DamagedTar("cut off after an extended header: its member is missing")
    return None


def _parsed(block: bytes, at: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        if at:
            raise DamagedTar(f"a damaged header at byte {at} ({error})") from error
        raise DamagedTar("it has no tar header") from error
    if header.size < 0:
        raise DamagedTar(f"a header with the size {header.size} at byte {at}")
    return header


def _described(blocks: _Blocks, block: bytes, header: tarfile.TarInfo, extended: _Extended) -> Member:
    kind, size = block[156:157], header.size
    name = (extended.name or _name(block)).decode("utf-8", "surrogateescape")
    if extended.size is not None:
        if size not in (0, extended.size):
            raise DamagedTar(f"two sizes for {ascii(name[:200])}: {size} and {extended.size}")
        size = extended.size
    if kind in _WITHOUT_DATA:
        size = 0
    if kind == b"S":
        _skip_sparse_map(blocks, block)
    return Member(name, _kind(kind, name, size, extended.sparse), blocks.skip(size, name), size)


def _name(block: bytes) -> bytes:
    """The name in the header. Where POSIX has a prefix of the name, GNU tar may have times."""
    name, prefix = (block[start:end].partition(b"\0")[0] for start, end in ((0, 100), (345, 500)))
    return prefix + b"/" + name if prefix and block.startswith(_POSIX_MAGIC, 257) else name


def _kind(kind: bytes, name: str, size: int, sparse: bool) -> Kind:
    if sparse or kind in b"SM":
        return Kind.PIECES
    if kind in b"5D" or (size == 0 and (kind == b"V" or (kind in b"07\0" and name.endswith("/")))):
        return Kind.FOLDER
    return Kind.FILE if kind in b"07\0" else Kind.SPECIAL


def _skip_sparse_map(blocks: _Blocks, block: bytes) -> None:
    """Skip the continuation blocks of an old GNU sparse header."""
    goes_on = block[482]
    while goes_on:
        more = blocks.header()
        goes_on = more[504] if more else 0
