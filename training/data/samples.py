"""A picture of a data set, its bytes, and the split list (split.csv)."""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import csv_file

Block = Literal["train", "calibration", "test"]
BLOCKS: tuple[Block, ...] = ("train", "calibration", "test")
Split = dict[Block, "list[Sample]"]
Key = tuple[str, str, str]  # source, class, name
SPLIT_COLUMNS = ("block", "source", "code", "file")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class DataError(Exception):
    """Unusable training data: the file or folder, and what was expected."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Span(NamedTuple):
    """Position of a picture in a tar file, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a data source."""

    source: str
    code: str
    name: str  # relative to its source (class folders: to its class), parts separated by /
    path: Path  # of the file that holds it
    patient: str = ""  # empty: unknown
    group: str = ""  # field or slide; empty: unknown
    span: Span | None = None  # None: the whole file

    @property
    def sort_key(self) -> tuple[str, str, list[str]]:
        """Source, class and parts of the name: the order for contiguous blocks and for random draws."""
        return self.source, self.code, self.name.split("/")

    @property
    def key(self) -> Key:
        """Source, class and name, as in a row of split.csv."""
        return self.source, self.code, self.name

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.span else str(self.path)


def read_image_bytes(sample: Sample) -> bytes:
    """The bytes of a picture file.

    Raises:
        OSError: the file is missing, unreadable or shorter than the span.
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
    """Block → its samples, in the given order."""
    split: Split = {block: [] for block in BLOCKS}
    for sample, block in zip(samples, blocks, strict=True):
        split[block].append(sample)
    return split


def patient_numbers(samples: Sequence[Sample]) -> NDArray[np.int64] | None:
    """The number of each sample's patient, (N,); None if that of one is unknown, or if there are no samples."""
    if not samples or not all(sample.patient for sample in samples):
        return None
    number: dict[tuple[str, str], int] = {}
    return np.array([number.setdefault((s.source, s.patient), len(number)) for s in samples], dtype=np.int64)


def split_csv(split: Mapping[Block, Sequence[Sample]]) -> str:
    """The text of split.csv: block, source, code and file of every picture, and its patient where one is known."""
    text = io.StringIO()
    rows = csv_file.Writer(text)
    known = any(sample.patient for members in split.values() for sample in members)
    rows.writerow((*SPLIT_COLUMNS, "patient") if known else SPLIT_COLUMNS)
    rows.writerows((block, *s.key, *([s.patient] if known else [])) for block in BLOCKS for s in split[block])
    return text.getvalue()


def published_split(text: str) -> str:
    """The text of a split.csv without the patients: the list beside an artefact goes to others."""
    published = io.StringIO()
    rows = csv_file.Writer(published)
    rows.writerow(SPLIT_COLUMNS)
    rows.writerows([row[column] for column in SPLIT_COLUMNS] for row in csv_file.reader(io.StringIO(text)))
    return published.getvalue()


def split_from_csv(samples: Iterable[Sample], text: str, root: Path, complete: bool) -> Split:
    """The samples in the blocks of a split.csv.

    Args:
        text: text of split.csv.
        root: the --data folder, for error messages.
        complete: whether every sample must be listed; not so where only a share of the data is used.

    Raises:
        DataError: a listed picture is missing, or a sample is not listed.
    """
    found = {sample.key: sample for sample in samples}
    split: Split = {block: [] for block in BLOCKS}
    missing = []
    for row in csv_file.reader(io.StringIO(text)):
        sample = found.pop((row["source"], row["code"], row["file"]), None)
        if sample is None:
            missing.append(row["file"])
        else:
            split[row["block"]].append(sample)  # type: ignore[index]  # split_csv wrote it
    unlisted = [sample.name for sample in found.values()] if complete else []
    for names, what in ((missing, "of its pictures are missing"), (unlisted, "pictures are not in its split.csv")):
        if names:
            raise DataError(root, f"differs from the data of this run: {len(names)} {what}, for example {names[0]}")
    return split


def listed_keys(path: Path, block: Block) -> set[Key]:
    """Source, class and file of the pictures of a block in a split list.

    Raises:
        DataError: the file cannot be read or is not a split list.
    """
    try:
        rows = list(csv_file.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        return {(row["source"], row["code"], row["file"]) for row in rows if row["block"] == block}
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DataError(path, "not a split list; name that of a run (split.csv) or an artefact") from error


def file_name(name: str) -> str:
    """The last part of a name: another copy of a data set may use other folders."""
    return PurePosixPath(name).name


def sha256_of(text: str) -> str:
    """Hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
