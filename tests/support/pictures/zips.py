"""ZIPs written record by record, as no ordinary writer would."""

import struct
import zlib
from dataclasses import dataclass, field


@dataclass
class Packed:
    """One entry. What is not given is right; `local` replaces fields of its own header alone."""

    name: bytes
    data: bytes = b""
    flags: int = 0
    method: int = 8
    extra: bytes = b""
    local_extra: bytes = b""
    descriptor: str = ""  # form of the data descriptor, with "mark" before it where it has one
    wide: bool = False  # sizes and place in a ZIP64 field
    local: dict[str, object] = field(default_factory=dict)

    @property
    def packed(self) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(self.data) + packer.flush() if self.method == 8 else self.data

    @property
    def sizes(self) -> tuple[int, int, int]:
        return zlib.crc32(self.data), len(self.packed), len(self.data)

    def record(self) -> bytes:
        """The entry's own header, its bytes, and its descriptor."""
        flags, sizes, extra = self.flags, self.sizes, self.local_extra
        if self.descriptor:
            flags, sizes = flags | 8, (0, 0, 0)
        if self.wide:
            extra += struct.pack("<HHQQ", 1, 16, sizes[2], sizes[1])
            sizes = (sizes[0], 0xFFFFFFFF, 0xFFFFFFFF)
        found = {"name": self.name, "flags": flags, "method": self.method, "sizes": sizes} | self.local
        name = found["name"]
        assert isinstance(name, bytes)
        head = struct.pack(
            "<4sHHHLLLLHH", b"PK\3\4", 20, found["flags"], found["method"], 0, *found["sizes"], len(name), len(extra)
        )
        behind = b""
        if self.descriptor:
            mark = b"PK\7\x08" if "mark" in self.descriptor else b""
            behind = mark + struct.pack(self.descriptor.replace("mark", ""), *self.sizes)
        return head + name + extra + self.packed + behind

    def entry(self, at: int) -> bytes:
        """Its entry in the directory."""
        flags = self.flags | (8 if self.descriptor else 0)
        crc, packed, size = self.sizes
        extra = self.extra
        if self.wide:
            extra += struct.pack("<HHQQQ", 1, 24, size, packed, at)
            packed = size = at = 0xFFFFFFFF
        head = (b"PK\1\2", 20, 20, flags, self.method, 0, crc, packed, size, len(self.name), len(extra), 0, 0, 0, 0, at)
        return struct.pack("<4sHHHHLLLLHHHHHLL", *head) + self.name + extra


def end(count: int, size: int, at: int, comment: bytes = b"", disk: int = 0) -> bytes:
    """An end record."""
    return struct.pack("<4sHHHHLLH", b"PK\5\6", disk, disk, count, count, size, at, len(comment)) + comment


def zip64_end(count: int, size: int, at: int, record_at: int) -> bytes:
    """A ZIP64 end record and its locator."""
    record = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, record_at, 1)


def archive(
    *entries: Packed, before: bytes = b"", between: bytes = b"", comment: bytes = b"", wide: bool = False
) -> bytes:
    """A complete ZIP, with `before` before the first entry and `between` before the directory."""
    body, directory = before, b""
    for entry in entries:
        directory += entry.entry(len(body))
        body += entry.record()
    body += between
    at = len(body)
    body += directory
    if not wide:
        return body + end(len(entries), len(directory), at, comment)
    body += zip64_end(len(entries), len(directory), at, len(body))
    return body + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, comment)
