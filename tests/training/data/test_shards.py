"""Tar shards as a data source: classes, patients and bytes, and error messages."""

import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from training.data.layouts import SourceIndex, index_source
from training.data.samples import DataError, read_image_bytes
from training.data_config import SourceConfig

CODES = ("BLA", "EOS", "PMO")


def _index(root: Path, **told: Any) -> SourceIndex:
    return index_source(root, SourceConfig(name="set", licence="CC0", attribution="nobody", **told), CODES)


def _seen(found: SourceIndex) -> list[tuple[str, str, str]]:
    return [(sample.code, sample.name, sample.patient) for sample in found.samples]


def _tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_shards_give_classes_patients_and_bytes_wherever_a_picture_lies(tmp_path: Path) -> None:
    _tar(
        tmp_path / "set" / "00.tar",
        {
            "cell.1.json": b'{"Label": "blast", "patient": 12}',
            "cell.1.png": b"a mask" * 200,
            "7.cls": b"EOS\n",
            "7.jpg": b"seven",
            "._7.jpg": b"what a Mac adds",
            "notes.txt": b"",
        },
    )
    _tar(tmp_path / "set" / "01.tar", {"PMO/0001-1000/PMO_00001.jpg": b"one", "platelet/2.jpg": b"two"})
    found = _index(tmp_path, shards="set/*.tar", classes={"blast": "BLA"}, leave_out=("platelet",))
    assert _seen(found) == [
        ("BLA", "set/00.tar/cell.1.png", "12"),
        ("EOS", "set/00.tar/7.jpg", ""),
        ("PMO", "set/01.tar/PMO/0001-1000/PMO_00001.jpg", ""),
    ]
    assert [read_image_bytes(sample) for sample in found.samples] == [b"a mask" * 200, b"seven", b"one"]
    assert found.left_out == Counter(platelet=1)


@pytest.mark.parametrize(
    ("members", "mode", "says"),
    [
        ({}, None, "no such shards; source 'set' expects tar files"),
        ({"1.jpg": b"1"}, "w", "1.jpg: no class: there is no .cls or .json with its key"),
        (
            {"1.jpg": b"1", "1.cls": b"3"},
            "w",
            "1.jpg: unknown class '3'; (.|\n)*classes = ",
        ),
        ({"1.jpg": b"1", "1.cls": b"\xff"}, "w", "1.cls: cannot be read"),
        ({"1.jpg": b"1", "1.json": b"{"}, "w", "1.json: cannot be read"),
        ({"1.jpg": b"1", "1.json": b"[]"}, "w", "1.json: expected a JSON object"),
        ({"1.jpg": b"1", "1.cls": b"BLA", "1.seg.png": b"2"}, "w", "1.jpg and 1.seg.png share a key"),
        ({"BLA/1.jpg": b"1"}, "w:gz", "not an intact, uncompressed tar: it is compressed with gzip; decompress it"),
    ],
)
def test_a_shard_that_cannot_be_learned_from_names_the_member(
    tmp_path: Path, members: dict[str, bytes], mode: str | None, says: str
) -> None:
    if mode:
        _tar(tmp_path / "set" / "00.tar", members, mode)
    with pytest.raises(DataError, match=says):
        _index(tmp_path, shards="set/*.tar")


def test_a_shard_that_lost_pictures_says_how_many_were_read(tmp_path: Path) -> None:
    shard = tmp_path / "00.tar"
    _tar(shard, {f"BLA/{at}.jpg": b"1" * 600 for at in range(3)})
    whole = shard.read_bytes()
    second = whole.index(b"BLA/1.jpg")
    for damaged, count in (
        (whole[:second], 1),
        (whole[: second + 700], 1),
        (whole[:second] + b"?" + whole[second + 1 :], 1),
        (whole * 2, 3),
        (whole + b"x", 3),
    ):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"not an intact, uncompressed tar: .*\(after {count} pictures\)"):
            _index(tmp_path, shards="00.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
@pytest.mark.parametrize("name", ["BLA/1.jpg", "BLA/1.cls"])
def test_a_picture_or_label_that_a_shard_does_not_hold_is_named(tmp_path: Path, kind: bytes, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    (tmp_path / "00.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=f"{name}: (a link or a special file|stored sparse)"):
        _index(tmp_path, shards="00.tar")


def test_a_label_is_bounded(tmp_path: Path) -> None:
    _tar(tmp_path / "00.tar", {"1.jpg": b"1", "1.json": b" " * 1_048_577})
    with pytest.raises(DataError, match="1.json: 1048577 bytes; labels may have at most 1048576"):
        _index(tmp_path, shards="00.tar")
    _tar(tmp_path / "00.tar", {"1.jpg": b"1", "1.json": b"[" * 900_000})
    with pytest.raises(DataError, match="1.json: cannot be read"):
        _index(tmp_path, shards="00.tar")


def test_one_member_twice_in_a_shard_is_refused(tmp_path: Path) -> None:
    _tar(tmp_path / "00.tar", {"BLA/1.jpg": b"1"})
    _tar(tmp_path / "00.tar", {"BLA/1.jpg": b"2"}, "a")
    with pytest.raises(DataError, match="occurs twice in source 'set'"):
        _index(tmp_path, shards="00.tar")
