"""CSV whose cells no spreadsheet takes for formulas, and the way back.

A text that a spreadsheet would compute (OWASP, "CSV Injection") gets an apostrophe in front: one that begins with = + -
@, a tab or a line end, after any number of apostrophes. `reader` takes it away again, so every text comes back as it
was. Numbers stay as they are.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, BinaryIO

from model import atomic_file

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_GUARDED = re.compile("'+[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


def guarded(cell: object) -> object:
    """A cell as it is written."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def unguarded(cell: str) -> str:
    """A cell as it was before it was written."""
    return cell[1:] if _GUARDED.match(cell) else cell


class Writer:
    """Rows as CSV into a text file that was opened with newline="" ."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._rows = csv.writer(self, lineterminator="\r\n")  # so that a cell with either of them is quoted

    def write(self, line: str) -> None:
        """One line from `csv`, which calls this once a row."""
        self._file.write(line.removesuffix("\r\n") + "\n")

    def writerow(self, row: Iterable[object]) -> None:
        self._rows.writerow([guarded(cell) for cell in row])

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        for row in rows:
            self.writerow(row)


@contextmanager
def writing(file: BinaryIO) -> Iterator[Writer]:
    """Rows of a CSV, in UTF-8, into a file that stays open."""
    text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        yield Writer(text)
    finally:
        text.detach()


@contextmanager
def replacing(path: Path) -> Iterator[Writer]:
    """Rows of a CSV that takes its name when all has gone well (`atomic_file.replacing`)."""
    with atomic_file.replacing(path) as file, writing(file) as rows:
        yield rows


def reader(file: IO[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV that `Writer` wrote, by the names of its header.

    Raises:
        csv.Error: a row has another number of cells.
    """
    for row in csv.DictReader(file):
        if None in row or None in row.values():
            raise csv.Error("a row has another number of cells than the header")
        yield {name: unguarded(cell) for name, cell in row.items()}
