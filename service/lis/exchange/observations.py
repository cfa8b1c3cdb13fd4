"""What of a report is sent, once for all wires: an ordered list of single results. Pure, no I/O.

Knows which results there are and what is said beside each. Does not know codes (`codes`) nor how HL7, FHIR or ASTM
write them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from model.contract import RESEARCH_USE
from service.api.schemas import ClassShare
from service.lis.domain.report import Report

PANEL, ME_RATIO = "PANEL", "ME_RATIO"
COUNTED, WAITING, MEGAKARYOCYTES, MODEL, METHOD = "COUNTED", "WAITING", "MEGAKARYOCYTES", "MODEL", "METHOD"
#: Keys of the lineages: LINEAGE_GRANULOCYTIC, …
LINEAGE = "LINEAGE_"


@dataclass(frozen=True, slots=True)
class Coded:
    """What a result is called on the wire: a LOINC code, or one of the laboratory's own."""

    system: Literal["loinc", "local"]
    code: str
    display: str


#: From an observation's key and name to its code: `codes.CodeMap` with the report's status decided.
CodeOf = Callable[[str, str], Coded]


@dataclass(frozen=True, slots=True)
class Observation:
    """One result. `value` is absent when there is none to be had: then `notes` say why.

    `key` is a class code or one of the names above: what the code map is asked for. `unit` is UCUM; texts have none.
    `low` and `high` bound the 95 % interval of sampling, in the value's own unit.
    """

    key: str
    name: str
    value: float | int | str | None
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    notes: tuple[str, ...] = field(default=())


def observations(report: Report) -> list[Observation]:
    """All results of a report: classes in logit order, lineages, M:E ratio, counts, and what stands behind them."""
    return [*_classes(report), *_lineages(report), _ratio(report), *_counts(report), *_provenance(report)]


def _classes(report: Report) -> Iterator[Observation]:
    for share in report.differential.classes:
        yield _class(share, report.differential.counted)


def _class(share: ClassShare, counted: int) -> Observation:
    if not share.supported:
        note = "not measured: the model does not know this class, and a person has not read every cell"
        named = f"the model, or a person, named {share.count} of {counted} cells so"
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
            yield Observation(key, name, None, "%", notes=("not measured: nor is one of its classes",))
            continue
        value = None if share.percent is None else round(share.percent, 1)
        notes = (f"{share.count} of {report.differential.counted} cells",)
        yield Observation(key, name, value, "%", share.low, share.high, notes)


def _ratio(report: Report) -> Observation:
    ratio, name = report.differential.me_ratio, "Myeloid to erythroid ratio"
    if not ratio.supported:
        notes = (f"not measured: nor is a class of one of its terms; {ratio.formula}",)
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
        note = "counted aside by a person, not in the differential"
        yield Observation(MEGAKARYOCYTES, "Megakaryocytes", report.megakaryocytes, "{cells}", notes=(note,))


def _provenance(report: Report) -> Iterator[Observation]:
    for model in report.models:
        yield Observation(MODEL, "Model that suggested classes", f"{model.name} {model.version} sha256 {model.sha256}")
    yield Observation(METHOD, "Method", RESEARCH_USE)
