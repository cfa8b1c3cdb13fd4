"""Class folders and lists as data sources, and their error messages."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from training.data.layouts import SourceIndex, index_source
from training.data.samples import DataError
from training.data_config import SourceConfig

CODES = ("BLA", "EOS", "PMO")
FOLDER = {"folder": "set"}


def _index(root: Path, **told: Any) -> SourceIndex:
    return index_source(root, SourceConfig(name="set", licence="CC0", attribution="nobody", **told), CODES)


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).write_bytes(name.encode())


def _seen(found: SourceIndex) -> list[tuple[str, str, str]]:
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
    _touch(tmp_path, "BLA/BLA_00001.JPG", "BLA/notes.txt", ".cache/x.jpg", "README.md", "stray.jpg", ".hidden")
    found = _index(tmp_path, **FOLDER)
    assert [s.path.name for s in found.samples] == ["BLA_00001.JPG"]
    assert found.passed_over == {
        ".txt": 1,
        ".md outside the class folders": 1,
        ".jpg outside the class folders": 1,
    }


def test_classes_of_another_data_set_are_renamed_or_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "blast/1.jpg", "EOS/1.jpg", "platelet/1.jpg", "platelet/2.jpg")
    found = _index(tmp_path, **FOLDER, classes={"blast": "BLA"}, leave_out=("platelet",))
    assert [s.code for s in found.samples] == ["BLA", "EOS"]
    assert found.left_out == Counter(platelet=2)


@pytest.mark.parametrize(
    ("names", "told", "says"),
    [
        ((), {}, "no such folder; source 'set' expects one folder per class"),
        (("loose.jpg",), {}, "no class folders; expected folders named BLA, EOS, PMO"),
        (("bla/1.jpg",), {}, 'unknown class \'bla\'; the class list has BLA, EOS, PMO(.|\n)*classes = {"bla" = "BLA"}'),
        (
            ("Erythroblast ortho ö/1.jpg", "eosinophil/2.jpg", "ß/1.jpg"),
            {},
            "3 unknown classes: 'Erythroblast ortho ö', 'eosinophil', 'ß'; (.|\n)*"
            'classes = {"Erythroblast ortho ö" = "Erythroblast_ortho_o", "eosinophil" = "EOS", "ß" = "ss"}',
        ),
        (
            ("blast/1.jpg",),
            {"classes": {"blast": "BLAST"}},
            "unknown class 'BLAST' in `classes` of the source; did you mean 'BLA'",
        ),
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
        (None, {}, "no such file"),
        ("", {}, "is empty"),
        ("file,class\n", {}, "no rows below its header"),
        ("file,class\n1.jpg,BLA\n2.jpg,EOS,p1\n", {}, "row 3 has 3 columns, the header 2"),
        (
            "name,class\n1.jpg,BLA\n",
            {},
            "no column for the file, expected one of file, path, .*the file has 'name', 'class'",
        ),
        ("file,what\n1.jpg,BLA\n", {}, "no column for the class"),
        ("file,class\n1.jpg,BLA\n", {"columns": {"code": "kind"}}, "no column for the class, 'kind'; the file has"),
        ("file,class\n1.jpg,BLA\n", {"columns": {"patient": "who"}}, "no column for the patient, 'who'"),
        ("file,class\n1.jpg,BLA\n2.jpg,BLAA\n", {}, 'row 3: unknown class \'BLAA\'; (.|\n)*"BLAA" = "BLA"'),
        ("file,class\n1.jpg,BLA\n\n3.jpg,BLA\n", {}, "row 4: no file '3.jpg' in "),
        ("file,class\n1.jpg,BLA\n2.jpg,EOS\n./1.jpg,EOS\n", {}, "row 4: '1.jpg' is already listed in row 2"),
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
        "from pathlib import Path; from training.data.tables import read_table\n"
        "try: read_table(Path(sys.argv[1]))\n"
        "except Exception as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "list.parquet"], capture_output=True, text=True, check=True
    )
    assert said.stdout.endswith("Parquet needs pyarrow: pip install -e '.[parquet]'\n")


def test_folders_that_vanish_while_they_are_listed_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "EOS/a/1.jpg", "EOS/b/2.jpg", "EOS/0.jpg")
    walk = os.walk

    def vanishing(*arguments: Any, **more: Any) -> Iterator[Any]:
        for found in walk(*arguments, **more):
            shutil.rmtree(tmp_path / "set" / "EOS" / "b", ignore_errors=True)
            yield found

    monkeypatch.setattr("training.data.layouts.os.walk", vanishing)
    assert [sample.name for sample in _index(tmp_path, folder="set").samples] == ["0.jpg", "a/1.jpg"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set" / "EOS").mkdir(parents=True)

    def refusing(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[Any]:
        onerror(PermissionError(13, "Permission denied", str(folder)))
        return iter(())

    monkeypatch.setattr("training.data.layouts.os.walk", refusing)
    with pytest.raises(DataError, match="EOS: cannot be listed .Permission denied."):
        _index(tmp_path, folder="set")
