"""CSV files safe against formula injection in spreadsheets (OWASP, "CSV Injection").

`Writer` puts an apostrophe before a text that begins with = + - @, a tab or a line end, after any number of
apostrophes. `reader` removes it again. Numbers are not changed.
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
    """The cell in the file."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def unguarded(cell: str) -> str:
    """The original text of a cell in the file."""
    return cell[1:] if _GUARDED.match(cell) else cell


class Writer:
    """Writes CSV rows to a text file opened with newline=""."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._rows = csv.writer(self, lineterminator="\r\n")  # so that cells with CR or LF are quoted

    def write(self, line: str) -> None:
        """Called by `csv` once for each row."""
        self._file.write(line.removesuffix("\r\n") + "\n")

    def writerow(self, row: Iterable[object]) -> None:
        self._rows.writerow([guarded(cell) for cell in row])

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        for row in rows:
            self.writerow(row)


@contextmanager
def writing(file: BinaryIO) -> Iterator[Writer]:
    """A writer of CSV in UTF-8 to a binary file, which stays open."""
    text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        yield Writer(text)
    finally:
        text.detach()


@contextmanager
def replacing(path: Path) -> Iterator[Writer]:
    """A writer of a CSV file that is replaced when the block ends (`atomic_file.replacing`)."""
    with atomic_file.replacing(path) as file, writing(file) as rows:
        yield rows


def reader(file: IO[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV by `Writer`, as dicts by column.

    Raises:
        csv.Error: a row has another number of cells than the header.
    """
    for row in csv.DictReader(file):
        if None in row or None in row.values():
            raise csv.Error("a row has another number of cells than the header")
        yield {name: unguarded(cell) for name, cell in row.items()}
