"""Labels from folders and lists: names of classes, readers, patients, and what is refused."""

from pathlib import Path

import pytest

from model.contract import CLASSES
from service.verification.errors import VerificationError
from service.verification.labelled_cells import ClassNames, LabelledCells, read_folders, read_list

NAMES = ClassNames(CLASSES, {"Stabkernige": "NGB", "mast cell": "none"})


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"a picture")
    return folder


def listed(folder: Path, text: str, encoding: str = "utf-8") -> LabelledCells:
    (folder / "labels.csv").write_text(text, encoding)
    return read_list(folder / "labels.csv", files(folder, "a.png", "b.png", "c.png"), NAMES)


def test_a_class_is_found_by_code_by_name_and_by_mapping(tmp_path: Path) -> None:
    folder = files(tmp_path, "bla/1.png", "Promyelocyte/2.png", "stabkernige/3.png", "MAST CELL/4.png")
    found = {cell.name: (cell.label, cell.patient) for cell in read_folders(folder, NAMES).cells}
    assert found == {
        "bla/1.png": ("BLA", None),
        "Promyelocyte/2.png": ("PMO", None),
        "stabkernige/3.png": ("NGB", None),
        "MAST CELL/4.png": (None, None),
    }


def test_the_second_folder_is_the_patient(tmp_path: Path) -> None:
    folder = files(tmp_path, "BLA/p1/1.png", "BLA/p2/slide 3/2.png")
    assert [cell.patient for cell in read_folders(folder, NAMES).cells] == ["p1", "p2"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "no pictures"),
        (["1.png"], "1.png is in no class folder: sort the pictures into FOLDER/CLASS/"),
        (["BLA/1.png", "BLA/p/2.png"], "some pictures are in a patient's folder and some are not"),
        (
            ["x/1.png", "y y/2.png"],
            "unknown labels: x, y y. Add --map 'x=CODE' --map 'y y=CODE'; CODE is none for a class",
        ),
    ],
)
def test_folders_that_cannot_be_read_say_why(names: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=problem):
        read_folders(files(tmp_path, *names), NAMES)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_may_come_from_any_spreadsheet(mark: str, encoding: str, tmp_path: Path) -> None:
    text = "file,label,patient\r\na.png,BLA,Ü1\r\nb.png,mast cell,Ü1\r\nc.png,EOS,2\r\n".replace(",", mark)
    found = listed(tmp_path, text, encoding)
    assert [(cell.name, cell.label, cell.patient) for cell in found.cells] == [
        ("a.png", "BLA", "Ü1"),
        ("b.png", None, "Ü1"),
        ("c.png", "EOS", "2"),
    ]


def test_most_readers_decide_and_a_tie_has_no_label(tmp_path: Path) -> None:
    rows = ["a.png,BLA,r1", "a.png,BLA,r2", "a.png,MON,r3", "b.png,BLA,r1", "b.png,mast cell,r2", "c.png,EOS,r1"]
    found = listed(tmp_path, "\n".join(["file,label,reader", *rows]))
    labels = [(cell.name, cell.label, cell.undecided) for cell in found.cells]
    assert labels == [("a.png", "BLA", False), ("b.png", None, True), ("c.png", "EOS", False)]
    assert found.cells[0].readings == {"r1": "BLA", "r2": "BLA", "r3": "MON"}
    assert found.cells[1].readings == {"r1": "BLA", "r2": None}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "needs the columns file and label, each once; it has none"),
        ("path,label\na.png,BLA\n", "needs the columns file and label, each once; it has path, label"),
        ("file,label,label\na.png,BLA,MON\n", "each once; it has file, label, label"),
        ("file,label\n\n\na.png,\n", "line 4: file or label is missing"),
        ("file,label\na.png,\n", "line 2: file or label is missing"),
        ("file,label\na.png,BLA,more\n", "line 2: file or label is missing, or the row has too many cells"),
        ("file,label\n", "no labelled pictures"),
        ("file,label\nd.png,BLA\ne.png,BLA\n", "not found in .*: d.png, e.png .2 in all."),
        ("file,label\na.png,BLA\na.png,BLA\n", "a.png occurs twice for the same reader"),
        ("file,label,reader\na.png,BLA,r1\na.png,MON,r1\n", "a.png occurs twice for the same reader"),
        ("file,label,reader,patient\na.png,BLA,r1,1\na.png,BLA,r2,2\n", "a.png has several patients"),
        (
            "file,label,patient\na.png,BLA,1\nb.png,BLA,\n",
            "some rows have no patient; fill it in everywhere or nowhere",
        ),
        ("file,label\na.png,blast cells\n", "unknown labels: blast cells"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=problem):
        listed(tmp_path, text)


def test_a_list_of_another_encoding_or_none_at_all_says_so(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="not UTF-8; save it as CSV UTF-8"):
        listed(tmp_path, "file,label\nü.png,BLA\n", "latin-1")
    with pytest.raises(VerificationError, match="No such file"):
        read_list(tmp_path / "missing.csv", tmp_path, NAMES)


def test_empty_rows_quotes_and_other_spellings_of_a_path(tmp_path: Path) -> None:
    text = 'file,label,reader\na.png,BLA,"one, ""1"""\n,,\n./a.png,BLA,two\nBLA/../b.png,MON,two\n  ,,\n'
    found = listed(tmp_path, text)
    assert [(cell.name, cell.readings) for cell in found.cells] == [
        ("a.png", {'one, "1"': "BLA", "two": "BLA"}),
        ("b.png", {"two": "MON"}),
    ]


def test_a_plurality_is_no_majority(tmp_path: Path) -> None:
    rows = [f"a.png,{label},r{at}" for at, label in enumerate(["BLA", "BLA", "MON", "EOS", "LYT"])]
    (cell,) = listed(tmp_path, "\n".join(["file,label,reader", *rows])).cells
    assert (cell.label, cell.undecided) == (None, True)


def test_a_mapping_to_no_class_of_the_model_is_refused() -> None:
    with pytest.raises(VerificationError, match="--map Stab=XYZ: the model has no class XYZ; one of ABE"):
        ClassNames(CLASSES, {"Stab": "XYZ"})
