"""The results of a report, for every message format: an ordered list of observations. Pure, no I/O."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from model.contract import RESEARCH_USE, inert_note
from service.api.schemas import ClassShare
from service.lis.domain.person import Person
from service.lis.domain.report import (
    EARLIER_CONTENT,
    Cellularity,
    MegakaryocyteAssessment,
    Report,
    ReportStatus,
)

PANEL, ME_RATIO = "PANEL", "ME_RATIO"
COUNTED, WAITING, MEGAKARYOCYTES, MODEL, METHOD = "COUNTED", "WAITING", "MEGAKARYOCYTES", "MODEL", "METHOD"
MEGAKARYOCYTE_ASSESSMENT, CELLULARITY = "MEGAKARYOCYTE_ASSESSMENT", "CELLULARITY"
#: Results that a person has found without the model.
BY_PERSON = frozenset({MEGAKARYOCYTES, MEGAKARYOCYTE_ASSESSMENT, CELLULARITY})
#: Keys of the lineages, LINEAGE_GRANULOCYTIC, …, and of the numbers of cells, LYT_COUNT, …
LINEAGE, COUNT = "LINEAGE_", "_COUNT"


@dataclass(frozen=True, slots=True)
class Coded:
    """The code of a result in a message: LOINC, or the laboratory's own."""

    system: Literal["loinc", "local"]
    code: str
    display: str


NOT_ASSESSED = "Not assessed by the reader"
NO_CELL = "Not measured: no cell is counted"
#: From an observation's key and name to its code; see `CodeMap.code_of`.
CodeOf = Callable[[str, str], Coded]


@dataclass(frozen=True, slots=True)
class Observation:
    """One result. Without a value, `notes` give the reason.

    `key` is a class code or one of the names above; the code table is looked up by it. `unit` is UCUM; texts have none.
    `low` and `high` bound the 95 % sampling interval, in the value's unit.
    """

    key: str
    name: str
    value: float | int | str | None
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    notes: tuple[str, ...] = field(default=())


class ResultStatus(StrEnum):
    """Status of one result. Withdrawn: sent with a value before, and without one now."""

    PRELIMINARY = "preliminary"
    FINAL = "final"
    CORRECTED = "corrected"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Result:
    """An observation with its status. A receiver files it by `key` and `number`, which never change.

    `number` is 1, 2, … among the results of the same key: a report may name several models.
    """

    observation: Observation
    number: int
    status: ResultStatus

    @property
    def key(self) -> str:
        return self.observation.key


def observations(report: Report) -> list[Observation]:
    """All results of a report: classes in logit order, lineages, M:E ratio, counts, and by setting its provenance."""
    content = report.content or EARLIER_CONTENT
    provenance = _provenance(report) if content.provenance == "results" else ()
    class_counts = _class_counts(report) if content.class_counts else ()
    written = [*_counts(report), *_assessments(report)]
    return [*_classes(report), *_lineages(report), _ratio(report), *written, *class_counts, *provenance]


def person_of_result(report: Report, key: str) -> Person | None:
    """The person who has found a result of `BY_PERSON`; None: the signer."""
    found = {
        MEGAKARYOCYTES: report.megakaryocytes_by,
        MEGAKARYOCYTE_ASSESSMENT: report.megakaryocyte_assessment_by,
        CELLULARITY: report.cellularity_by,
    }
    return found.get(key)


def provenance_notes(report: Report) -> list[str]:
    """Cells that wait for review, models and method as notes; empty if they are results."""
    if (report.content or EARLIER_CONTENT).provenance == "results":
        return []
    named = [(f"{each.name}: {each.value}", *each.notes) for each in _provenance(report)]
    return ["; ".join(words) for words in named]


def results(report: Report, earlier: Sequence[Report] = ()) -> list[Result]:
    """The results with a value in the order of `observations`, then those that are withdrawn.

    In a corrected report a result is corrected if it differs from the last one that was sent, otherwise final. A result
    that was once sent is in every later report.

    Args:
        earlier: reports of the specimen that were sent to the same receiver, oldest first.
    """
    sent: dict[tuple[str, int], Observation] = {}
    last: dict[tuple[str, int], Observation] = {}
    for one in earlier:
        sent |= _with_values(one)
        if one.status is not ReportStatus.PRELIMINARY:
            last |= _with_values(one)
    now = _with_values(report)
    found = [Result(each, place[1], _status(report, each, last.get(place))) for place, each in now.items()]
    gone = {place: replace(each, value=None, notes=()) for place, each in sent.items() if place not in now}
    return found + [Result(each, place[1], ResultStatus.WITHDRAWN) for place, each in gone.items()]


def _status(report: Report, result: Observation, last: Observation | None) -> ResultStatus:
    """The status of a result with a value; `last` is the last one that was signed."""
    if report.status is ReportStatus.PRELIMINARY:
        return ResultStatus.PRELIMINARY
    return ResultStatus.FINAL if last is None or last == result else ResultStatus.CORRECTED


def _with_values(report: Report) -> dict[tuple[str, int], Observation]:
    """The results with a value, by key and number."""
    seen: Counter[str] = Counter()
    found = {}
    for each in observations(report):
        seen[each.key] += 1
        if each.value is not None:
            found[each.key, seen[each.key]] = each
    return found


def not_measured(report: Report) -> list[str]:
    """Why results have no value: a sentence for each reason, with the results."""
    by_reason: dict[str, list[str]] = {}
    for each in observations(report):
        if each.value is None:
            reason, *more = each.notes
            by_reason.setdefault(reason, []).append(f"{each.name} ({'; '.join(more)})" if more else each.name)
    return [f"{reason}: {'; '.join(names)}" for reason, names in by_reason.items()]


def _classes(report: Report) -> Iterator[Observation]:
    for share in report.differential.classes:
        yield _class(share, report.differential.counted)


def _class(share: ClassShare, counted: int) -> Observation:
    if not share.supported:
        note = "Not measured: the model does not support this class, and a person has not read every cell"
        named = f"{share.count} of {counted} cells were classified as this class"
        return Observation(share.code, share.name, None, "%", notes=(note, named) if share.count else (note,))
    if share.percent is None:
        return Observation(share.code, share.name, None, "%", notes=(NO_CELL,))
    notes = [f"{share.count} of {counted} cells"]
    if share.low is not None and share.high is not None:
        notes.append(f"95 % interval {share.low:.1f} to {share.high:.1f} %")
    return Observation(share.code, share.name, round(share.percent, 1), "%", share.low, share.high, tuple(notes))


def _lineages(report: Report) -> Iterator[Observation]:
    for share in report.differential.lineages:
        key, name = f"{LINEAGE}{share.lineage.upper()}", f"{share.lineage.capitalize()} cells, all"
        if not share.supported:
            yield Observation(
                key,
                name,
                None,
                "%",
                notes=("Not measured: the lineage includes a class that the model does not support",),
            )
            continue
        if share.percent is None:
            yield Observation(key, name, None, "%", notes=(NO_CELL,))
            continue
        notes = (f"{share.count} of {report.differential.counted} cells",)
        yield Observation(key, name, round(share.percent, 1), "%", share.low, share.high, notes)


def _ratio(report: Report) -> Observation:
    ratio, name = report.differential.me_ratio, "Myeloid to erythroid ratio"
    if not ratio.supported:
        reason = "Not calculated: the ratio includes a class that the model does not support"
        return Observation(ME_RATIO, name, None, "{ratio}", notes=(reason, ratio.formula))
    counted = f"{ratio.myeloid} to {ratio.erythroid} cells; {ratio.formula}"
    if ratio.value is None:
        return Observation(ME_RATIO, name, None, "{ratio}", notes=("Not calculated: no erythroid cell", counted))
    return Observation(ME_RATIO, name, round(ratio.value, 2), "{ratio}", ratio.low, ratio.high, (counted,))


def _counts(report: Report) -> Iterator[Observation]:
    found = report.differential
    below = ("signed below the target",) if report.signed_below_target else ()
    notes = (f"target {found.target_cells}", *below)
    yield Observation(COUNTED, "Cells counted", found.counted, "{cells}", notes=notes)
    if report.megakaryocytes is not None:
        note = "counted separately by a person, not in the differential"
        yield Observation(MEGAKARYOCYTES, "Megakaryocytes", report.megakaryocytes, "{cells}", notes=(note,))


def _assessments(report: Report) -> Iterator[Observation]:
    if report.megakaryocyte_assessment is not None:
        name = "Megakaryocytes, assessment"
        yield _assessment(MEGAKARYOCYTE_ASSESSMENT, name, report.megakaryocyte_assessment)
    if report.cellularity is not None:
        yield _assessment(CELLULARITY, "Cellularity", report.cellularity)


def _assessment(key: str, name: str, found: MegakaryocyteAssessment | Cellularity) -> Observation:
    """An assessment as a word, with its remark as a note; without a value if it was not possible."""
    remark = (found.remark,) if found.remark else ()
    if found.grade == "not_assessed":
        return Observation(key, name, None, notes=(NOT_ASSESSED, *remark))
    return Observation(key, name, found.grade, notes=remark)


def _class_counts(report: Report) -> Iterator[Observation]:
    for share in report.differential.classes:
        if share.supported:
            yield Observation(f"{share.code}{COUNT}", f"{share.name}, number of cells", share.count, "{cells}")


def _provenance(report: Report) -> Iterator[Observation]:
    found = report.differential
    note = f"{found.read_by_person} of {found.cells} cells were read by a person"
    yield Observation(WAITING, "Cells that wait for review", found.waiting_review, "{cells}", notes=(note,))
    for model in report.models:
        named = f"{model.name} {model.version} sha256 {model.sha256}"
        notes = (inert_note(model.inert),) if model.inert else ()
        yield Observation(MODEL, "Model that suggested classes", named, notes=notes)
    yield Observation(METHOD, "Method", RESEARCH_USE)
