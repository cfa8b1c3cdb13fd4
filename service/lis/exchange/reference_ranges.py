"""The laboratory's reference ranges: a table by result, sex and age, and the flag of a value. No ranges without it.

Ranges depend on population, counting rules and site of aspiration, so none is bundled as valid:
`adult_marrow_ranges.csv` is an example.
"""

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from model.regular_file import read_regular_file
from service.lis.domain.report import Report
from service.lis.exchange.observations import Observation

COLUMNS = ("key", "sex", "age_from", "age_to", "low", "high")
Flag = Literal["L", "H", "N"]


class RangeTableError(Exception):
    """An invalid table of reference ranges: file, line and what to change."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}")


@dataclass(frozen=True, slots=True)
class Reference:
    """The range that applies to a result, in its unit, and the flag of its value (HL7 table 0078)."""

    low: float
    high: float
    flag: Flag


Cell = BeforeValidator(lambda text: text or None)


class Range(BaseModel):
    """One row: a range of a result, for a sex and for ages in years (`age_from` included, `age_to` not) if given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    key: str = Field(min_length=1)
    sex: Annotated[Literal["F", "M"] | None, Cell] = None
    age_from: Annotated[float | None, Field(ge=0), Cell] = None
    age_to: Annotated[float | None, Field(gt=0), Cell] = None
    low: float = Field(ge=0)
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high < self.low:
            raise ValueError("high is below low; exchange them")
        return self

    def applies(self, sex: str | None, age_years: float | None) -> bool:
        """Whether the range is for this patient. An unknown sex or age has no range that depends on it."""
        if self.sex is not None and self.sex != sex:
            return False
        if self.age_from is None and self.age_to is None:
            return True
        if age_years is None:
            return False
        return (self.age_from or 0) <= age_years and (self.age_to is None or age_years < self.age_to)


@dataclass(frozen=True, slots=True)
class ReferenceRanges:
    """A valid table; empty without one."""

    rows: Sequence[Range] = ()

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read a laboratory's table.

        Raises:
            RangeTableError: the table cannot be read or is invalid; the first error.
        """
        return cls() if path is None else cls(_read(path))

    def unknown_keys(self, keys: Collection[str]) -> list[str]:
        """Keys of the table that no result has."""
        return sorted({row.key for row in self.rows} - set(keys))

    def reference(self, report: Report, result: Observation) -> Reference | None:
        """The range and flag of a result; None without a value, or if no range is for this patient."""
        if result.value is None or isinstance(result.value, str):
            return None
        sex, age_years = report.patient.sex, _age_years(report)
        found = [row for row in self.rows if row.key == result.key and row.applies(sex, age_years)]
        if not found:
            return None
        low, high = found[0].low, found[0].high
        flag: Flag = "L" if result.value < low else "H" if result.value > high else "N"
        return Reference(low, high, flag)


NO_RANGES = ReferenceRanges()


def _age_years(report: Report) -> float | None:
    """Age at collection, or at the report without that time, in full months; None without a birth date."""
    born, day = report.patient.birth_date, (report.collected_at or report.created_at).date()
    if born is None or born > day:
        return None
    return (12 * (day.year - born.year) + day.month - born.month - (day.day < born.day)) / 12


def _read(path: Path) -> list[Range]:
    try:
        lines = read_regular_file(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise RangeTableError(path, 1, f"cannot be read as UTF-8 text ({why})") from error
    head = next((number for number, text in enumerate(lines) if not text.startswith("#")), len(lines))
    reader = csv.reader(io.StringIO("\n".join(lines[head:])))
    columns = tuple(next(reader, ()))
    if columns != COLUMNS:
        raise RangeTableError(path, head + 1, f"wrong columns {','.join(columns)}; use {','.join(COLUMNS)}")
    found: list[Range] = []
    for cells in reader:
        if any(cells):
            row = _row(path, head + reader.line_num, cells)
            if other := next((each for each in found if _overlaps(each, row)), None):
                reason = f"{row.key}: another line has a range for the same patients ({other.low:g} to {other.high:g})"
                raise RangeTableError(path, head + reader.line_num, f"{reason}; keep one")
            found.append(row)
    return found


def _row(path: Path, line: int, cells: Sequence[str]) -> Range:
    if len(cells) != len(COLUMNS):
        raise RangeTableError(path, line, f"{len(cells)} cells instead of {len(COLUMNS)}")
    try:
        return Range.model_validate(dict(zip(COLUMNS, (cell.strip() for cell in cells), strict=True)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        column = f"{first['loc'][0]}={first['input']}: " if first["loc"] else ""
        raise RangeTableError(path, line, f"{column}{first['msg'].removeprefix('Value error, ')}") from error


def _overlaps(one: Range, other: Range) -> bool:
    """Whether a patient could have both ranges."""
    if one.key != other.key or (one.sex and other.sex and one.sex != other.sex):
        return False
    ends = [float("inf") if each.age_to is None else each.age_to for each in (one, other)]
    return (one.age_from or 0) < ends[1] and (other.age_from or 0) < ends[0]
