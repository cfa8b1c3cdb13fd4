"""CPU time and memory for hostile archives of about one megabyte, tar and ZIP."""

import io
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from cpu_cost import costs_less_than
from tars import END, header, member, pax, record, sparse_by_gnu
from zips import Packed, archive, end

from model.tar_reader import MAX_EXTENDED_BYTES, MAX_RECORDS
from service.api.uploads.archives import ArchiveLimits, Upload, tar_members, zip_members
from service.errors import MalformedBody, TooManyPictures

BOUNDS = ArchiveLimits(max_pictures=10_000, max_picture_bytes=10_000_000, max_unpacked_bytes=100_000_000)
MAX_COST = 200

_KEYS = b"".join(record(f"key{at}", "v") for at in range(50_000))
TARS = {
    "a global header of 50,000 keys": pax(_KEYS, kind=b"g") + member("a.jpg", b"a") + END,
    "an extended header of 50,000 keys": pax(_KEYS) + member("a.jpg", b"a") + END,
    "extended headers of as many keys as are read": b"".join(
        pax(*[b"6 a=b\n"] * MAX_RECORDS) + header(f"{at}") for at in range(400)
    )
    + END,
    "a long value": pax(record("path", "p" * 1_200_000)) + member("a.jpg") + END,
    "long names": b"".join(member("L", b"n" * MAX_EXTENDED_BYTES, b"L") + header(f"{at}") for at in range(18)) + END,
    "a chain of long names": member("L", b"n", b"L") * 1200 + END,
    "a chain of extended headers": pax(b"9 path=a\n") * 1200 + END,
    "a sparse map": sparse_by_gnu(2400) + END,
    "sparse maps": sparse_by_gnu(9) * 240 + END,
    "pax sparse maps": b"".join(
        pax(*[record("GNU.sparse.offset", "0"), record("GNU.sparse.numbytes", "1")] * 128) + header(f"{at}")
        for at in range(140)
    )
    + END,
    "folders": header("a/", b"5") * 2400 + END,
    "empty files": header("a") * 2400 + END,
    "zeros": bytes(1_200_000),
}


def _sharing(count: int) -> bytes:
    one = Packed(b"a", bytes(1_000_000))
    record = one.record()
    directory = one.entry(0) * count
    return record + directory + end(count, len(directory), len(record))


#: Made when a test needs one: all of them take ten seconds.
ZIPS: dict[str, Callable[[], bytes]] = {
    "tiny entries": lambda: archive(*[Packed(b"", method=0)] * 15_000),
    "one more than may be": lambda: archive(*[Packed(b"", method=0)] * 10_001),
    "folders": lambda: archive(*[Packed(b"/", method=0)] * 15_000),
    "entries that share a megabyte": lambda: _sharing(20_000),
    "a long comment": lambda: archive(Packed(b"a"), comment=b"PK\5\6" * 16_000),
    "long extra fields": lambda: archive(*[Packed(b"a", extra=b"\1\0\0\0" * 16_000)] * 18),
    "long extra fields of entries": lambda: archive(*[Packed(b"a", local_extra=b"\1\0\0\0" * 16_000)] * 18),
    "long names": lambda: archive(*[Packed(b"n" * 65_000)] * 9),
    "descriptors": lambda: archive(*[Packed(b"a", descriptor="<LLL")] * 10_000),
    "end records": lambda: end(1, 0, 0) * 55_000,
    "a bomb": lambda: archive(Packed(b"a", bytes(200_000_000))),
    "bombs": lambda: archive(*[Packed(b"a", bytes(9_000_000))] * 20),
}


def assert_cheap(
    read: Callable[[io.BytesIO, ArchiveLimits], Iterator[Upload]], body: bytes, max_bytes: int, allowed: str
) -> None:
    """Check CPU time, and peak memory without the body; `allowed` says what may be in memory."""
    with costs_less_than(MAX_COST):
        read_all(read, io.BytesIO(body))
    # Again if it was more: threads of earlier tests allocate too.
    assert any(peak_bytes(read, io.BytesIO(body)) < max_bytes for _ in range(3)), allowed


def peak_bytes(read: Callable[[io.BytesIO, ArchiveLimits], Iterator[Upload]], file: io.BytesIO) -> int:
    tracemalloc.start()
    try:
        read_all(read, file)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def read_all(read: Callable[[io.BytesIO, ArchiveLimits], Iterator[Upload]], file: io.BytesIO) -> None:
    with suppress(MalformedBody, TooManyPictures):
        for _ in read(file, BOUNDS):
            pass


@pytest.mark.parametrize("name", TARS)
def test_a_hostile_tar_costs_little(name: str) -> None:
    assert 600_000 < len(TARS[name]) < 1_400_000
    allowed = "the body, which is copied where it is written to, and an extended header"
    assert_cheap(tar_members, TARS[name], 1_600_000, allowed)


@pytest.mark.parametrize("name", ZIPS)
def test_a_hostile_zip_costs_little(name: str) -> None:
    body = ZIPS[name]()
    assert len(body) < 2_000_000
    allowed = "the body, one picture of the largest size, and the next, which zlib holds twice"
    assert_cheap(zip_members, body, 32_000_000, allowed)
