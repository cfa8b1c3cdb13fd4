"""ZIPs of common writers, damaged and forged ones: every byte is accounted for, and names are decoded correctly."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from checkout import SHARED
from hypothesis import given
from hypothesis import strategies as st
from serving import zipped
from zips import Packed, archive, end, zip64_end

from model.image import PictureError
from service.api.uploads.archives import ArchiveLimits, Upload, zip_members
from service.errors import MalformedBody, ServiceError

CASES = SHARED / "cases" / "pictures"
BOUNDS = ArchiveLimits(max_pictures=10_000, max_picture_bytes=10_000_000, max_unpacked_bytes=100_000_000)
ONE, TWO = Packed(b"1.jpg", b"one" * 50), Packed(b"2.jpg", bytes(range(256)))
WHOLE = archive(ONE, TWO)


def found(body: bytes, bounds: ArchiveLimits = BOUNDS) -> list[Upload]:
    return list(zip_members(io.BytesIO(body), bounds))


def contents(body: bytes) -> list[object]:
    return [upload.content for upload in found(body)]


def names(body: bytes) -> list[str | None]:
    return [upload.name for upload in found(body)]


# Common writers


@pytest.mark.parametrize("descriptor", ["", "mark<LLL", "<LLL", "mark<LQQ", "<LQQ"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("wide_end", [False, True])
def test_every_layout_is_read(descriptor: str, wide: bool, method: int, wide_end: bool) -> None:
    """Common forms, including ZIP64 in small archives (zipstream, archiver, Java streams)."""
    entries = [
        Packed(one.name, one.data, method=method, descriptor=descriptor, wide=wide)
        for one in (ONE, TWO, Packed(b"empty.jpg"))
    ]
    body = archive(*entries, wide=wide_end, comment=b"a comment")
    assert contents(body) == [ONE.data, TWO.data, b""]
    with zipfile.ZipFile(io.BytesIO(body)) as theirs:
        assert [theirs.read(name) for name in theirs.namelist()] == contents(body)


def test_a_stream_of_pythons_own_writer(tmp_path: Path) -> None:
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.written += data
            return len(data)

    stream = Unseekable()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as writer:  # type: ignore[arg-type]
        for one in (ONE, TWO):
            with writer.open(one.name.decode(), "w", force_zip64=True) as file:
                file.write(one.data)
    assert contents(bytes(stream.written)) == [ONE.data, TWO.data]
    path = tmp_path / "a.zip"
    path.write_bytes(WHOLE)
    with zipfile.ZipFile(path, "a") as more:
        more.writestr("3.jpg", b"three")
    assert contents(path.read_bytes()) == [ONE.data, TWO.data, b"three"], "one that was added to"


@pytest.mark.parametrize("known", [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 0, 0)])
def test_a_stream_that_knows_some_of_its_sizes_beforehand(known: tuple[int, int, int]) -> None:
    """Headers with a size but no checksum, as of Info-ZIP to a pipe and of libarchive."""
    told = tuple(size * each for size, each in zip(ONE.sizes, known, strict=True))
    local: dict[str, object] = {"sizes": told, "flags": 8}
    for descriptor in ("mark<LLL", "mark<LQQ"):
        assert contents(archive(Packed(ONE.name, ONE.data, descriptor=descriptor, local=local), TWO)) == [
            ONE.data,
            TWO.data,
        ]


@pytest.mark.parametrize("marker", [b"PK\7\x08", b"PK00"])
def test_the_only_part_of_an_archive_in_parts(marker: bytes) -> None:
    assert contents(archive(ONE, TWO, before=marker)) == [ONE.data, TWO.data]


def test_folders_are_no_pictures_and_a_file_called_like_one_is() -> None:
    assert names(archive(Packed(b"d/"), Packed(b"w\\"), Packed(b"__MACOSX/._1.jpg", b"x"), ONE)) == ["1.jpg"]
    assert contents(archive(Packed(b"d/", b"hidden?"), ONE)) == [b"hidden?", ONE.data]


def test_padding_of_zeros_holds_nothing_and_is_passed_over() -> None:
    padded = archive(ONE, Packed(TWO.name, TWO.data, local_extra=b"\0\0\0"), before=bytes(100), between=bytes(9))
    assert contents(padded + bytes(1000)) == [ONE.data, TWO.data]


def unicode_path(raw: bytes, name: str, version: int = 1) -> bytes:
    data = struct.pack("<BL", version, zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(data)) + data


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (Packed("ä.jpg".encode(), b"1", flags=1 << 11), "ä.jpg"),
        (Packed("Präparat_ü.jpg".encode(), b"1"), "Präparat_ü.jpg"),
        (Packed("細胞.jpg".encode(), b"1"), "細胞.jpg"),
        (Packed("ä.jpg".encode("cp437"), b"1"), "ä.jpg"),
        (Packed(b"\x84.jpg", b"1", extra=unicode_path(b"\x84.jpg", "細胞.jpg")), "細胞.jpg"),
        (Packed(b"a.jpg", b"1", extra=struct.pack("<HHL", 9, 4, 0) + unicode_path(b"a.jpg", "é.jpg")), "é.jpg"),
        (Packed(b"\x84.jpg", b"1", extra=unicode_path(b"other", "細胞.jpg")), "ä.jpg"),
        (Packed(b"\x84.jpg", b"1", extra=unicode_path(b"\x84.jpg", "細胞.jpg", version=2)), "ä.jpg"),
        (Packed(b"a.jpg", b"1", extra=struct.pack("<HH", 0x7075, 60_000)), "a.jpg"),
        (Packed(b"a.jpg", b"1", extra=struct.pack("<HH", 0x7075, 3) + b"\1\2\3"), "a.jpg"),
        (Packed(b"\xff.jpg", b"1", flags=1 << 11), "\ufffd.jpg"),
    ],
)
def test_names_come_out_as_they_were_meant(entry: Packed, name: str) -> None:
    assert names(archive(entry)) == [name]


# Damaged and forged archives


def replaced(body: bytes, old: bytes, new: bytes, last: bool = False) -> bytes:
    at = body.rindex(old) if last else body.index(old)
    return body[:at] + new + body[at + len(new) :]


_END_AT = len(WHOLE) - 22


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (WHOLE + archive(Packed(b"3.jpg", b"3")), "several archives"),
        (archive(ONE) * 2, "several archives"),
        (archive(ONE, before=Packed(b"0.jpg", b"0").record()), "belong to no entry of its directory"),
        (archive(ONE, between=Packed(b"9.jpg", b"9").record()), "belong to no entry of its directory"),
        (archive(ONE, between=b"x"), "1 bytes at .* belong to no entry"),
        (b"#!/bin/sh\n" + WHOLE, "several archives"),
        (archive(ONE, before=b"PK00PK00"), "4 bytes at 4 belong to no entry"),
        (WHOLE + b"x", "no directory at its end"),
        (WHOLE + Packed(b"9.jpg", b"9").record(), "no directory at its end"),
        (WHOLE[:-1], "no directory at its end"),
        (WHOLE[: len(WHOLE) // 2], "no directory at its end"),
        (archive(ONE, comment=end(0, 0, 0)), "two end records"),
        (archive(ONE, comment=end(1, 0, 0, b"tail")), "two end records"),
        (WHOLE[:_END_AT] + end(1, _END_AT - WHOLE.index(b"PK\1\2"), WHOLE.index(b"PK\1\2")), "2 entries but .* 1"),
        (WHOLE[:_END_AT] + end(3, _END_AT - WHOLE.index(b"PK\1\2"), WHOLE.index(b"PK\1\2")), "2 entries but .* 3"),
        (WHOLE[:_END_AT] + end(1, _END_AT - WHOLE.rindex(b"PK\1\2"), WHOLE.rindex(b"PK\1\2")), "belong to no entry"),
        (WHOLE[:_END_AT] + end(2, 0xFFFFFFFF, 0xFFFFFFFF), "should end at byte"),
        (WHOLE[:_END_AT] + end(2, _END_AT - WHOLE.index(b"PK\1\2"), WHOLE.index(b"PK\1\2"), disk=1), "several parts"),
        (WHOLE[:_END_AT] + zip64_end(1, 60, 0, _END_AT) + WHOLE[_END_AT:], "contradicts"),
        (WHOLE[:_END_AT] + zip64_end(1, 60, 0, 5) + end(65535, 0xFFFFFFFF, 0xFFFFFFFF), "not where its locator says"),
        (WHOLE[:_END_AT] + zip64_end(1, 60, 0, 2**63) + end(65535, 0xFFFFFFFF, 0xFFFFFFFF), "not where its locator"),
        (WHOLE[:_END_AT] + zip64_end(2**40, 2**50, 2**51, _END_AT) + end(65535, 0xFFFFFFFF, 0xFFFFFFFF), "should end"),
        (replaced(WHOLE, b"PK\1\2", b"PK\1\3"), "directory is damaged"),
        (replaced(WHOLE, b"PK\3\4", b"PK\3\5"), "names an entry at byte 0 but there is none"),
        (archive(Packed(b"1.jpg", b"1" * 99, descriptor="mark<LLL")).replace(b"PK\7\x08", b"PK\7\x09"), "no entry"),
    ],
)
def test_what_holds_more_or_less_than_it_lists_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedBody, match=reason) as refusal:
        found(body)
    assert "pictures read: 0" in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (bytes(257) + b"ustar\0" + bytes(300), "it is a tar archive; send it with Content-Type: application/x-tar"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "it is a JPEG file, not an archive"),
        (b"anything else", "no directory at its end"),
    ],
)
def test_another_type_of_file_is_named(body: bytes, name: str) -> None:
    with pytest.raises(MalformedBody, match=name):
        found(body)


def test_entries_that_share_bytes_are_refused() -> None:
    at = WHOLE.index(b"PK\1\2")
    entry = ONE.entry(0)
    twice = WHOLE[:at] + entry * 2 + TWO.entry(len(ONE.record()))
    with pytest.raises(MalformedBody, match="share the bytes at 0"):
        found(twice + end(3, len(twice) - at, at))
    inner = Packed(b"i.jpg", b"inner")
    outer = Packed(b"o.jpg", b"before" + inner.record() + b"behind", method=0)
    directory = outer.entry(0) + inner.entry(30 + 5 + 6)
    body = outer.record() + directory
    with pytest.raises(MalformedBody, match="share the bytes at 41"):
        found(body + end(2, len(directory), len(outer.record())))


@pytest.mark.parametrize(
    "local",
    [
        {"name": b"X.jpg"},
        {"name": b"1.jpeg"},
        {"method": 0},
        {"flags": 1},
        {"sizes": (1, len(ONE.packed), len(ONE.data))},
        {"sizes": (zlib.crc32(ONE.data), 5, len(ONE.data))},
        {"sizes": (zlib.crc32(ONE.data), len(ONE.packed), 7)},
        {"sizes": (0, 0, 0)},
        {"sizes": (0, 0, 7), "flags": 8},
    ],
)
def test_an_entry_whose_own_header_contradicts_the_directory_is_a_problem_of_its_own(local: dict[str, object]) -> None:
    first, second = contents(archive(Packed(ONE.name, ONE.data, local=local), TWO))
    assert isinstance(first, PictureError) and "contradicts the directory" in first.reason
    assert second == TWO.data


def test_packed_bytes_that_say_more_or_less_are_a_problem_of_their_own() -> None:
    class Longer(Packed):
        @property
        def packed(self) -> bytes:
            return super().packed + b"behind"

    class Shorter(Packed):
        @property
        def packed(self) -> bytes:
            return super().packed[:-2]

    class Other(Packed):
        @property
        def packed(self) -> bytes:
            return b"\xff" * 9

    for kind in (Longer, Shorter, Other):
        first, second = contents(archive(kind(ONE.name, ONE.data), TWO))
        assert isinstance(first, PictureError) and "damaged in the archive" in first.reason
        assert second == TWO.data


def test_a_cut_anywhere_is_found() -> None:
    body = archive(ONE, TWO, Packed(b"in.zip", WHOLE, method=0))
    for cut in range(len(body)):
        with pytest.raises(MalformedBody):
            found(body[:cut])


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_a_flipped_bit_never_loses_or_changes_a_picture_without_a_word(at: int, bit: int) -> None:
    body = bytearray(WHOLE)
    body[at] ^= 1 << bit
    try:
        given_now = contents(bytes(body))
    except ServiceError:
        return
    assert len(given_now) == 2
    for content, one in zip(given_now, (ONE, TWO), strict=True):
        assert content == one.data or isinstance(content, PictureError)


# Real archives from shared/cases

handed = pytest.mark.skipif(not CASES.is_dir(), reason="no cases: the folder ../shared/cases/pictures is not there")


@handed
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zip64_small", ["a.jpg", "b.jpg"]),
        ("archiver64", ["ä/a.jpg"]),
        ("mac_utf8_noflag", ["Präparat_ü.jpg", "細胞.jpg"]),
    ],
)
def test_cases_that_were_refused_or_misnamed(name: str, expected: list[str]) -> None:
    cell = (CASES / "base.jpg").read_bytes()
    uploads = found((CASES / f"{name}.zip").read_bytes())
    assert [upload.name for upload in uploads] == expected
    assert all(upload.content == cell for upload in uploads)


def test_zipfile_agrees_where_nothing_is_wrong() -> None:
    assert contents(zipped([("1", b"one"), ("2", b"")])) == [b"one", b""]
