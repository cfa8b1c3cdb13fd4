"""A source as it lies on disk → its samples: class folders, a list, or tar shards.

Knows the three layouts, names of classes and patients. Opens no picture.

    folder  CLASS/name.jpg, or CLASS/0001-1000/name.jpg as Matek 2021 is published, or CLASS/patient/name.jpg
    list    one row a picture in CSV or Parquet: its file, its class, and its patient where that is known
    shards  tar files of pictures; the class is in key.cls or key.json beside key.jpg (WebDataset), or a folder's name
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.config import SourceConfig
from training.data.samples import IMAGE_SUFFIXES, DataError, Sample
from training.data.shards import read_shard
from training.data.tables import CLASS_COLUMNS, FILE_COLUMNS, PATIENT_COLUMNS, read_table


@dataclass(frozen=True)
class SourceIndex:
    """The samples of a source in file-name order, and how many pictures of which classes were left out."""

    samples: list[Sample]
    left_out: Counter[str]


class _Names:
    """What a source calls its classes and patients → codes of the class list, and patients."""

    def __init__(self, source: SourceConfig, codes: Sequence[str]) -> None:
        self.codes = codes
        self.mapping = source.classes
        self.leave_out = frozenset(source.leave_out)
        self.pattern = re.compile(source.patient_pattern) if source.patient_pattern else None

    def is_class(self, name: str) -> bool:
        return name in self.mapping or name in self.leave_out or name in self.codes

    def code(self, name: str, path: Path, where: str) -> str | None:
        """The code, or None for a class that is left out.

        Raises:
            DataError: a class that the configuration does not know; names the nearest.
        """
        if name in self.leave_out:
            return None
        code = self.mapping.get(name, name)
        if code in self.codes:
            return code
        near = difflib.get_close_matches(code.upper(), self.codes, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"expected one of {', '.join(self.codes)}"
        mend = (
            "" if name in self.mapping else f"; or name it under the source's classes ({name!r} = a code) or leave_out"
        )
        raise DataError(path, f"{where}{code!r} is not in the class list; {hint}{mend}")

    def patient(self, name: str, told: str, path: Path) -> str:
        """The patient: as told by the data, else by the pattern on the file's name.

        Raises:
            DataError: the pattern does not match.
        """
        if told or self.pattern is None:
            return told
        match = self.pattern.search(name)
        if match is None:
            raise DataError(path, f"patient_pattern {self.pattern.pattern!r} does not match {name!r}")
        return match[1]


def index_source(root: Path, source: SourceConfig, codes: Sequence[str]) -> SourceIndex:
    """Every picture of a source.

    Args:
        root: what --data names.
        codes: class codes in logit order.

    Raises:
        DataError: something is not where or what the configuration says; names the file, the row and the column.
    """
    names = _Names(source, codes)
    if source.list is not None:
        found = _index_list(root, source, names)
    elif source.shards:
        found = _index_shards(root, source, names)
    else:
        found = _index_folder(root, source, names)
    found.samples.sort(key=lambda sample: sample.place)
    _check_unique(found.samples)
    return found


def _check_unique(samples: Sequence[Sample]) -> None:
    for first, second in zip(samples, samples[1:], strict=False):
        if first.key == second.key:
            raise DataError(second.path, f"{second.name!r} stands twice in source {second.source!r}")


def _index_folder(root: Path, source: SourceConfig, names: _Names) -> SourceIndex:
    """Class folders. In path order a subfolder, one of a patient say, stays together in a split by blocks."""
    assert source.folder is not None, "the configuration asks for a layout"
    folder = root / source.folder
    if not folder.is_dir():
        raise DataError(folder, f"no such folder; source {source.name!r} expects one folder a class here")
    class_folders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not class_folders:
        raise DataError(folder, f"no class folders; expected folders named {', '.join(names.codes)}")
    found = SourceIndex([], Counter())
    for entry in class_folders:
        code = names.code(entry.name, entry, "")
        for path in _pictures_below(entry):
            if code is None:
                found.left_out[entry.name] += 1
                continue
            name = path.relative_to(entry).as_posix()
            found.samples.append(Sample(source.name, code, name, path, names.patient(name, "", path)))
    return found


def _pictures_below(folder: Path) -> Iterator[Path]:
    """Files called like pictures, in subfolders too, but for links to folders and for what is deleted meanwhile.

    Raises:
        DataError: a folder cannot be listed.
    """

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise DataError(Path(error.filename), f"cannot be listed ({error.strerror})") from error

    for parent, _, names in os.walk(folder, onerror=unreadable):
        paths = (Path(parent, name) for name in names)
        yield from (path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _index_list(root: Path, source: SourceConfig, names: _Names) -> SourceIndex:
    """The rows of a list. Files lie in the source's folder, or else beside the list or below --data."""
    assert source.list is not None, "the configuration asks for a layout"
    table = read_table(root / source.list)
    file_at = table.column(source.columns.file, FILE_COLUMNS, "file")
    code_at = table.column(source.columns.code, CLASS_COLUMNS, "class")
    patient_at = table.column_or_none(source.columns.patient, PATIENT_COLUMNS)
    if source.columns.patient and patient_at is None:
        table.column(source.columns.patient, PATIENT_COLUMNS, "patient")
    places = [root / source.folder] if source.folder else [table.path.parent, root]
    found = SourceIndex([], Counter())
    rows: dict[str, int] = {}
    for number, cells in table.rows:
        name = _below(root, cells[file_at].strip())
        code = names.code(cells[code_at].strip(), table.path, f"row {number}: ")
        if name in rows:
            raise DataError(table.path, f"row {number}: {name!r} stands in row {rows[name]} already")
        rows[name] = number
        if code is None:
            found.left_out[cells[code_at].strip()] += 1
            continue
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None:
            looked = " nor in ".join(str(place) for place in places)
            raise DataError(table.path, f"row {number}: no file {name!r} in {looked}")
        told = cells[patient_at].strip() if patient_at is not None else ""
        found.samples.append(Sample(source.name, code, name, path, names.patient(name, told, table.path)))
    return found


def _below(root: Path, file: str) -> str:
    """A file's name as it may be published: a full path says where on this machine the data lies."""
    path = Path(file)
    return (path.relative_to(root.absolute()) if path.is_relative_to(root.absolute()) else path).as_posix()


def _index_shards(root: Path, source: SourceConfig, names: _Names) -> SourceIndex:
    """Pictures in tar files, by their place in them: nothing is unpacked."""
    shards = sorted(root.glob(source.shards))
    if not shards:
        raise DataError(root / source.shards, f"no such shards; source {source.name!r} expects tar files here")
    found = SourceIndex([], Counter())
    for shard in shards:
        for picture in read_shard(shard, source.columns):
            told = picture.label or _class_folder(picture.name, names)
            if told is None:
                missing = "no .cls or .json of the same key names its class, and no folder of its path is one"
                raise DataError(shard, f"{picture.name}: {missing}")
            code = names.code(told, shard, f"{picture.name}: ")
            if code is None:
                found.left_out[told] += 1
                continue
            name = f"{shard.relative_to(root).as_posix()}/{picture.name}"
            patient = names.patient(name, picture.patient, shard)
            found.samples.append(Sample(source.name, code, name, shard, patient, picture.span))
    return found


def _class_folder(name: str, names: _Names) -> str | None:
    """The deepest folder of a path that is a class: CLASS/0001-1000/name.jpg → CLASS."""
    return next((part for part in reversed(PurePosixPath(name).parts[:-1]) if names.is_class(part)), None)
