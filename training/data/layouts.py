"""Data sources on disk → samples: class folders, lists or tar shards.

folder  CLASS/name.jpg, CLASS/0001-1000/name.jpg (as Matek 2021 is published) or CLASS/patient/name.jpg
list    CSV or Parquet, one row per picture: file, class and optionally patient
shards  tar files; the class is in key.cls or key.json beside key.jpg (WebDataset), or the name of a folder
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from training.config import suggest
from training.data.class_names import unknown_classes
from training.data.samples import IMAGE_SUFFIXES, DataError, Sample
from training.data.shards import read_shard
from training.data.tables import CLASS_COLUMNS, FILE_COLUMNS, GROUP_COLUMNS, PATIENT_COLUMNS, Table, read_table
from training.data_config import SourceConfig


@dataclass(frozen=True)
class SourceIndex:
    """The samples of a source in file-name order, and the number of pictures left out by class."""

    samples: list[Sample]
    left_out: Counter[str]
    #: Suffix → files of class folders that are no pictures, and files that are in no class folder.
    passed_over: Counter[str] = field(default_factory=Counter)


class _Names:
    """Maps a source's class names to codes and its file names to patients."""

    def __init__(self, source: SourceConfig, codes: Sequence[str]) -> None:
        self.codes = codes
        self.mapping = source.classes
        self.leave_out = frozenset(source.leave_out)
        self.unknown: dict[str, str] = {}  # name → where it was met first
        self.patterns = {
            key: re.compile(pattern)
            for key in ("patient_pattern", "group_pattern")
            if (pattern := getattr(source, key))
        }

    def is_class(self, name: str) -> bool:
        return name in self.mapping or name in self.leave_out or name in self.codes

    def code(self, name: str, path: Path, where: str) -> str | None:
        """The code of a class name; None for a class that is left out, and for an unknown one, which is noted.

        Raises:
            DataError: `classes` of the source names an unknown code.
        """
        if name in self.leave_out:
            return None
        code = self.mapping.get(name, name)
        if code in self.codes:
            return code
        if name in self.mapping:
            near = suggest(code.upper(), self.codes, most=3)
            raise DataError(path, f"{where}unknown class {code!r} in `classes` of the source; {near}")
        self.unknown.setdefault(name, where)
        return None

    def check_known(self, path: Path) -> None:
        """Raise DataError with all unknown names at once, and the mapping to paste."""
        if self.unknown:
            where = next(iter(self.unknown.values()))
            raise DataError(path, where + unknown_classes(list(self.unknown), self.codes))

    def patient(self, name: str, given: str, path: Path) -> str:
        """The patient: as given by the data, else by `patient_pattern` from the file name.

        Raises:
            DataError: the pattern does not match.
        """
        return given or self._matched("patient_pattern", name, path)

    def group(self, name: str, given: str, path: Path) -> str:
        """The slide or field: as given by the data, else by `group_pattern` from the file name.

        Raises:
            DataError: the pattern does not match.
        """
        return given or self._matched("group_pattern", name, path)

    def _matched(self, key: str, name: str, path: Path) -> str:
        if key not in self.patterns:
            return ""
        match = self.patterns[key].search(name)
        if match is None:
            raise DataError(path, f"{key} {self.patterns[key].pattern!r} does not match {name!r}")
        return match[1]


def index_source(root: Path, source: SourceConfig, codes: Sequence[str]) -> SourceIndex:
    """Every picture of a source.

    Args:
        root: the --data folder.
        codes: class codes in logit order.

    Raises:
        DataError: the data contradict the configuration; names file, row and column.
    """
    names = _Names(source, codes)
    if source.list is not None:
        found = _index_list(root, source, names)
    elif source.shards:
        found = _index_shards(root, source, names)
    else:
        found = _index_folder(root, source, names)
    names.check_known(root / (source.list or source.folder or source.shards))
    found.samples.sort(key=lambda sample: sample.sort_key)
    for first, second in zip(found.samples, found.samples[1:], strict=False):
        if first.key == second.key:
            raise DataError(second.path, f"{second.name!r} occurs twice in source {second.source!r}")
    return found


def _index_folder(root: Path, source: SourceConfig, names: _Names) -> SourceIndex:
    """Class folders. In path order, a subfolder (a patient, say) stays together in contiguous blocks."""
    assert source.folder is not None, "checked by SourceConfig"
    folder = root / source.folder
    if not folder.is_dir():
        raise DataError(folder, f"no such folder; source {source.name!r} expects one folder per class here")
    visible = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    class_folders = [entry for entry in visible if entry.is_dir()]
    if not class_folders:
        raise DataError(folder, f"no class folders; expected folders named {', '.join(names.codes)}")
    found = SourceIndex([], Counter())
    outside = (_suffix(entry) for entry in visible if not entry.is_dir())
    found.passed_over.update(f"{suffix} outside the class folders" for suffix in outside)
    for entry in class_folders:
        code = names.code(entry.name, entry, "")
        for path in _files_below(entry):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                found.passed_over[_suffix(path)] += 1
                continue
            if code is None:
                found.left_out[entry.name] += 1
                continue
            name = path.relative_to(entry).as_posix()
            patient, group = names.patient(name, "", path), names.group(name, "", path)
            found.samples.append(Sample(source.name, code, name, path, patient, group))
    return found


def _suffix(path: Path) -> str:
    return path.suffix.lower() or "without a suffix"


def _files_below(folder: Path) -> Iterator[Path]:
    """Files in a folder and its subfolders but hidden ones; links to folders are not followed.

    Raises:
        DataError: a folder cannot be listed.
    """

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise DataError(Path(error.filename), f"cannot be listed ({error.strerror})") from error

    for parent, _, names in os.walk(folder, onerror=unreadable):
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _index_list(root: Path, source: SourceConfig, names: _Names) -> SourceIndex:
    """The rows of a list. Files are in the source's folder; without one, beside the list or below --data."""
    assert source.list is not None, "checked by SourceConfig"
    table = read_table(root / source.list)
    file_at = table.column(source.columns.file, FILE_COLUMNS, "file")
    code_at = table.column(source.columns.code, CLASS_COLUMNS, "class")
    patient_at = _optional_column(table, source.columns.patient, PATIENT_COLUMNS, "patient")
    group_at = _optional_column(table, source.columns.group, GROUP_COLUMNS, "slide or field")
    folders = [root / source.folder] if source.folder else [table.path.parent, root]
    found = SourceIndex([], Counter())
    rows: dict[str, int] = {}
    for number, cells in table.rows:
        name = _relative_name(root, cells[file_at].strip())
        code = names.code(cells[code_at].strip(), table.path, f"row {number}: ")
        if name in rows:
            raise DataError(table.path, f"row {number}: {name!r} is already listed in row {rows[name]}")
        rows[name] = number
        if code is None:
            found.left_out[cells[code_at].strip()] += 1
            continue
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise DataError(table.path, f"row {number}: no file {name!r} in {' nor in '.join(map(str, folders))}")
        patient, group = ("" if at is None else cells[at].strip() for at in (patient_at, group_at))
        patient, group = names.patient(name, patient, table.path), names.group(name, group, table.path)
        found.samples.append(Sample(source.name, code, name, path, patient, group))
    return found


def _optional_column(table: Table, named: str, usual: Sequence[str], what: str) -> int | None:
    """Index of a column that a list may lack unless the configuration names it."""
    return table.column(named, usual, what) if named else table.column_or_none(named, usual)


def _relative_name(root: Path, file: str) -> str:
    """A file name that may be published: a path below --data becomes relative to it."""
    path = Path(file)
    return (path.relative_to(root.absolute()) if path.is_relative_to(root.absolute()) else path).as_posix()


def _index_shards(root: Path, source: SourceConfig, names: _Names) -> SourceIndex:
    """Pictures in tar files, by their offsets; nothing is unpacked."""
    shards = sorted(root.glob(source.shards))
    if not shards:
        raise DataError(root / source.shards, f"no such shards; source {source.name!r} expects tar files here")
    found = SourceIndex([], Counter())
    for shard in shards:
        for picture in read_shard(shard, source.columns):
            label = picture.label or _class_folder(picture.name, names)
            if label is None:
                missing = "no class: there is no .cls or .json with its key, and no folder of its path is a class"
                raise DataError(shard, f"{picture.name}: {missing}")
            code = names.code(label, shard, f"{picture.name}: ")
            if code is None:
                found.left_out[label] += 1
                continue
            name = f"{shard.relative_to(root).as_posix()}/{picture.name}"
            patient = names.patient(name, picture.patient, shard)
            group = names.group(name, picture.group, shard)
            found.samples.append(Sample(source.name, code, name, shard, patient, group, picture.span))
    return found


def _class_folder(name: str, names: _Names) -> str | None:
    """The deepest folder of a path that is a class: CLASS/0001-1000/name.jpg → CLASS."""
    return next((part for part in reversed(PurePosixPath(name).parts[:-1]) if names.is_class(part)), None)
