"""Tars as they are written, damaged and forged: every byte is accounted for, in little memory and time."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from checkout import SHARED
from hypothesis import given
from hypothesis import strategies as st
from serving import tarred
from tars import END, header, member, pax, record, sealed, sparse_by_gnu, with_every_format

from model.tar_reader import MAX_EXTENDED_BYTES, MAX_RECORDS, DamagedTar, Kind, Member, members

CASES = SHARED / "cases" / "pictures"
THREE = [("a/1.jpg", b"one" * 300), ("2.jpg", b""), ("3.jpg", bytes(range(256)) * 4)]


def found(archive: bytes) -> list[Member]:
    return list(members(io.BytesIO(archive)))


def contents(archive: bytes) -> dict[str, bytes]:
    return {one.name: archive[one.offset : one.offset + one.size] for one in found(archive)}


def read_until_damaged(archive: bytes) -> tuple[list[str], str]:
    """Names before the damage, and what it is."""
    names: list[str] = []
    with pytest.raises(DamagedTar) as damage:
        for one in members(io.BytesIO(archive)):
            names.append(one.name)
    return names, str(damage.value)


# What ordinary writers make


@pytest.mark.parametrize("name", ["a.jpg", "n" * 100, "n" * 101, "d/" * 60 + "a.jpg", "ä" * 400, "d/" * 2000 + "a.jpg"])
def test_every_format_gives_names_and_bytes(name: str) -> None:
    for title, archive in with_every_format(name, b"picture").items():
        assert contents(archive) == {name: b"picture"}, title


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar on this machine")
@pytest.mark.parametrize("options", [["-H", "ustar"], ["-H", "gnu"], ["-H", "pax"], ["-H", "v7"], ["-V", "a label"]])
def test_what_tar_itself_writes(options: list[str], tmp_path: Path) -> None:
    names = [f"folder/{'n' * 60}-{at}.jpg" for at in range(5)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 100)
    subprocess.run(["tar", *options, "-cf", "a.tar", "folder"], cwd=tmp_path, check=True, capture_output=True)
    with (tmp_path / "a.tar").open("rb") as file:
        files = {one.name: one for one in members(file) if one.kind is Kind.FILE}
        assert sorted(files) == names
        for name, one in files.items():
            file.seek(one.offset)
            assert file.read(one.size) == name.encode() * 100


def test_joined_by_tar_is_one_archive_and_joined_by_cat_is_refused(tmp_path: Path) -> None:
    first, second = tarred(THREE[:1]), tarred(THREE[1:])
    names, reason = read_until_damaged(first + second)
    assert names == ["a/1.jpg"]
    assert reason.startswith(f"more data at byte {len(first)}, after the end marker") and "--concatenate" in reason
    if shutil.which("tar"):
        (tmp_path / "a.tar").write_bytes(first)
        (tmp_path / "b.tar").write_bytes(second)
        subprocess.run(["tar", "--concatenate", "-f", "a.tar", "b.tar"], cwd=tmp_path, check=True)
        assert contents((tmp_path / "a.tar").read_bytes()) == dict(THREE)


def test_kinds_of_members() -> None:
    archive = b"".join(
        [
            header("label", b"V"),
            header("d", b"5", 4096),  # a size that no data follows
            member("dump", b"Ya.jpg\0\0", b"D"),
            header("old/", b"\0"),
            header("new/", b"0"),
            *(header(kind, kind.encode()) for kind in "12346"),
            member("unknown", b"x", b"Q"),
            member("volume", b"the rest", b"M"),
            member("not a folder/", b"data", b"\0"),
            member("label with data", b"data", b"V"),
            member("7", b"seven", b"7"),
            END,
        ]
    )
    kinds = {one.name: one.kind for one in found(archive)}
    folders, special = ["label", "d/", "dump", "old/", "new/"], [*"12346", "unknown", "label with data"]
    assert [name for name, kind in kinds.items() if kind is Kind.FOLDER] == folders
    assert [name for name, kind in kinds.items() if kind is Kind.SPECIAL] == special
    assert [name for name, kind in kinds.items() if kind is Kind.FILE] == ["not a folder/", "7"]
    assert kinds["volume"] is Kind.PIECES


def test_times_of_an_incremental_gnu_archive_are_no_part_of_a_name() -> None:
    block = sealed(header("a.jpg", magic=b"ustar  \0"), {345: b"14523654123\0"})
    assert [one.name for one in found(block + END)] == ["a.jpg"]


# Damage


def test_a_cut_anywhere_is_found_or_loses_nothing() -> None:
    whole = tarred(THREE)[: 512 * 9]
    ends = [one.offset + -(-one.size // 512) * 512 for one in found(whole + END)]
    for cut in range(len(whole)):
        try:
            names = [one.name for one in found(whole[:cut])]
        except DamagedTar:
            assert cut < ends[-1] + 512
        else:
            assert names == [name for name, _ in THREE] and cut >= ends[-1] + 512


@given(at=st.integers(0, 512 * 8 - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_header_is_found_or_changes_no_size_and_no_count(at: int, bit: int) -> None:
    whole = bytearray(tarred(THREE)[: 512 * 9])
    whole[at] ^= 1 << bit
    before = [(one.offset, one.size, one.kind) for one in found(tarred(THREE))]
    try:
        after = [(one.offset, one.size, one.kind) for one in found(bytes(whole))]
    except DamagedTar:
        return
    assert after == before


@pytest.mark.parametrize("blocks", range(1, 9))
def test_zeroed_blocks_are_no_end(blocks: int) -> None:
    """As a damaged disk leaves them."""
    whole = bytearray(tarred([(f"{at}.jpg", bytes([at + 1]) * 900) for at in range(9)]))
    first = found(bytes(whole))[3].offset - 512
    whole[first : first + blocks * 512] = bytes(blocks * 512)
    names, reason = read_until_damaged(bytes(whole))
    assert names == ["0.jpg", "1.jpg", "2.jpg"] and "after the end marker" in reason


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", "the end marker is missing"),
        (b"abc", "the end marker is missing"),
        (bytes(511), "the end marker is missing"),
        (b"\x1f\x8b" + bytes(2000), r"compressed with gzip"),
        (b"BZh9" + bytes(2000), r"compressed with bzip2"),
        (b"\x28\xb5\x2f\xfd" + bytes(2000), r"compressed with zstd"),
        (b"PK\x03\x04" + bytes(2000), "a ZIP archive, not a tar"),
        (b"no header".ljust(2000), "it has no tar header"),
        (tarred(THREE) + b"x", "after the end marker"),
        (tarred(THREE) + bytes(5_000_000) + b"x", "after the end marker"),
        (header("a.jpg", size=100), "cut off within 'a.jpg': 0 of its 100 bytes"),
        (header("a.jpg", size=8**11 - 1) + END, "cut off within 'a.jpg'"),
        (header("a.jpg", size=-1) + END, "the size -1"),
        (header("a.jpg", size=-(2**60)) + END, "the size -"),
        (sealed(header("a.jpg"), {124: b"\x80" + b"\xff" * 11}) + END, "cut off within"),
        (sealed(header("a.jpg"), {124: b"123456789x12"}) + END, "no tar header"),
        (pax(record("comment", "x"), kind=b"g") + member("a.jpg", b"a") + END, "global extended header"),
        (pax(record("size", "-1")) + member("a.jpg", b"a") + END, "size '-1'"),
        (pax(record("size", "9" * 30)) + member("a.jpg", b"a") + END, "the size '9"),
        (pax(record("size", "5")) + member("a.jpg", b"abcdefg") + END, "two sizes for 'a.jpg': 7 and 5"),
        (pax(b"9 path=a\n") * 2 + member("a.jpg", b"a") + END, "two extended headers of type x"),
        (member("L", b"long.jpg\0", b"L") * 2 + member("a.jpg") + END, "two extended headers of type L"),
        (member("K", b"target\0", b"K") * 2 + header("a.jpg", b"2") + END, "two extended headers of type K"),
        (pax(b"9 path=a\n") + END, "after an extended header"),
        (pax(b"9 path=a\n"), "the end marker is missing"),
        (pax(b"99 path=a\n") + member("a.jpg") + END, "damaged extended header"),
        (pax(b"8 path=a\n") + member("a.jpg") + END, "damaged extended header"),
        (pax(b"0 path=a\n") + member("a.jpg") + END, "damaged extended header"),
        (pax(b"path=a\n") + member("a.jpg") + END, "damaged extended header"),
        (member("x", bytes(MAX_EXTENDED_BYTES + 1), b"x") + END, "extended header of 65537 bytes"),
        (pax(*[b"6 a=b\n"] * (MAX_RECORDS + 1)) + member("a.jpg") + END, "more than 256 records"),
        (header("x", b"x", 8**11 - 1) + END, "extended header of 8589934591 bytes"),
        (header("x", b"L", MAX_EXTENDED_BYTES), "while it was read"),
        (header("x", b"S", magic=b"ustar  \0")[:482] + b"\1" + bytes(29) + END, "no tar header"),
        (sparse_by_gnu(3)[:1024], "the end marker is missing"),
    ],
)
def test_what_is_refused_says_why(archive: bytes, reason: str) -> None:
    with pytest.raises(DamagedTar, match=reason):
        found(archive)


def test_an_extended_size_stands_for_a_header_without_one() -> None:
    """As POSIX has it, and as tarfile writes where it is told a size."""
    block = pax(record("size", "7"), record("path", "b.jpg")) + header("a.jpg") + b"picture".ljust(512, b"\0")
    assert contents(block + END) == {"b.jpg": b"picture"}


@pytest.mark.parametrize(
    "archive",
    [
        sparse_by_gnu(1),
        pax(record("GNU.sparse.size", "9"), record("GNU.sparse.map", "0,1,8,1")) + member("s.png", b"12"),
        pax(*(record("GNU.sparse.offset", "0"), record("GNU.sparse.numbytes", "1")) * 99) + member("s.png", b"12"),
        pax(record("GNU.sparse.major", "1"), record("GNU.sparse.name", "s.png"))
        + member("GNUSparseFile.1/s", b"1\n0\n"),
        pax(record("path", "s.png"), record("GNU.sparse.realsize", "9")) + member("x", b"1\n0\n"),
    ],
)
def test_sparse_members_are_told_and_their_neighbours_read(archive: bytes) -> None:
    first, middle, last = found(member("a.jpg", b"a") + archive + member("b.jpg", b"b") + END)
    assert (first.name, last.name) == ("a.jpg", "b.jpg")
    assert middle.kind is Kind.PIECES and middle.name in ("sparse.png", "s.png")


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar on this machine")
@pytest.mark.parametrize("form", ["gnu", "pax"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_members_of_tar_itself(form: str, version: str, tmp_path: Path) -> None:
    with (tmp_path / "s.png").open("wb") as file:
        for at in range(40):
            file.seek(at * 1_000_000)
            file.write(b"x")
    (tmp_path / "a.jpg").write_bytes(b"a")
    command = ["tar", "-S", f"--sparse-version={version}", "-H", form, "-cf", "a.tar", "s.png", "a.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    kinds = [(one.name, one.kind) for one in found((tmp_path / "a.tar").read_bytes())]
    assert kinds == [("s.png", Kind.PIECES), ("a.jpg", Kind.FILE)]


# Those handed over


@pytest.mark.skipif(not CASES.is_dir(), reason="no cases: the folder ../shared/cases/pictures is not there")
@pytest.mark.parametrize(("name", "whole"), [("two", 1), ("damaged_header", 1), ("cut_at_member", 2)])
def test_cases_that_lost_pictures(name: str, whole: int) -> None:
    names, _ = read_until_damaged((CASES / f"{name}.tar").read_bytes())
    assert len(names) == whole


def test_tarfile_agrees_where_nothing_is_wrong() -> None:
    archive = tarred(THREE)
    with tarfile.open(fileobj=io.BytesIO(archive)) as theirs:
        expected = [(one.name, one.offset_data, one.size) for one in theirs]
    assert [(one.name, one.offset, one.size) for one in found(archive)] == expected
