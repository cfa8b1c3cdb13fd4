"""Cells that a laboratory has labelled: from folders named by class, or from a list."""

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from model.contract import CellClass
from service.scoring.image_files import Skipped, escaped_name, find_pictures
from service.verification.errors import VerificationError

#: In a mapping: a class that the model does not have.
NO_CLASS = "none"
#: The label of a cell for which no class has the majority of its readers.
UNDECIDED = "undecided"
#: Columns of a list.
FILE, LABEL, PATIENT, READER = "file", "label", "patient", "reader"
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class LabelledCell:
    """One picture with its label: a class code of the model, or None for a class that the model does not have."""

    name: str  # relative to the folder, as tables show it
    path: Path
    label: str | None
    undecided: bool = False  # no class has the majority of the readers: it has no label
    own_label: str = ""  # the laboratory's name
    patient: str | None = None
    readings: Mapping[str, str | None] = field(default_factory=dict)  # reader → label; empty if readers are unknown


@dataclass(frozen=True, slots=True)
class LabelledCells:
    """The labelled cells of a folder, and what was left out."""

    cells: tuple[LabelledCell, ...]
    names: Mapping[str, int]  # the laboratory's name of a class → labels
    skipped: Skipped = field(default_factory=Skipped)


class ClassNames:
    """Finds the class that a laboratory's name stands for.

    Args:
        classes: the model's.
        mapping: the laboratory's name → class code, or `NO_CLASS`.

    Raises:
        VerificationError: a mapping to a code that the model does not have.
    """

    def __init__(self, classes: Sequence[CellClass], mapping: Mapping[str, str]) -> None:
        self._classes = tuple(classes)
        self._codes = [each.code for each in classes]
        own = {each.name.casefold(): each.code for each in classes} | {code.casefold(): code for code in self._codes}
        self._found: dict[str, str | None] = {**own}
        for name, code in mapping.items():
            if code != NO_CLASS and code not in self._codes:
                raise VerificationError(f"--map {name}={code}: the model has no class {code}; {self._choices()}")
            self._found[name.casefold()] = None if code == NO_CLASS else code

    def check(self, names: Iterable[str]) -> None:
        """Check that every name is known.

        Raises:
            VerificationError: with an option to add for each unknown name.
        """
        unknown = sorted({name for name in names if name.casefold() not in self._found})
        if unknown:
            options = " ".join(f"--map '{escaped_name(name)}=CODE'" for name in unknown)
            names = ", ".join(f"{each.code} {each.name}" for each in self._classes)
            raise VerificationError(
                f"unknown labels: {', '.join(map(escaped_name, unknown))}. Add {options}; CODE is {NO_CLASS} for a "
                f"class that the model does not have, or one of {names}"
            )

    def code(self, name: str) -> str | None:
        """The class of a name that `check` has passed; None: none of the model's."""
        return self._found[name.casefold()]

    def _choices(self) -> str:
        return f"one of {', '.join(self._codes)}, or {NO_CLASS} for a class that it does not have"


def read_folders(folder: Path, names: ClassNames) -> LabelledCells:
    """The cells of FOLDER/CLASS/FILE or FOLDER/CLASS/PATIENT/FILE.

    Raises:
        VerificationError: no pictures, pictures outside a class folder, unknown class folders, or a folder that cannot
            be listed.
    """
    skipped = Skipped()
    found = [(path.relative_to(folder).parts, name, path) for name, path in find_pictures(folder, _refuse, skipped)]
    if not found:
        raise VerificationError(f"{folder}: no pictures{f'; {skipped}' if skipped else ''}")
    if outside := [name for parts, name, _ in found if len(parts) == 1]:
        raise VerificationError(
            f"{outside[0]} is in no class folder: sort the pictures into FOLDER/CLASS/ or FOLDER/CLASS/PATIENT/, or "
            "pass a list with --labels"
        )
    names.check(parts[0] for parts, _, _ in found)
    deep = {len(parts) > 2 for parts, _, _ in found}
    if len(deep) == 2:
        raise VerificationError(f"{folder}: some pictures are in a patient's folder and some are not; use one way")
    return LabelledCells(
        tuple(
            LabelledCell(
                name,
                path,
                names.code(parts[0]),
                own_label=parts[0],
                patient=parts[1] if len(parts) > 2 else None,
            )
            for parts, name, path in found
        ),
        Counter(parts[0] for parts, _, _ in found),
        skipped,
    )


def _refuse(error: OSError) -> NoReturn:
    """A folder that cannot be listed would leave out its cells without a word."""
    raise VerificationError(f"{error.filename}: cannot be read ({error.strerror})") from error


def read_list(table: Path, folder: Path, names: ClassNames) -> LabelledCells:
    """The cells of a CSV with the columns file and label, and optionally patient and reader.

    Files are relative to the folder. A file may have a row for each reader: its label is that of the majority.

    Raises:
        VerificationError: not such a list, a file that is missing, or unknown labels.
    """
    rows = [row | {FILE: os.path.normpath(row[FILE])} for row in _rows(table)]
    names.check(row[LABEL] for row in rows)
    by_file: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_file[row[FILE]].append(row)
    if missing := [file for file in by_file if not (folder / file).is_file()]:
        shown = ", ".join(map(escaped_name, missing[:_SHOWN])) + (", …" if len(missing) > _SHOWN else "")
        raise VerificationError(f"{table}: not found in {folder}: {shown} ({len(missing)} in all)")
    cells = tuple(_cell(file, found, folder, names, table) for file, found in by_file.items())
    if not cells:
        raise VerificationError(f"{table}: no labelled pictures")
    if len({cell.patient is None for cell in cells}) == 2:
        raise VerificationError(f"{table}: some rows have no {PATIENT}; fill it in everywhere or nowhere")
    return LabelledCells(cells, Counter(row[LABEL] for row in rows))


def _rows(table: Path) -> Iterator[dict[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VerificationError(f"{table}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise VerificationError(f"{table}: not UTF-8; save it as CSV UTF-8") from error
    try:
        yield from _cells(table, csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except csv.Error as error:
        raise VerificationError(f"{table}: not a CSV ({error})") from error


def _delimiter(text: str) -> str:
    """The delimiter that divides the first line into the needed columns; a comma if none does."""
    head = text.partition("\n")[0].strip()
    return next((mark for mark in ",;\t" if {FILE, LABEL} <= {name.strip('" ') for name in head.split(mark)}), ",")


def _cells(table: Path, rows: "csv.DictReader[str]") -> Iterator[dict[str, str]]:
    columns = list(rows.fieldnames or ())
    if not {FILE, LABEL} <= set(columns) or len(set(columns)) < len(columns):
        raise VerificationError(
            f"{table}: needs the columns {FILE} and {LABEL}, each once; it has {', '.join(columns) or 'none'}"
        )
    for row in rows:
        cells = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
        if not any(cells.values()) and None not in row:
            continue
        if not cells[FILE] or not cells[LABEL] or None in row:
            raise VerificationError(
                f"{table}, line {rows.line_num}: {FILE} or {LABEL} is missing, or the row has too many cells"
            )
        yield cells


def _cell(file: str, rows: Sequence[dict[str, str]], folder: Path, names: ClassNames, table: Path) -> LabelledCell:
    """The cell of a file's rows."""
    by_reader = {row.get(READER, ""): names.code(row[LABEL]) for row in rows}
    if len(by_reader) < len(rows):
        raise VerificationError(f"{table}: {escaped_name(file)} occurs twice for the same reader")
    patients = {row.get(PATIENT) or None for row in rows}
    if len(patients) > 1:
        raise VerificationError(f"{table}: {escaped_name(file)} has several patients")
    ((label, votes), *_) = Counter(by_reader.values()).most_common()
    undecided = 2 * votes <= len(by_reader)
    return LabelledCell(
        escaped_name(file),
        folder / file,
        None if undecided else label,
        undecided=undecided,
        own_label=" / ".join(dict.fromkeys(row[LABEL] for row in rows)),
        patient=patients.pop(),
        readings=by_reader if READER in rows[0] else {},
    )
