"""The code table: the LOINC or local code of each result. A laboratory can replace it; it is validated as a whole."""

import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, get_args

from model.contract import CLASSES, CellClass, Lineage
from model.regular_file import read_regular_file
from service.lis.exchange.observations import (
    CELLULARITY,
    COUNT,
    COUNTED,
    LINEAGE,
    ME_RATIO,
    MEGAKARYOCYTE_ASSESSMENT,
    MEGAKARYOCYTES,
    METHOD,
    MODEL,
    PANEL,
    WAITING,
    Coded,
    CodeOf,
)

BUNDLED: Final = Path(__file__).with_name("codes.csv")
COLUMNS: Final = ("key", "loinc", "long_name", "manual_count", "status", "verified_by", "note")
#: Statuses of LOINC codes that can be sent, most certain first, and of codes that are not.
CERTAIN: Final = ("verified", "two-sources", "single-source")
UNCERTAIN: Final = ("doubtful", "unverified")
LOCAL, AVOIDED, AVOID = "local", "do-not-use", "AVOID"
STATUSES: Final = (*CERTAIN, *UNCERTAIN, LOCAL, AVOIDED)
#: Results besides the classes.
NAMED: Final = {
    PANEL: "Differential panel",
    ME_RATIO: "Myeloid to erythroid ratio",
    **{f"{LINEAGE}{lineage.upper()}": f"{lineage.capitalize()} cells, all" for lineage in get_args(Lineage)},
    COUNTED: "Cells counted",
    WAITING: "Cells that wait for review",
    MEGAKARYOCYTES: "Megakaryocytes",
    MEGAKARYOCYTE_ASSESSMENT: "Megakaryocytes, assessment",
    CELLULARITY: "Cellularity",
    MODEL: "Model that suggested classes",
    METHOD: "Method",
}
#: Results without a row in tables of earlier versions: they are sent with their own keys.
_LATER: Final = (MEGAKARYOCYTE_ASSESSMENT, CELLULARITY)


class CodeTableError(Exception):
    """An invalid code table: file, line and what to change."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the code of one result, its status and source."""

    line: int
    key: str
    loinc: str
    long_name: str
    manual_count: bool
    status: str
    verified_by: str
    note: str


@dataclass(frozen=True, slots=True)
class ResultCode:
    """The codes of one result in preliminary and signed reports, with warnings."""

    key: str
    status: str
    preliminary: Coded
    signed: Coded
    verified_by: str = ""
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class CodeMap:
    """A valid table: version, rows by key, and the least certain status that is sent as LOINC."""

    version: str
    rows: Mapping[str, Row]
    least_status: str

    @classmethod
    def load(cls, path: Path | None = None, least_status: str = "single-source") -> Self:
        """Read a laboratory's table, or the bundled one.

        Raises:
            CodeTableError: the table cannot be read or is invalid; the first error.
        """
        version, bundled = _read(BUNDLED)
        rows = bundled
        if path is not None:
            version, rows = _read(path)
        avoided = {row.loinc: row.note for row in [*bundled, *rows] if row.status == AVOIDED}
        return cls(version, _checked(path or BUNDLED, rows, avoided), least_status)

    def code_of(self, signed: bool) -> CodeOf:
        """A function from an observation's key and name to its code, for signed or preliminary reports."""
        sent = [row for row in self.rows.values() if self._certain(row) and (signed or not row.manual_count)]
        codes = {row.key: Coded("loinc", row.loinc, row.long_name) for row in sent}

        def coded(key: str, name: str) -> Coded:
            return codes.get(key) or Coded("local", key, name)

        return coded

    def result_codes(self, classes: Sequence[CellClass] = CLASSES, *, counts: bool = False) -> list[ResultCode]:
        """The codes of all results for these classes, in the order of a report.

        Args:
            counts: with the number of cells of each class.
        """
        before, after = self.code_of(signed=False), self.code_of(signed=True)
        names = {cell_class.code: cell_class.name for cell_class in classes if cell_class.countable != "never"}
        numbers = {f"{code}{COUNT}": f"{name}, number of cells" for code, name in names.items()} if counts else {}
        names |= NAMED | numbers
        return [self._result_code(key, before(key, name), after(key, name)) for key, name in names.items()]

    def _result_code(self, key: str, preliminary: Coded, signed: Coded) -> ResultCode:
        row = self.rows.get(key)
        if row is None:
            return ResultCode(key, LOCAL, preliminary, signed, warnings=("not in the table: sent with its own key",))
        return ResultCode(key, row.status, preliminary, signed, row.verified_by, tuple(self._warnings(row)))

    def _warnings(self, row: Row) -> Iterator[str]:
        if row.status == LOCAL:
            return
        if not self._certain(row):
            yield f"{row.loinc} is {row.status}: not sent"
        elif row.manual_count:
            yield "means by Manual count: sent only in signed reports"
        if row.status != CERTAIN[0]:
            yield f"check it in RELMA or at loinc.org: {row.note or 'not checked yet'}"

    def _certain(self, row: Row) -> bool:
        return row.status in CERTAIN[: CERTAIN.index(self.least_status) + 1]


def has_check_digit(loinc: str) -> bool:
    """Whether the modulus 10 check digit after the hyphen is right (LOINC Users' Guide)."""
    found = re.fullmatch(r"([0-9]{1,7})-([0-9])", loinc)
    if not found:
        return False
    digits = [int(digit) for digit in reversed(found[1])]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[::2])
    return (sum(doubled) + sum(digits[1::2]) + int(found[2])) % 10 == 0


def _read(path: Path) -> tuple[str, list[Row]]:
    try:
        lines = read_regular_file(path).decode("utf-8-sig").splitlines()  # spreadsheets write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CodeTableError(path, 1, f"cannot be read as UTF-8 text ({why})") from error
    version = re.fullmatch(r"# version: ([^,]+?)[,\s]*", lines[0]) if lines else None
    if not version:
        raise CodeTableError(path, 1, "the first line must be the table's version, such as `# version: 1`")
    head = next((number for number, text in enumerate(lines) if not text.startswith("#")), len(lines))
    reader = csv.reader(io.StringIO("\n".join(lines[head:])))
    columns = tuple(next(reader, ()))
    if columns != COLUMNS:
        raise CodeTableError(path, head + 1, f"wrong columns {','.join(columns)}; use {','.join(COLUMNS)}")
    return version[1], [_row(path, head + reader.line_num, cells) for cells in reader if any(cells)]


def _row(path: Path, line: int, cells: Sequence[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise CodeTableError(
            path, line, f"{len(cells)} cells instead of {len(COLUMNS)}; put text with commas in quotes"
        )
    key, loinc, long_name, manual_count, status, verified_by, note = (cell.strip() for cell in cells)
    if status not in STATUSES:
        nearest = difflib.get_close_matches(status, STATUSES, n=1, cutoff=0)[0]
        raise CodeTableError(path, line, f"unknown status {status or '(empty)'}; did you mean {nearest}?")
    row = Row(line, key, loinc, long_name, manual_count == "yes", status, verified_by, note)
    wrong = _wrong_loinc(row, manual_count) if status in (*CERTAIN, *UNCERTAIN) else _wrong_other(row)
    if wrong:
        raise CodeTableError(path, line, f"{key}: {wrong}")
    return row


def _wrong_loinc(row: Row, manual_count: str) -> str | None:
    if not has_check_digit(row.loinc):
        return f"invalid LOINC code {row.loinc or '(empty)'}: wrong check digit; copy it from loinc.org again"
    if not row.long_name:
        return "long_name is empty; copy the code's long common name from loinc.org"
    if manual_count not in ("yes", "no"):
        return "manual_count must be yes or no: whether the long name says by Manual count"
    if "manual count" in row.long_name.lower() and not row.manual_count:
        return "the long name says by Manual count; set manual_count to yes"
    if row.status in CERTAIN and not row.verified_by:
        return f"verified_by is empty; name the source of the status {row.status}"
    return None


def _wrong_other(row: Row) -> str | None:
    if row.status == LOCAL and row.loinc:
        return f"a local code has no LOINC code; empty the cell, or set the status of {row.loinc}"
    if (row.status == AVOIDED) != (row.key == AVOID):
        return f"the status {AVOIDED} and the key {AVOID} go together"
    return None


def _checked(path: Path, rows: Sequence[Row], avoided: Mapping[str, str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    loincs: dict[str, Row] = {}
    for row in rows:
        if row.status == AVOIDED:
            continue
        if row.key in found:
            raise CodeTableError(path, row.line, f"{row.key} is already in line {found[row.key].line}; keep one")
        if row.loinc in avoided:
            reason = f"{row.loinc} must not be used: {avoided[row.loinc]}; use another code, or the status local"
            raise CodeTableError(path, row.line, f"{row.key}: {reason}")
        if row.loinc and row.loinc in loincs:
            other = loincs[row.loinc]
            raise CodeTableError(
                path, row.line, f"{row.key}: {row.loinc} is already the code of {other.key} in line {other.line}"
            )
        found[row.key] = row
        loincs[row.loinc] = row
    for key in (*(cell_class.code for cell_class in CLASSES), *NAMED):
        if key not in found and key not in _LATER:
            raise CodeTableError(path, rows[-1].line if rows else 1, f"no row for {key}; add `{key},,,,local,,`")
    return found
