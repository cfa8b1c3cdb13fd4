"""Tables of pairs of pictures that a split keeps together: near duplicates and overlapping crops."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from model import csv_file
from training.data.samples import Block, Sample

_NAMES = ("source", "code", "file", "block", "moved_from")


def write_pairs(
    path: Path,
    figures: Sequence[str],
    other: str,
    pairs: Iterable[tuple[tuple[object, ...], int, int]],
    samples: Sequence[Sample],
    planned: Sequence[Block],
    blocks: Sequence[Block],
) -> None:
    """Write one row per pair: its figures, then source, class, file and block of both pictures.

    Args:
        figures: names of the figures' columns.
        other: prefix of the columns of the second picture.
        pairs: figures, and the indices of both samples.
        planned: block of each sample by the split alone; written as `moved_from` where the picture was moved.
        blocks: block of each sample as used.
    """

    def columns(at: int) -> tuple[str, ...]:
        return (*samples[at].key, blocks[at], planned[at] if planned[at] != blocks[at] else "")

    with csv_file.replacing(path) as rows:
        rows.writerow((*figures, *_NAMES, *(f"{other}_{name}" for name in _NAMES)))
        rows.writerows((*values, *columns(first), *columns(second)) for values, first, second in pairs)
