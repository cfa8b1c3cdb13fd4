"""Tables of scored pictures in CSV, JSON lines or Parquet: written atomically, read back row by row."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from model import csv_file
from model.atomic_file import replacing
from model.contract import Manifest
from model.trust.decision import Assessment
from service.config.settings import parse_classes

ROWS_AT_ONCE = 4096  # in memory, and in a row group of Parquet


class ScoringError(Exception):
    """A scoring run cannot start or continue; the message says why and what to do."""


class TableError(ScoringError):
    """A table cannot be read, written or resumed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


#: Names of the columns of a decision.
DECISION_COLUMNS = ["decision", "reasons", "prediction_set", "novelty_p"]


@dataclass(frozen=True, slots=True)
class DecisionColumns:
    """The decision on a picture: decision, codes of its reasons, prediction set, p-value of the novelty."""

    decision: str
    reasons: tuple[str, ...]
    prediction_set: tuple[str, ...]
    p_value: float

    @classmethod
    def of(cls, assessment: Assessment | None) -> Self | None:
        """The columns of an assessment; None without one."""
        if assessment is None:
            return None
        codes = tuple(reason.code for reason in assessment.reasons)
        return cls(assessment.decision, codes, assessment.prediction_set, assessment.p_value)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Self:
        """Parse the columns of a row."""
        decision, reasons, prediction_set, p_value = (row[name] for name in DECISION_COLUMNS)
        return cls(decision, tuple(reasons.split()), tuple(prediction_set.split()), float(p_value))

    def columns(self) -> list[Any]:
        """The values of the columns `DECISION_COLUMNS`."""
        return [self.decision, " ".join(self.reasons), " ".join(self.prediction_set), self.p_value]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPicture:
    """The row of a picture: its path in the folder, with / between the parts, and probabilities, (C,) float32."""

    path: str
    probabilities: NDArray[np.float32]
    decided: "DecisionColumns | None" = None  # None without a trust reference


@dataclass(frozen=True, slots=True)
class FailedPicture:
    """The row of a picture that could not be scored; only tables with the column `problem` have such rows."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one model's table: path, code, probability, supported, one p_CODE per class, model_sha256.

    `supported` is false if the predicted class had too little training data. With `manifest_sha256`, there are columns
    of the decision, whose thresholds are in the manifest, and `review_classes`. Texts in `reasons` and `prediction_set`
    are separated by spaces. With `problems` there is a last column `problem`; where it has a value, the columns of the
    prediction are empty.
    """

    codes: tuple[str, ...]
    model_sha256: str
    unsupported: tuple[str, ...] = ()
    problems: bool = False
    manifest_sha256: str | None = None  # None: without decisions
    review_classes: str = ""  # of the setting; only with decisions

    @classmethod
    def of(cls, manifest: Manifest, review_classes: str, *, problems: bool = False) -> Self:
        """The columns of a model, with the classes that are always reviewed."""
        digest = None if manifest.trust is None else manifest.digest
        review = " ".join(sorted(set(parse_classes(review_classes))))
        return cls(manifest.codes, manifest.sha256, manifest.unsupported, problems, digest, review)

    @property
    def names(self) -> list[str]:
        decided = [] if self.manifest_sha256 is None else DECISION_COLUMNS
        scored = ["path", "code", "probability", "supported", *decided, *(f"p_{code}" for code in self.codes)]
        return [*scored, *self._identity, *(["problem"] if self.problems else [])]

    @property
    def _identity(self) -> dict[str, str]:
        """Name and value of the columns that are the same in every row: model, thresholds, reviewed classes."""
        found = {"model_sha256": self.model_sha256}
        if self.manifest_sha256 is None:
            return found
        return found | {"manifest_sha256": self.manifest_sha256, "review_classes": self.review_classes}

    @property
    def model(self) -> str:
        """What two tables of the same model, thresholds and reviewed classes have in common."""
        return " ".join(self._identity.values())

    def row(self, scored: ScoredPicture | FailedPicture) -> list[Any]:
        identity = list(self._identity.values())
        if isinstance(scored, FailedPicture):
            empty = len(self.names) - len(identity) - 2
            return [scored.path, *[None] * empty, *identity, scored.reason]
        return [*self._scored_row(scored), *identity, *([None] if self.problems else [])]

    def _scored_row(self, scored: ScoredPicture) -> list[Any]:
        probabilities = scored.probabilities
        best = int(probabilities.argmax())
        code = self.codes[best]
        supported = code not in self.unsupported
        decided = [] if self.manifest_sha256 is None or scored.decided is None else scored.decided.columns()
        return [scored.path, code, probabilities[best], supported, *decided, *probabilities]

    def scored(self, table: Path, row: dict[str, Any]) -> ScoredPicture:
        """Parse a row that `row` made.

        Raises:
            TableError: another model's row, or other columns.
        """
        if list(row) != self.names:
            raise TableError(table, "its columns are not those of this model; choose another --out")
        for name, own in self._identity.items():
            if row[name] != own:
                what = name.removesuffix("_sha256").replace("_", " ")
                found = f"{what} {_short(row[name])}, this is {what} {_short(own)}"
                raise TableError(table, f"was written with {found}; choose another --out")
        probabilities = np.array([row[f"p_{code}"] for code in self.codes], np.float32)
        decided = None if self.manifest_sha256 is None else DecisionColumns.read(row)
        return ScoredPicture(row["path"], probabilities, decided)


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text or "none"


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


#: Columns of text in Parquet; `supported` is true or false, and all others are numbers.
_TEXTS = ("path", "code", *DECISION_COLUMNS[:3], "model_sha256", "manifest_sha256", "review_classes", "problem")


def _write_parquet(
    file: BinaryIO, names: Sequence[str], rows: Iterable[list[Any]], notes: Mapping[str, str] | None = None
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(_TEXTS, pa.string()) | {"supported": pa.bool_()}
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
