"""Lists of pictures: CSV and Parquet files with one row per picture, and predefined splits given as such a list."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from training.data.samples import Block, DataError, Key, Sample
from training.split_config import ListedSplit

#: Column names that are recognised where the configuration names none; compared in lower case.
FILE_COLUMNS = ("file", "path", "image path", "image_path", "image", "filename", "file_name", "filepath")
CLASS_COLUMNS = ("code", "class", "label", "cell_type", "cell type", "diagnosis")
PATIENT_COLUMNS = ("patient", "patient_id", "patient id", "patientid", "subject", "subject_id")
GROUP_COLUMNS = ("slide", "slide_id", "slide id", "smear", "field", "field_id", "field id", "fov", "group", "group_id")
BLOCK_COLUMNS = ("block", "split", "subset", "set")
DELIMITERS = ",;\t"
#: Names of the blocks in lists. A list without such a column names test pictures only.
_BLOCK_NAMES: Mapping[str, Block] = {
    "train": "train",
    "training": "train",
    "calibration": "calibration",
    "val": "calibration",
    "valid": "calibration",
    "validation": "calibration",
    "test": "test",
}


@dataclass(frozen=True)
class Table:
    """The rows of a file with their numbers; the header is row 1, as in a spreadsheet."""

    path: Path
    columns: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]

    def column(self, named: str, usual: Sequence[str], what: str) -> int:
        """Index of a column: the named one, else the first of the usual names.

        Raises:
            DataError: no such column; lists the columns of the file.
        """
        at = self.column_or_none(named, usual)
        if at is None:
            wanted = repr(named) if named else f"expected one of {', '.join(usual)}"
            raise DataError(
                self.path,
                f"no column for the {what}, {wanted}; the file has {', '.join(map(repr, self.columns))}. "
                "Set the column under `columns` in the configuration",
            )
        return at

    def column_or_none(self, named: str, usual: Sequence[str]) -> int | None:
        """As `column`, but None where there is no such column."""
        if named:
            return self.columns.index(named) if named in self.columns else None
        lowered = [name.strip().lower() for name in self.columns]
        return next((lowered.index(name) for name in usual if name in lowered), None)


def read_table(path: Path) -> Table:
    """Read a whole CSV or Parquet file; 171,374 rows of two columns take about 20 MB.

    Raises:
        DataError: the file is missing, malformed or without rows.
    """
    if not path.is_file():
        raise DataError(path, "no such file; the path is relative to --data")
    table = _read_parquet(path) if path.suffix.lower() in {".parquet", ".pq"} else _read_csv(path)
    if not table.rows:
        raise DataError(path, "has no rows below its header")
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
        raise DataError(path, "is empty; expected a header and one row per picture")
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


@dataclass(frozen=True)
class PredefinedSplit:
    """Sample key → block, and how many rows of the list match a sample."""

    blocks: dict[Key, Block]
    matched: int
    rows: int


def match_predefined_split(root: Path, split: ListedSplit, samples: Sequence[Sample]) -> PredefinedSplit:
    """Match the rows of a list to samples by file name; equal file names are told apart by their folders.

    Reads DinoBloom's dinov2/eval/splits/bm_test.csv (header `Image Path,Label`, absolute paths) and this program's
    split.csv without changes.

    Raises:
        DataError: the list is missing or has no file column; a row matches several samples or one of another class;
            two rows match one sample; or fewer rows than `min_matched` match.
    """
    path = root / split.path
    rows = _rows(path, split)
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if not split.sources or sample.source in split.sources:
            by_name[_path_parts(sample.name)[-1]].append(sample)
    codes = {sample.code for sample in samples}
    row_of: dict[Key, int] = {}
    blocks: dict[Key, Block] = {}
    missing: list[str] = []
    for row in rows:
        match = _best_match(by_name.get(row.parts[-1], []), row, path)
        if match is None:
            missing.append(row.parts[-1])
            continue
        if row.label in codes - {match.code}:
            reason = f"{match.name!r} has the label {row.label}, but is {match.code} in --data"
            raise DataError(path, f"row {row.number}: {reason}")
        if match.key in blocks:
            raise DataError(path, f"row {row.number}: {match.name!r} is already listed in row {row_of[match.key]}")
        row_of[match.key], blocks[match.key] = row.number, row.block
    if len(missing) > (1 - split.min_matched) * len(rows):
        found = f"{len(blocks)} of {len(rows)} rows match a picture of --data; not found, for example: {missing[0]!r}"
        raise DataError(path, f"{found}; data.split.min_matched is {split.min_matched:.0%}")
    return PredefinedSplit(blocks, len(blocks), len(rows))


class _Row(NamedTuple):
    number: int
    parts: tuple[str, ...]  # source and class, where the list has these columns, then the parts of the path
    label: str
    block: Block


def _rows(path: Path, split: ListedSplit) -> list[_Row]:
    table = read_table(path)
    file_at = table.column(split.columns.file, FILE_COLUMNS, "file")
    code_at = table.column_or_none(split.columns.code, CLASS_COLUMNS)
    source_at = table.column_or_none("", ("source",))
    block_at = table.column_or_none("", BLOCK_COLUMNS)
    rows = []
    for number, cells in table.rows:
        prefix = [cells[at].strip() for at in (source_at, code_at) if at is not None]
        label = cells[code_at].strip() if code_at is not None else ""
        block = _block(cells[block_at], path, number) if block_at is not None else "test"
        rows.append(_Row(number, (*prefix, *_path_parts(cells[file_at].strip())), label, block))
    return rows


def _path_parts(path: str) -> tuple[str, ...]:
    return (PureWindowsPath(path) if "\\" in path else PurePosixPath(path)).parts or ("",)


def _best_match(candidates: Sequence[Sample], row: _Row, path: Path) -> Sample | None:
    """The sample whose path agrees with the row's over the most trailing parts."""
    agreeing = [_agreeing_parts(sample, row.parts) for sample in candidates]
    best = [sample for sample, parts in zip(candidates, agreeing, strict=True) if parts == max(agreeing)]
    if len(best) > 1:
        matches = ", ".join("/".join(sample.key) for sample in best[:3])
        raise DataError(path, f"row {row.number}: {row.parts[-1]!r} matches {matches}; choose with data.split.sources")
    return best[0] if best else None


def _agreeing_parts(sample: Sample, listed: tuple[str, ...]) -> int:
    own = (sample.source, sample.code, *_path_parts(sample.name))
    pairs = zip(reversed(own), reversed(listed), strict=False)
    return next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(own), len(listed)))


def _block(cell: str, path: Path, number: int) -> Block:
    block = _BLOCK_NAMES.get(cell.strip().lower())
    if block is None:
        raise DataError(path, f"row {number}: unknown block {cell!r}; expected one of {', '.join(_BLOCK_NAMES)}")
    return block
