"""Tar archives written block by block, as no ordinary writer would."""

import io
import tarfile

END = bytes(1024)


def header(name: str, kind: bytes = b"0", size: int = 0, magic: bytes = b"ustar\x0000") -> bytes:
    """One header block."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return sealed(info.tobuf(tarfile.GNU_FORMAT if size < 0 else tarfile.USTAR_FORMAT), {257: magic})


def sealed(block: bytes, changes: dict[int, bytes]) -> bytes:
    """A header with bytes replaced and its checksum made right again."""
    found = bytearray(block)
    for at, value in changes.items():
        found[at : at + len(value)] = value
    found[148:156] = b" " * 8
    found[148:156] = b"%06o\0 " % sum(found)
    return bytes(found)


def member(name: str, data: bytes = b"", kind: bytes = b"0", **more: bytes) -> bytes:
    """A header, and data filled up to whole blocks."""
    return header(name, kind, len(data), **more) + data + bytes(-len(data) % 512)


def record(key: str, value: str) -> bytes:
    """One record of a pax header, which begins with its own length."""
    rest = f" {key}={value}\n".encode()
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """An extended header."""
    return member("pax", b"".join(records), kind)


def sparse_by_gnu(holes: int) -> bytes:
    """A member in the old GNU sparse format, all holes; its map continues in blocks after the header."""
    first = sealed(header("sparse.png", b"S", magic=b"ustar  \0"), {482: b"\1", 483: b"00000100000\0"})
    piece = b"00000000000\0" + b"00000000000\0"
    more = [(piece * 21).ljust(504, b"\0") + (b"\1" if at + 1 < holes else b"\0") + bytes(7) for at in range(holes)]
    return first + b"".join(more)


def with_every_format(name: str, data: bytes) -> dict[str, bytes]:
    """What Python's own writer makes of one member in each of its formats."""
    found = {}
    formats = {"GNU": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    if len(name.encode()) <= 100 or (name.isascii() and len(name) < 256 and "/" in name):
        formats["ustar"] = tarfile.USTAR_FORMAT  # has no room for others
    for title, form in formats.items():
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        found[title] = file.getvalue()
    return found
