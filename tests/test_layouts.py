"""Sources as they lie on disk: class folders, lists and tar shards, and what is said of one that cannot be read."""

import io
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from training.data import DataError, read
from training.data_config import SourceConfig
from training.layouts import Found, index_source

CODES = ("BLA", "EOS", "PMO")
FOLDER = {"folder": "set"}


def _index(root: Path, **told: Any) -> Found:
    return index_source(root, SourceConfig(name="set", licence="CC0", attribution="nobody", **told), CODES)


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).write_bytes(name.encode())


def _seen(found: Found) -> list[tuple[str, str, str]]:
    return [(sample.code, sample.name, sample.patient) for sample in found.samples]


def test_flat_and_numbered_folders_read_alike(tmp_path: Path) -> None:
    _touch(tmp_path, "BLA/BLA_00002.jpg", "BLA/BLA_00001.jpg")
    _touch(tmp_path, "PMO/1001-2000/PMO_01001.jpg", "PMO/0001-1000/PMO_00002.jpg", "PMO/0001-1000/PMO_00001.png")
    assert [(s.code, s.path.name) for s in _index(tmp_path, **FOLDER).samples] == [
        ("BLA", "BLA_00001.jpg"),
        ("BLA", "BLA_00002.jpg"),
        ("PMO", "PMO_00001.png"),
        ("PMO", "PMO_00002.jpg"),
        ("PMO", "PMO_01001.jpg"),
    ]


def test_a_folder_for_each_patient_stays_together(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"BLA/{patient}/{number}.jpg" for number in (1, 2) for patient in ("p1", "p2", "p10")))
    found = _index(tmp_path, **FOLDER, patient_pattern="^([^/]+)/")
    assert [s.patient for s in found.samples] == ["p1", "p1", "p10", "p10", "p2", "p2"]


def test_what_is_no_picture_is_not_a_sample(tmp_path: Path) -> None:
    _touch(tmp_path, "BLA/BLA_00001.JPG", "BLA/notes.txt", ".cache/x.jpg", "README.md")
    assert [s.path.name for s in _index(tmp_path, **FOLDER).samples] == ["BLA_00001.JPG"]


def test_classes_of_another_data_set_are_renamed_or_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "blast/1.jpg", "EOS/1.jpg", "platelet/1.jpg", "platelet/2.jpg")
    found = _index(tmp_path, **FOLDER, classes={"blast": "BLA"}, leave_out=("platelet",))
    assert [s.code for s in found.samples] == ["BLA", "EOS"]
    assert found.left_out == Counter(platelet=2)


@pytest.mark.parametrize(
    ("names", "told", "says"),
    [
        ((), {}, "no such folder; source 'set' expects one folder a class"),
        (("loose.jpg",), {}, "no class folders; expected folders named BLA, EOS, PMO"),
        (("bla/1.jpg",), {}, "'bla' is not in the class list; did you mean BLA"),
        (("QQQ/1.jpg",), {}, "'QQQ' is not in the class list; expected one of BLA, EOS, PMO; or name it under"),
        (("blast/1.jpg",), {"classes": {"blast": "BLAST"}}, "'BLAST' is not in the class list; did you mean BLA"),
        (("BLA/1.jpg",), {"patient_pattern": "p([0-9]+)"}, r"patient_pattern 'p\(\[0-9\]\+\)' does not match '1.jpg'"),
    ],
)
def test_a_folder_that_cannot_be_learned_from_is_named(
    tmp_path: Path, names: Sequence[str], told: dict[str, Any], says: str
) -> None:
    _touch(tmp_path, *names)
    with pytest.raises(DataError, match=says) as caught:
        _index(tmp_path, **FOLDER, **told)
    assert caught.value.path.is_relative_to(tmp_path / "set")


LISTS = {
    "commas": "file,class,patient\nb/2.jpg,BLA,p2\na/1.jpg,EOS,p1\n",
    "a spreadsheet's semicolons and mark": "\ufefffile;class;patient\r\nb/2.jpg;BLA;p2\r\n\r\na/1.jpg;EOS;p1\r\n",
    "other usual names": "Patient_ID,Label,Image Path\np2,BLA,b/2.jpg\np1,EOS,./a/1.jpg\n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("told", [{"list": "set/list.csv"}, {"list": "list.csv", "folder": "set"}])
def test_lists_read_alike(tmp_path: Path, text: str, told: dict[str, str]) -> None:
    _touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / told["list"]).write_text(text, newline="")
    assert _seen(_index(tmp_path, **told)) == [("BLA", "b/2.jpg", "p2"), ("EOS", "a/1.jpg", "p1")]


def test_a_parquet_list_reads_as_a_csv_does(tmp_path: Path) -> None:
    _touch(tmp_path, "1.jpg", "2.jpg")
    columns = {"where": ["1.jpg", "2.jpg"], "what": [7, 9], "who": [None, 3]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "set" / "list.parquet")
    named = {"file": "where", "code": "what", "patient": "who"}
    found = _index(tmp_path, list="set/list.parquet", columns=named, classes={"7": "BLA", "9": "PMO"})
    assert _seen(found) == [("BLA", "1.jpg", ""), ("PMO", "2.jpg", "3")]


def test_a_full_path_below_the_data_is_published_without_it(tmp_path: Path) -> None:
    _touch(tmp_path, "1.jpg")
    (tmp_path / "list.csv").write_text(f"file,class\n{tmp_path / 'set' / '1.jpg'},BLA\n")
    assert _seen(_index(tmp_path, list="list.csv")) == [("BLA", "set/1.jpg", "")]


@pytest.mark.parametrize(
    ("text", "told", "says"),
    [
        (None, {}, "no such list"),
        ("", {}, "is empty"),
        ("file,class\n", {}, "no rows below its header"),
        ("file,class\n1.jpg,BLA\n2.jpg,EOS,p1\n", {}, "row 3 has 3 columns, the header 2"),
        (
            "name,class\n1.jpg,BLA\n",
            {},
            "no column for the file, named as one of file, path, .*there are 'name', 'class'",
        ),
        ("file,what\n1.jpg,BLA\n", {}, "no column for the class"),
        ("file,class\n1.jpg,BLA\n", {"columns": {"code": "kind"}}, "no column for the class, 'kind'; there are"),
        ("file,class\n1.jpg,BLA\n", {"columns": {"patient": "who"}}, "no column for the patient, 'who'"),
        ("file,class\n1.jpg,BLA\n2.jpg,BLAA\n", {}, "row 3: 'BLAA' is not in the class list; did you mean BLA"),
        ("file,class\n1.jpg,BLA\n\n3.jpg,BLA\n", {}, "row 4: no file '3.jpg' in "),
        ("file,class\n1.jpg,BLA\n2.jpg,EOS\n./1.jpg,EOS\n", {}, "row 4: '1.jpg' stands in row 2 already"),
        (b"file,class\n\xff.jpg,BLA\n", {}, "not UTF-8 .*save it as CSV UTF-8"),
        ('file,class\n"1.jpg,BLA\n', {}, "not CSV"),
    ],
)
def test_a_list_that_cannot_be_learned_from_names_row_and_column(
    tmp_path: Path, text: str | bytes | None, told: dict[str, Any], says: str
) -> None:
    _touch(tmp_path, "1.jpg", "2.jpg")
    path = tmp_path / "set" / "list.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=says) as caught:
        _index(tmp_path, list="set/list.csv", **told)
    assert caught.value.path == path


def test_a_broken_parquet_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not Parquet"):
        _index(tmp_path, list="list.parquet")


def test_without_pyarrow_a_parquet_list_names_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").touch()
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path; from training.rows import read_table\n"
        "try: read_table(Path(sys.argv[1]))\n"
        "except Exception as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "list.parquet"], capture_output=True, text=True, check=True
    )
    assert said.stdout.endswith("Parquet needs pyarrow: pip install -e '.[parquet]'\n")


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
    assert [read(sample) for sample in found.samples] == [b"a mask" * 200, b"seven", b"one"]
    assert found.left_out == Counter(platelet=1)


@pytest.mark.parametrize(
    ("members", "mode", "says"),
    [
        ({}, None, "no such shards; source 'set' expects tar files"),
        ({"1.jpg": b"1"}, "w", "1.jpg: no .cls or .json of the same key names its class"),
        (
            {"1.jpg": b"1", "1.cls": b"3"},
            "w",
            "1.jpg: '3' is not in the class list.*name it under the source's classes",
        ),
        ({"1.jpg": b"1", "1.cls": b"\xff"}, "w", "1.cls: cannot be read"),
        ({"1.jpg": b"1", "1.json": b"{"}, "w", "1.json: cannot be read"),
        ({"1.jpg": b"1", "1.json": b"[]"}, "w", "1.json: expected a JSON object"),
        ({"1.jpg": b"1", "1.cls": b"BLA", "1.seg.png": b"2"}, "w", "1.jpg and 1.seg.png are of one key"),
        ({"BLA/1.jpg": b"1"}, "w:gz", "not a whole, plain tar: it is compressed .gzip.; unpack it"),
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
        with pytest.raises(DataError, match=f"not a whole, plain tar: .*; pictures read before that: {count}"):
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
    with pytest.raises(DataError, match="1.json: 1048577 bytes; a label has 1048576 at most"):
        _index(tmp_path, shards="00.tar")
    _tar(tmp_path / "00.tar", {"1.jpg": b"1", "1.json": b"[" * 900_000})
    with pytest.raises(DataError, match="1.json: cannot be read"):
        _index(tmp_path, shards="00.tar")


def test_one_member_twice_in_a_shard_is_refused(tmp_path: Path) -> None:
    _tar(tmp_path / "00.tar", {"BLA/1.jpg": b"1"})
    _tar(tmp_path / "00.tar", {"BLA/1.jpg": b"2"}, "a")
    with pytest.raises(DataError, match="stands twice in source 'set'"):
        _index(tmp_path, shards="00.tar")
