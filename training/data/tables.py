"""Lists of pictures: a CSV or Parquet file → rows of text by column, each with its number.

Knows the two formats and how columns are usually named. Knows nothing of pictures or classes.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from training.config import ListedSplit
from training.data.samples import Block, DataError, Sample

#: Names under which a column is looked for where the configuration names none; compared in lower case.
FILE_COLUMNS = ("file", "path", "image path", "image_path", "image", "filename", "file_name", "filepath")
CLASS_COLUMNS = ("code", "class", "label", "cell_type", "cell type", "diagnosis")
PATIENT_COLUMNS = ("patient", "patient_id", "patient id", "patientid", "subject", "subject_id")
BLOCK_COLUMNS = ("block", "split", "subset", "set")
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


#: What lists call the blocks. A list without such a column names test pictures alone.
_BLOCKS: Mapping[str, Block] = {
    "train": "train",
    "training": "train",
    "calibration": "calibration",
    "val": "calibration",
    "valid": "calibration",
    "validation": "calibration",
    "test": "test",
}

Key = tuple[str, str, str]


@dataclass(frozen=True)
class PredefinedSplit:
    """Sample key → block, and how many rows of the list are such a sample."""

    blocks: dict[Key, Block]
    matched: int
    rows: int


def match_predefined_split(root: Path, split: ListedSplit, samples: Sequence[Sample]) -> PredefinedSplit:
    """Find the samples that a list names, by file name; the folders before it tell pictures of the same name apart.

    DinoBloom's dinov2/eval/splits/bm_test.csv (header `Image Path,Label`, full paths of another machine) reads as is;
    so does a split.csv of this program.

    Raises:
        DataError: the list is not there or has no column of files; a row fits several samples, or one of another
            class; two rows fit one sample; or fewer rows than `min_matched` are found.
    """
    path = root / split.path
    rows = _rows(path, split)
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if not split.sources or sample.source in split.sources:
            by_name[_parts(sample.name)[-1]].append(sample)
    codes = {sample.code for sample in samples}
    number_of: dict[Key, int] = {}
    blocks: dict[Key, Block] = {}
    missing: list[str] = []
    for row in rows:
        named = _the_one(by_name.get(row.parts[-1], []), row, path)
        if named is None:
            missing.append(row.parts[-1])
            continue
        if row.label in codes - {named.code}:
            reason = f"{named.name!r} is labelled {row.label}, in --data it is {named.code}"
            raise DataError(path, f"row {row.number}: {reason}")
        if named.key in blocks:
            raise DataError(path, f"row {row.number}: {named.name!r} is named by row {number_of[named.key]} already")
        number_of[named.key], blocks[named.key] = row.number, row.block
    if len(missing) > (1 - split.min_matched) * len(rows):
        found = f"{len(blocks)} of {len(rows)} rows are pictures of --data, as {missing[0]!r} is not"
        raise DataError(path, f"{found}; data.split.min_matched asks for {split.min_matched:.0%}")
    return PredefinedSplit(blocks, len(blocks), len(rows))


class _Row(NamedTuple):
    number: int
    parts: tuple[str, ...]  # source and class where the list says them, then those of the path
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
        before = [cells[at].strip() for at in (source_at, code_at) if at is not None]
        label = cells[code_at].strip() if code_at is not None else ""
        block = _block(cells[block_at], path, number) if block_at is not None else "test"
        rows.append(_Row(number, (*before, *_parts(cells[file_at].strip())), label, block))
    return rows


def _parts(path: str) -> tuple[str, ...]:
    return (PureWindowsPath(path) if "\\" in path else PurePosixPath(path)).parts or ("",)


def _the_one(candidates: Sequence[Sample], row: _Row, path: Path) -> Sample | None:
    """Of the samples of one file name, the one whose folders agree with the list's over the longest way up."""
    agreeing = [_agreeing_parts(sample, row.parts) for sample in candidates]
    best = [sample for sample, parts in zip(candidates, agreeing, strict=True) if parts == max(agreeing)]
    if len(best) > 1:
        fitting = ", ".join("/".join(sample.key) for sample in best[:3])
        raise DataError(path, f"row {row.number}: {row.parts[-1]!r} may be {fitting}; say which in data.split.sources")
    return best[0] if best else None


def _agreeing_parts(sample: Sample, told: tuple[str, ...]) -> int:
    own = (sample.source, sample.code, *_parts(sample.name))
    pairs = zip(reversed(own), reversed(told), strict=False)
    return next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(own), len(told)))


def _block(told: str, path: Path, number: int) -> Block:
    block = _BLOCKS.get(told.strip().lower())
    if block is None:
        raise DataError(path, f"row {number}: {told!r} is no block; expected one of {', '.join(_BLOCKS)}")
    return block
