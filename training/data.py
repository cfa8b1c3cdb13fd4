"""Where the pictures are: class folders → a list of samples, and the blocks that keep training and test apart.

Knows paths and class codes. Opens no picture.
"""

import csv
import difflib
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.config import Blocks, SourceConfig

Block = Literal["train", "calibration", "test"]
BLOCKS: tuple[Block, ...] = ("train", "calibration", "test")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class DataError(Exception):
    """A folder that cannot be learned from: which, and what was expected."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a data source."""

    source: str
    code: str
    name: str  # below the class folder, with / between the parts
    path: Path


def index_folder(root: Path, source: SourceConfig, codes: Sequence[str]) -> list[Sample]:
    """Every picture of `root / source.folder`, class by class, each class in path order.

    Reads class folders, flat or with numbered subfolders (`PMO/0001-1000/PMO_00001.jpg`, as Matek 2021 is published).
    In path order a subfolder, one of a patient say, stays together and meets another block only at its edge.

    Raises:
        DataError: no such folder, no class folder in it, or a class folder that is not in the class list.
    """
    folder = root / source.folder
    if not folder.is_dir():
        raise DataError(folder, f"no such folder; source {source.name!r} expects one folder a class here")
    class_folders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not class_folders:
        raise DataError(folder, f"no class folders; expected folders named {', '.join(codes)}")
    return [sample for entry in class_folders for sample in _index_class(entry, source, codes)]


def _index_class(folder: Path, source: SourceConfig, codes: Sequence[str]) -> list[Sample]:
    if folder.name not in codes:
        near = difflib.get_close_matches(folder.name.upper(), codes, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"expected one of {', '.join(codes)}"
        raise DataError(folder, f"{folder.name!r} is not in the class list; {hint}")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return [Sample(source.name, folder.name, path.relative_to(folder).as_posix(), path) for path in sorted(found)]


def split_blocks(samples: Iterable[Sample], blocks: Blocks) -> dict[Block, list[Sample]]:
    """Cut each class of each source into contiguous blocks in the order given: train, calibration, test."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.source, sample.code].append(sample)
    parts: dict[Block, list[Sample]] = {"train": [], "calibration": [], "test": []}
    for group in groups.values():
        first = round(len(group) * blocks.train)
        second = first + round(len(group) * blocks.calibration)
        parts["train"] += group[:first]
        parts["calibration"] += group[first:second]
        parts["test"] += group[second:]
    return parts


def split_list(parts: dict[Block, list[Sample]]) -> str:
    """The split as CSV (block, source, code, file): what was learned from, in the open."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("block", "source", "code", "file"))
    rows.writerows((block, s.source, s.code, s.name) for block in BLOCKS for s in parts[block])
    return text.getvalue()


def sha256_of(text: str) -> str:
    """Hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
