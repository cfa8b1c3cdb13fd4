"""The results of a report, for every message format: an ordered list of observations. Pure, no I/O."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from model.contract import RESEARCH_USE, inert_note
from service.api.schemas import ClassShare
from service.lis.domain.report import Report

PANEL, ME_RATIO = "PANEL", "ME_RATIO"
COUNTED, WAITING, MEGAKARYOCYTES, MODEL, METHOD = "COUNTED", "WAITING", "MEGAKARYOCYTES", "MODEL", "METHOD"
#: Keys of the lineages: LINEAGE_GRANULOCYTIC, …
LINEAGE = "LINEAGE_"


@dataclass(frozen=True, slots=True)
class Coded:
    """The code of a result in a message: LOINC, or the laboratory's own."""

    system: Literal["loinc", "local"]
    code: str
    display: str


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


def observations(report: Report) -> list[Observation]:
    """All results of a report: classes in logit order, lineages, M:E ratio, counts, models, method."""
    return [*_classes(report), *_lineages(report), _ratio(report), *_counts(report), *_provenance(report)]


def _classes(report: Report) -> Iterator[Observation]:
    for share in report.differential.classes:
        yield _class(share, report.differential.counted)


def _class(share: ClassShare, counted: int) -> Observation:
    if not share.supported:
        note = "Not measured: the model does not support this class, and a person has not read every cell"
        named = f"{share.count} of {counted} cells were classified as this class"
        return Observation(share.code, share.name, None, "%", notes=(note, named) if share.count else (note,))
    notes = [f"{share.count} of {counted} cells"]
    if share.low is not None and share.high is not None:
        notes.append(f"95 % interval {share.low:.1f} to {share.high:.1f} %")
    value = None if share.percent is None else round(share.percent, 1)
    return Observation(share.code, share.name, value, "%", share.low, share.high, tuple(notes))


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
        value = None if share.percent is None else round(share.percent, 1)
        notes = (f"{share.count} of {report.differential.counted} cells",)
        yield Observation(key, name, value, "%", share.low, share.high, notes)


def _ratio(report: Report) -> Observation:
    ratio, name = report.differential.me_ratio, "Myeloid to erythroid ratio"
    if not ratio.supported:
        notes = (f"Not calculated: the ratio includes a class this model does not support; {ratio.formula}",)
        return Observation(ME_RATIO, name, None, "{ratio}", notes=notes)
    notes = (f"{ratio.myeloid} to {ratio.erythroid} cells; {ratio.formula}",)
    value = None if ratio.value is None else round(ratio.value, 2)
    return Observation(ME_RATIO, name, value, "{ratio}", ratio.low, ratio.high, notes)


def _counts(report: Report) -> Iterator[Observation]:
    found = report.differential
    yield Observation(COUNTED, "Cells counted", found.counted, "{cells}", notes=(f"target {found.target_cells}",))
    note = f"{found.read_by_person} of {found.cells} cells were read by a person"
    yield Observation(WAITING, "Cells that wait for review", found.waiting_review, "{cells}", notes=(note,))
    if report.megakaryocytes is not None:
        note = "counted separately by a person, not in the differential"
        yield Observation(MEGAKARYOCYTES, "Megakaryocytes", report.megakaryocytes, "{cells}", notes=(note,))


def _provenance(report: Report) -> Iterator[Observation]:
    for model in report.models:
        named = f"{model.name} {model.version} sha256 {model.sha256}"
        notes = (inert_note(model.inert),) if model.inert else ()
        yield Observation(MODEL, "Model that suggested classes", named, notes=notes)
    yield Observation(METHOD, "Method", RESEARCH_USE)
