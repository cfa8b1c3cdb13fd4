"""CSV that spreadsheets do not compute, and that comes back as it was."""

import csv
import io
from collections.abc import Sequence

import pytest
from checkout import ROOT
from hypothesis import given
from hypothesis import strategies as st

from model import csv_file

FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    "＋1",
    "－1",
    "＠x",
    "=",
    "-",
]


def written(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv_file.Writer(text).writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("before", ["", "'", "'''"])
def test_no_cell_is_a_formula_and_every_cell_comes_back(text: str, before: str) -> None:
    cell = before + text
    (plain,) = csv.DictReader(io.StringIO(written([["name", "figure"], [cell, -0.5]]), newline=""))
    assert plain == {"name": "'" + cell, "figure": "-0.5"}
    assert csv_file.unguarded(plain["name"]) == cell


@pytest.mark.parametrize("number", ["-0.1234", "+3", "-1e-05", "17"])
def test_a_number_stays_as_it_is(number: str) -> None:
    assert csv_file.guarded(number) == number and csv_file.guarded(float(number)) == float(number)


@given(st.lists(st.lists(st.text(alphabet=st.characters(exclude_categories=("Cs",))), min_size=2, max_size=2)))
def test_any_text_comes_back(rows: list[list[str]]) -> None:
    text = written([["a", "b"], *rows])
    assert [list(row.values()) for row in csv_file.reader(io.StringIO(text, newline=""))] == rows
    for row in list(csv.reader(io.StringIO(text, newline="")))[1:]:
        assert all(not cell[:1] or cell[0] not in "=@\t\r\n" for cell in row)


@given(st.from_regex(r"'*[=+\-@]?.{0,3}", fullmatch=True))
def test_apostrophes_are_told_from_those_that_were_added(cell: str) -> None:
    assert csv_file.unguarded(str(csv_file.guarded(cell))) == cell


def test_a_row_of_another_length_is_an_error() -> None:
    for row in ("1\n", "1,2,3\n"):
        with pytest.raises(csv.Error, match="another number of cells"):
            list(csv_file.reader(io.StringIO("a,b\n" + row)))


def test_every_csv_of_the_project_is_written_here() -> None:
    """But for a table of packages that an image is built with, where there is no `model`."""
    root = ROOT
    found = [
        path.relative_to(root).as_posix()
        for folder in ("model", "service", "training", "bench", "docker", "k8s", "stress", "examples")
        for path in (root / folder).rglob("*.py")
        if "csv.writer(" in (text := path.read_text(encoding="utf-8")) or "csv.DictWriter(" in text
    ]
    assert found == ["model/csv_file.py", "docker/licences.py"]
