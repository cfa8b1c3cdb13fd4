"""One picture of a data set, how its bytes are read, and the list of a split.

Knows paths, spans in tar files and class codes. Decodes nothing; knows no layout and no rule of splitting.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from model import csv_file

Block = Literal["train", "calibration", "test"]
BLOCKS: tuple[Block, ...] = ("train", "calibration", "test")
Split = dict[Block, "list[Sample]"]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class DataError(Exception):
    """Data that cannot be learned from: which file or folder, and what was expected of it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Span(NamedTuple):
    """Where a picture lies in a file that holds many, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a data source."""

    source: str
    code: str
    name: str  # within its source (class folders: within its class), with / between the parts
    path: Path  # of the file that holds it
    patient: str = ""  # empty: not known
    span: Span | None = None  # None: the whole file

    @property
    def place(self) -> tuple[str, str, list[str]]:
        """Source, class and the parts of the name: the order in which blocks are cut and seeds draw."""
        return self.source, self.code, self.name.split("/")

    @property
    def key(self) -> tuple[str, str, str]:
        """Source, class and name, as a row of split.csv."""
        return self.source, self.code, self.name

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.span else str(self.path)


def read_image_bytes(sample: Sample) -> bytes:
    """The bytes of one picture file.

    Raises:
        OSError: it is gone, cannot be read, or ends before its span does.
    """
    if sample.span is None:
        return sample.path.read_bytes()
    with sample.path.open("rb") as file:
        file.seek(sample.span.offset)
        data = file.read(sample.span.size)
    if len(data) < sample.span.size:
        raise OSError(f"{sample.path} ends within {sample.name}")
    return data


def group_by_block(samples: Sequence[Sample], blocks: Sequence[Block]) -> Split:
    """Block → its samples, in the order given."""
    parts: Split = {block: [] for block in BLOCKS}
    for sample, block in zip(samples, blocks, strict=True):
        parts[block].append(sample)
    return parts


def split_csv(parts: Mapping[Block, Sequence[Sample]]) -> str:
    """The split as CSV (block, source, code, file): what was learned from, in the open."""
    text = io.StringIO()
    rows = csv_file.Writer(text)
    rows.writerow(("block", "source", "code", "file"))
    rows.writerows((block, *s.key) for block in BLOCKS for s in parts[block])
    return text.getvalue()


def split_from_csv(samples: Iterable[Sample], split: str, root: Path, whole: bool) -> Split:
    """The samples in the blocks of a split list: a run goes on, or is measured, with the split that it began with.

    Args:
        split: the text of split.csv.
        root: where the samples were found, for the message.
        whole: whether the list must name every sample; not so where only a share of the data is used.

    Raises:
        DataError: a picture of the list is not among the samples, or one of the samples is not in the list.
    """
    found = {sample.key: sample for sample in samples}
    parts: Split = {block: [] for block in BLOCKS}
    missing = []
    for row in csv_file.reader(io.StringIO(split)):
        sample = found.pop((row["source"], row["code"], row["file"]), None)
        if sample is None:
            missing.append(row["file"])
        else:
            parts[row["block"]].append(sample)  # type: ignore[index]  # split_list wrote it
    strange = [sample.name for sample in found.values()] if whole else []
    for names, what in ((missing, "of the run are not there"), (strange, "are in no block of the run")):
        if names:
            reason = f"the pictures are not those that this run was trained with: {len(names)} {what}, as {names[0]}"
            raise DataError(root, reason)
    return parts


def sha256_of(text: str) -> str:
    """Hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
