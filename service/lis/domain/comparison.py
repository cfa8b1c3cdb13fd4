"""What differs between two results: of one specimen before and after an amendment, or of one patient's two specimens.

Pure: no I/O.
"""

from collections.abc import Iterator
from math import hypot
from typing import Literal, NamedTuple, Protocol, get_args

from pydantic import Field

from model.agreement.proportion import wilson
from model.fields import Code
from service.api.schemas import Document
from service.lis.domain.report import (
    Cellularity,
    MegakaryocyteAssessment,
    MyeloidErythroidRatio,
    Report,
    SpecimenDifferential,
)

Finding = Literal["me_ratio", "megakaryocytes", "megakaryocyte_assessment", "cellularity", "comment"]


class Result(Protocol):
    """A report, or a specimen as it is now."""

    @property
    def differential(self) -> SpecimenDifferential: ...
    @property
    def megakaryocytes(self) -> int | None: ...
    @property
    def megakaryocyte_assessment(self) -> MegakaryocyteAssessment | None: ...
    @property
    def cellularity(self) -> Cellularity | None: ...
    @property
    def comment(self) -> str | None: ...


class ClassChange(Document):
    """The change of one class. Without a difference where one of the shares is not measured."""

    code: Code
    name: str
    difference: float | None = Field(None, description="now minus before, in percentage points")
    low: float | None = Field(None, description="lower bound of its 95 % interval (Newcombe 1998), for two specimens")
    high: float | None = Field(None, description="upper bound")
    changed: bool = Field(
        description="same specimen: the number of cells differs; two specimens: the interval does not contain 0"
    )


class Comparison(Document):
    """A specimen's result beside the previous report of the specimen, or else of its patient."""

    previous: Report | None = Field(None, description="absent: neither has an earlier signed report")
    same_specimen: bool = Field(False, description="false: the previous report is of another specimen of the patient")
    classes: list[ClassChange] = Field([], description="classes that either result has")
    findings: list[Finding] = Field([], description="other parts of the result that differ")


def compare(before: Report, now: Result, *, same_specimen: bool) -> Comparison:
    """Compare a result with an earlier report."""
    classes = [*_class_changes(before.differential, now.differential, same_specimen=same_specimen)]
    findings = [name for name in get_args(Finding) if _differs(name, before, now, same_specimen=same_specimen)]
    return Comparison(previous=before, same_specimen=same_specimen, classes=classes, findings=findings)


class _Count(NamedTuple):
    """The cells of a class; `of` is the denominator, None without a measured share."""

    name: str
    cells: int
    of: int | None


def _counts(found: SpecimenDifferential) -> dict[str, _Count]:
    counted = {
        share.code: _Count(share.name, share.count, found.counted or None if share.supported else None)
        for share in found.classes
    }
    return counted | {share.code: _Count(share.name, share.count, None) for share in found.excluded}


def _class_changes(
    before: SpecimenDifferential, now: SpecimenDifferential, *, same_specimen: bool
) -> Iterator[ClassChange]:
    old, new = _counts(before), _counts(now)
    for code, (name, _, _) in (old | new).items():
        earlier, later = old.get(code, _Count(name, 0, None)), new.get(code, _Count(name, 0, None))
        found = _difference(earlier, later)
        difference, low, high = found or (None, None, None)
        if same_specimen:  # the same cells: no sampling error between them
            yield ClassChange(code=code, name=name, difference=difference, changed=earlier.cells != later.cells)
        else:
            changed = found is not None and not found[1] <= 0 <= found[2]
            yield ClassChange(code=code, name=name, difference=difference, low=low, high=high, changed=changed)


def _difference(before: _Count, now: _Count) -> tuple[float, float, float] | None:
    """Difference of two shares with its 95 % interval (Newcombe 1998, method 10), in percentage points."""
    if not before.of or not now.of:
        return None
    one, other = before.cells / before.of, now.cells / now.of
    (low, high), (other_low, other_high) = wilson(before.cells, before.of), wilson(now.cells, now.of)
    difference = other - one
    below, above = hypot(other - other_low, high - one), hypot(other_high - other, one - low)
    return 100 * difference, 100 * (difference - below), 100 * (difference + above)


def _differs(name: Finding, before: Report, now: Result, *, same_specimen: bool) -> bool:
    """Of two specimens, ratios differ beyond their intervals, assessments in their grades; the rest is not compared."""
    if name == "me_ratio":
        return _ratio_differs(before.differential.me_ratio, now.differential.me_ratio, same_specimen=same_specimen)
    one, other = getattr(before, name), getattr(now, name)
    if same_specimen:
        return bool(one != other)
    is_assessment = isinstance(one, MegakaryocyteAssessment | Cellularity) and other is not None
    return is_assessment and one.grade != other.grade


def _ratio_differs(before: MyeloidErythroidRatio, now: MyeloidErythroidRatio, *, same_specimen: bool) -> bool:
    if same_specimen:
        return _ratio(before) != _ratio(now)
    if before.low is None or before.high is None or now.low is None or now.high is None:
        return False
    return before.high < now.low or now.high < before.low


def _ratio(found: MyeloidErythroidRatio) -> tuple[int, int] | None:
    """Both terms; None if the ratio has no value."""
    return (found.myeloid, found.erythroid) if found.supported and found.value is not None else None
