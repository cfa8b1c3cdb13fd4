"""Lists of pictures: a CSV or Parquet file → rows of text by column, each with its number.

Knows the two formats and how columns are usually named. Knows nothing of pictures or classes.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.samples import DataError

#: Names under which a column is looked for where the configuration names none; compared in lower case.
USUAL_FILE = ("file", "path", "image path", "image_path", "image", "filename", "file_name", "filepath")
USUAL_CODE = ("code", "class", "label", "cell_type", "cell type", "diagnosis")
USUAL_PATIENT = ("patient", "patient_id", "patient id", "patientid", "subject", "subject_id")
USUAL_BLOCK = ("block", "split", "subset", "set")
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Table:
    """The rows of one file, each with its number: the header is row 1, as a spreadsheet shows it."""

    path: Path
    columns: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]

    def column(self, named: str, usual: Sequence[str], what: str) -> int:
        """Place of a column: the one named, else the first of the usual names.

        Raises:
            DataError: there is none; says which there are.
        """
        at = self.column_or_none(named, usual)
        if at is None:
            sought = repr(named) if named else f"named as one of {', '.join(usual)}"
            raise DataError(
                self.path,
                f"no column for the {what}, {sought}; there are {', '.join(map(repr, self.columns))}. "
                f"Name it under columns in the configuration",
            )
        return at

    def column_or_none(self, named: str, usual: Sequence[str]) -> int | None:
        """As `column`, but None where nothing was named and none of the usual names is there."""
        if named:
            return self.columns.index(named) if named in self.columns else None
        lowered = [name.strip().lower() for name in self.columns]
        return next((lowered.index(name) for name in usual if name in lowered), None)


def read_table(path: Path) -> Table:
    """Read a list whole: 171,374 rows of two columns are some 20 MB.

    Raises:
        DataError: not there, not the format its name says, no rows, or a row of another length than the header.
    """
    if not path.is_file():
        raise DataError(path, "no such list; its place is relative to --data")
    table = _read_parquet(path) if path.suffix.lower() in {".parquet", ".pq"} else _read_csv(path)
    if not table.rows:
        raise DataError(path, "holds no rows below its header")
    return table


def _read_csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            header = file.readline()
            file.seek(0)
            rows = list(csv.reader(file, delimiter=max(DELIMITERS, key=header.count), strict=True))
    except UnicodeDecodeError as error:
        raise DataError(path, f"not UTF-8 (byte {error.start}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise DataError(path, f"not CSV: {error}") from error
    if not rows:
        raise DataError(path, "is empty; expected a header and a row a picture")
    columns = rows[0]
    numbered = [(number, row) for number, row in enumerate(rows[1:], start=2) if row]
    for number, row in numbered:
        if len(row) != len(columns):
            raise DataError(path, f"row {number} has {len(row)} columns, the header {len(columns)}")
    return Table(path, columns, numbered)


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise DataError(path, "Parquet needs pyarrow: pip install -e '.[parquet]'") from error
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise DataError(path, f"not Parquet: {error}") from error
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in table.columns]
    return Table(path, table.column_names, list(enumerate(zip(*columns, strict=True), start=2)))
