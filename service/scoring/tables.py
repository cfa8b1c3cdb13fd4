"""Tables of scored pictures: CSV, JSON lines or Parquet, written whole or not at all, and read back row by row.

Knows columns and file formats. Knows no pictures, no model and nothing of a run that is under way.
"""

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


class TableError(Exception):
    """A table that cannot be read, written or gone on with: which file, and why, in a sentence."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One picture's row: its path below the folder, with / between the parts, and (C,) float32 probabilities."""

    path: str
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Refused:
    """The row of a picture that could not be scored, and why; only tables with a column for it take one."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Columns:
    """What a table of one model holds: path, code, probability, supported, one p_CODE a class, model_sha256.

    `supported` is false where nothing is claimed for the class named; true says nothing of the cell. With `problems`
    there is a last column `problem`, empty but where a picture could not be scored; there all between is empty.
    """

    codes: tuple[str, ...]
    model_sha256: str
    unsupported: tuple[str, ...] = ()
    problems: bool = False

    @property
    def names(self) -> list[str]:
        scored = ["path", "code", "probability", "supported", *(f"p_{code}" for code in self.codes), "model_sha256"]
        return [*scored, "problem"] if self.problems else scored

    def row(self, scored: Scored | Refused) -> list[Any]:
        if isinstance(scored, Refused):
            return [scored.path, *[None] * (3 + len(self.codes)), self.model_sha256, scored.reason]
        return [*self._scored_row(scored), None] if self.problems else self._scored_row(scored)

    def _scored_row(self, scored: Scored) -> list[Any]:
        probabilities = scored.probabilities
        best = int(probabilities.argmax())
        code = self.codes[best]
        supported = code not in self.unsupported
        return [scored.path, code, probabilities[best], supported, *probabilities, self.model_sha256]

    def scored(self, table: Path, row: dict[str, Any]) -> Scored:
        """The other way.

        Raises:
            TableError: another model's row, or none of ours.
        """
        if list(row) != self.names:
            raise TableError(table, "has other columns than this model's table would have; choose another --out")
        if row["model_sha256"] != self.model_sha256:
            found = f"model {str(row['model_sha256'])[:12]}…, this is model {self.model_sha256[:12]}…"
            raise TableError(table, f"was made by {found}; choose another --out")
        return Scored(row["path"], np.array([row[f"p_{code}"] for code in self.codes], np.float32))


def check_place(table: Path) -> None:
    """Whether a table can be written to this name.

    Raises:
        TableError: another suffix than .parquet, .csv and .jsonl, no pyarrow for the first, or a link.
    """
    if table.is_symlink() or (table.exists() and not table.is_file()):
        raise TableError(table, "is a link or no ordinary file; results are not written through links, choose another")
    if table.suffix not in _FORMATS:
        raise TableError(table, f"the suffix says the format: one of {', '.join(_FORMATS)}")
    if table.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 (large, and needed for this format alone)
        except ImportError as error:
            raise TableError(
                table, "Parquet needs pyarrow: pip install -e '.[parquet]', or write .csv or .jsonl"
            ) from error


def write_table(table: Path, columns: Columns, rows: Iterable[Scored]) -> None:
    """Write a table so that at any moment either the old one is there or the whole new one.

    Raises:
        OSError: no place, no permission
    """
    with replacing(table) as file:
        _FORMATS[table.suffix][0](file, columns.names, map(columns.row, rows))


def read_table(table: Path, columns: Columns) -> Iterator[Scored]:
    """The rows of a table that was written before.

    Raises:
        TableError: not such a table, or another model's
    """
    try:
        for row in _FORMATS[table.suffix][1](table):
            yield columns.scored(table, row)
    except (ValueError, KeyError, TypeError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise TableError(table, "is not a table that `marrowlens score` wrote; choose another --out") from error


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


def write_parquet(file: BinaryIO, columns: Columns, rows: Iterable[Scored | Refused], notes: Mapping[str, str]) -> None:
    """Write rows as Parquet into a file that is the caller's to put in its place; `notes` go into its footer."""
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
