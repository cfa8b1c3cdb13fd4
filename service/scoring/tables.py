"""Tables of scored pictures in CSV, JSON lines or Parquet: written atomically, read back row by row."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from model import csv_file
from model.atomic_file import replacing

ROWS_AT_ONCE = 4096  # in memory, and in a row group of Parquet


class ScoringError(Exception):
    """A scoring run cannot start or continue; the message says why and what to do."""


class TableError(ScoringError):
    """A table cannot be read, written or resumed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPicture:
    """The row of a picture: its path in the folder, with / between the parts, and probabilities, (C,) float32."""

    path: str
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FailedPicture:
    """The row of a picture that could not be scored; only tables with the column `problem` have such rows."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one model's table: path, code, probability, supported, one p_CODE per class, model_sha256.

    `supported` is false if the predicted class had too little training data. With `problems` there is a last column
    `problem`; where it has a value, the columns of the prediction are empty.
    """

    codes: tuple[str, ...]
    model_sha256: str
    unsupported: tuple[str, ...] = ()
    problems: bool = False

    @property
    def names(self) -> list[str]:
        scored = ["path", "code", "probability", "supported", *(f"p_{code}" for code in self.codes), "model_sha256"]
        return [*scored, "problem"] if self.problems else scored

    def row(self, scored: ScoredPicture | FailedPicture) -> list[Any]:
        if isinstance(scored, FailedPicture):
            return [scored.path, *[None] * (3 + len(self.codes)), self.model_sha256, scored.reason]
        return [*self._scored_row(scored), None] if self.problems else self._scored_row(scored)

    def _scored_row(self, scored: ScoredPicture) -> list[Any]:
        probabilities = scored.probabilities
        best = int(probabilities.argmax())
        code = self.codes[best]
        supported = code not in self.unsupported
        return [scored.path, code, probabilities[best], supported, *probabilities, self.model_sha256]

    def scored(self, table: Path, row: dict[str, Any]) -> ScoredPicture:
        """Parse a row that `row` made.

        Raises:
            TableError: another model's row, or other columns.
        """
        if list(row) != self.names:
            raise TableError(table, "its columns are not those of this model; choose another --out")
        if row["model_sha256"] != self.model_sha256:
            found = f"model {str(row['model_sha256'])[:12]}…, this is model {self.model_sha256[:12]}…"
            raise TableError(table, f"was written with {found}; choose another --out")
        return ScoredPicture(row["path"], np.array([row[f"p_{code}"] for code in self.codes], np.float32))


def check_table_path(table: Path) -> None:
    """Check that a table can be written to this path.

    Raises:
        TableError: a suffix other than .parquet, .csv and .jsonl, .parquet without pyarrow, or a link.
    """
    if table.is_symlink() or (table.exists() and not table.is_file()):
        raise TableError(table, "is a link or not a regular file; results are not written through links")
    if table.suffix not in _FORMATS:
        raise TableError(table, f"unknown suffix {table.suffix!r}; use one of {', '.join(_FORMATS)}")
    if table.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 (large, and only this format needs it)
        except ImportError as error:
            raise TableError(
                table, "Parquet needs pyarrow: pip install -e '.[parquet]', or write .csv or .jsonl"
            ) from error


def write_table(table: Path, columns: Columns, rows: Iterable[ScoredPicture]) -> None:
    """Write a table atomically.

    Raises:
        OSError: no space, no permission.
    """
    with replacing(table) as file:
        _FORMATS[table.suffix][0](file, columns.names, map(columns.row, rows))


def read_table(table: Path, columns: Columns) -> Iterator[ScoredPicture]:
    """The rows of a table that `write_table` wrote.

    Raises:
        TableError: not such a table, or another model's.
    """
    try:
        for row in _FORMATS[table.suffix][1](table):
            yield columns.scored(table, row)
    except (ValueError, KeyError, TypeError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise TableError(table, "is not a table of `marrowlens score`; choose another --out") from error


def _write_csv(file: BinaryIO, names: Sequence[str], rows: Iterable[list[Any]]) -> None:
    with csv_file.writing(file) as writer:
        writer.writerow(names)
        writer.writerows(rows)


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv_file.reader(file)


def _write_jsonl(file: BinaryIO, names: Sequence[str], rows: Iterable[list[Any]]) -> None:
    for row in rows:
        line = dict(zip(names, row, strict=True))
        file.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield dict(orjson.loads(line))


def write_parquet(
    file: BinaryIO, columns: Columns, rows: Iterable[ScoredPicture | FailedPicture], notes: Mapping[str, str]
) -> None:
    """Write rows as Parquet to an open file; `notes` go into its footer."""
    _write_parquet(file, columns.names, map(columns.row, rows), notes)


def _write_parquet(
    file: BinaryIO, names: Sequence[str], rows: Iterable[list[Any]], notes: Mapping[str, str] | None = None
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(("path", "code", "model_sha256", "problem"), pa.string()) | {"supported": pa.bool_()}
    schema = pa.schema([(name, types.get(name, pa.float32())) for name in names], metadata=notes)
    rows = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        while some := list(islice(rows, ROWS_AT_ONCE)):
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*some, strict=True), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()


_Writer = Callable[[BinaryIO, Sequence[str], Iterable[list[Any]]], None]
_Reader = Callable[[Path], Iterator[dict[str, Any]]]
_FORMATS: dict[str, tuple[_Writer, _Reader]] = {
    ".parquet": (_write_parquet, _read_parquet),
    ".csv": (_write_csv, _read_csv),
    ".jsonl": (_write_jsonl, _read_jsonl),
}
