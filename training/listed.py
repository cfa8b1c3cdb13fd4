"""A published list of test pictures → the block of each sample that it names.

Knows file names, and how a path of another machine ends. Knows nothing of how the rest is split.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from training.data import Block, DataError, Sample
from training.data_config import ListedSplit
from training.rows import USUAL_BLOCK, USUAL_CODE, USUAL_FILE, read_table

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
class Listed:
    """Sample key → block, and how many rows of the list are such a sample."""

    blocks: dict[Key, Block]
    matched: int
    rows: int


def match_list(root: Path, split: ListedSplit, samples: Sequence[Sample]) -> Listed:
    """Find the samples that a list names, by file name; the folders before it tell pictures of the same name apart.

    DinoBloom's dinov2/eval/splits/bm_test.csv (header `Image Path,Label`, full paths of another machine) reads as is;
    so does a split.csv of this program.

    Raises:
        DataError: the list is not there or has no column of files; a row fits several samples, or one of another
            class; two rows fit one sample; or fewer rows than `min_matched` are found.
    """
    table = read_table(root / split.path)
    file_at = table.column(split.columns.file, USUAL_FILE, "file")
    code_at = table.column_or_none(split.columns.code, USUAL_CODE)
    block_at = table.column_or_none("", USUAL_BLOCK)
    source_at = table.columns.index("source") if "source" in table.columns else None
    codes = {sample.code for sample in samples}
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if not split.sources or sample.source in split.sources:
            by_name[_parts(sample.name)[-1]].append(sample)
    rows: dict[Key, int] = {}
    blocks: dict[Key, Block] = {}
    missing = []
    for number, cells in table.rows:
        before = [cells[at].strip() for at in (source_at, code_at) if at is not None]
        told = (*before, *_parts(cells[file_at].strip()))
        sample = _the_one(by_name.get(told[-1], []), told, table.path, number)
        if sample is None:
            missing.append(cells[file_at])
            continue
        if code_at is not None and cells[code_at].strip() in codes - {sample.code}:
            reason = (
                f"row {number}: {sample.name!r} is labelled {cells[code_at].strip()}, in --data it is {sample.code}"
            )
            raise DataError(table.path, reason)
        if sample.key in rows:
            raise DataError(table.path, f"row {number}: {sample.name!r} is named by row {rows[sample.key]} already")
        rows[sample.key] = number
        blocks[sample.key] = _block(cells[block_at], table.path, number) if block_at is not None else "test"
    if len(missing) > (1 - split.min_matched) * len(table.rows):
        raise DataError(
            table.path,
            f"{len(rows)} of {len(table.rows)} rows are pictures of --data, as {missing[0]!r} is not; "
            f"data.split.min_matched asks for {split.min_matched:.0%}",
        )
    return Listed(blocks, len(rows), len(table.rows))


def _parts(path: str) -> tuple[str, ...]:
    return (PureWindowsPath(path) if "\\" in path else PurePosixPath(path)).parts or ("",)


def _the_one(candidates: Sequence[Sample], told: tuple[str, ...], path: Path, number: int) -> Sample | None:
    """Of the samples of one file name, the one whose folders agree with the list's over the longest way up."""
    agreeing = [_agreeing_parts(sample, told) for sample in candidates]
    best = [sample for sample, parts in zip(candidates, agreeing, strict=True) if parts == max(agreeing)]
    if len(best) > 1:
        fitting = ", ".join("/".join(sample.key) for sample in best[:3])
        raise DataError(path, f"row {number}: {told[-1]!r} may be {fitting}; say which in data.split.sources")
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
