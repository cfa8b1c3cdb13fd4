"""Example documents of the laboratory for OpenAPI: invented cells, counted by the real code."""

from datetime import UTC, datetime
from typing import Any

from model.contract import CLASSES
from service.api.schemas import Document, TopClass
from service.lis.domain.comparison import ClassChange, Comparison
from service.lis.domain.differential import CountingRules, Tally, specimen_differential
from service.lis.domain.report import (
    Cellularity,
    MegakaryocyteAssessment,
    Order,
    Patient,
    Report,
    ReportModel,
    ReportStatus,
)
from service.lis.schemas import AddedCells, AddedItem, Cell, Preview, PreviewedMessage, ReadAnswer, Specimen
from service.lis.storage.states import State

Json = dict[str, Any]

_ID, _REPORT, _MODEL = "7f" * 16, "3c" * 16, "5e" * 32
_WHEN = datetime(2026, 5, 4, 9, 15, 2, tzinfo=UTC)
_FEW = tuple(each for each in CLASSES if each.code in ("BLA", "EBO", "NGS", "ART"))
_COUNTS = {"BLA": 6, "EBO": 160, "NGS": 334, "ART": 4}
_PATIENT = Patient(identifier="100234", authority="HOSPITAL", family="Muster", given="Erika", sex="F")
_ORDER = Order(placer_number="ORD-7")
_DIFFERENTIAL = specimen_differential(Tally(_COUNTS, read=504), _FEW, (), CountingRules())

_CELL = Cell(
    place=1,
    key="slide-1/7",
    sha256="9a" * 32,
    code="BLA",
    suggested="PMO",
    probability=0.61,
    top=[TopClass(code="PMO", probability=0.61), TopClass(code="BLA", probability=0.35)],
    model=_MODEL,
    version=2,
    waits=False,
    read_by="m.muster",
    read_at=_WHEN,
)
_REPORTED = Report(
    id=_REPORT,
    specimen_id=_ID,
    version=1,
    status=ReportStatus.FINAL,
    number="BM-2026-0042",
    patient=_PATIENT,
    order=_ORDER,
    differential=_DIFFERENTIAL,
    megakaryocytes=14,
    megakaryocyte_assessment=MegakaryocyteAssessment(grade="reduced", remark="small, hypolobated forms"),
    cellularity=Cellularity(grade="normal"),
    models=[ReportModel(name="example", version="1.0.0", sha256=_MODEL)],
    created_at=_WHEN,
    signed_by="dr.beispiel",
    comment="No blasts in excess.",
)


def _json(document: Document) -> Json:
    return document.model_dump(mode="json", exclude_none=True)


DIFFERENTIAL = _json(_DIFFERENTIAL)
REPORT = _json(_REPORTED)
PREVIEW = _json(
    Preview(report=_REPORTED, messages=[PreviewedMessage(channel="hl7", message="MSH|^~\\&|MARROWLENS|LAB|…")])
)
COMPARISON = _json(
    Comparison(
        previous=_REPORTED,
        same_specimen=True,
        classes=[ClassChange(code="BLA", name="Blast", difference=0.4, changed=True)],
        findings=["comment"],
    )
)
READ_ANSWER = _json(ReadAnswer(revision=4, cells=[_CELL]))
SPECIMEN = _json(
    Specimen(
        id=_ID,
        number="BM-2026-0042",
        state=State.OPEN,
        revision=3,
        cells=504,
        target_cells=500,
        reports=0,
        opened_at=_WHEN,
        patient=_PATIENT,
        order=_ORDER,
        differential=_DIFFERENTIAL,
        versions=[],
    )
)
CONFIRMED = SPECIMEN | {
    "second_reading": {"required": True, "by": "e.beispiel", "at": "2026-05-04T09:15:02Z", "current": True}
}
ERASED: Json = {
    **SPECIMEN,
    "number": f"erased-{_ID}",
    "state": State.ERASED,
    "revision": 6,
    "patient": {"identifier": "erased"},
    "order": {},
}
ADDED = _json(
    AddedCells(
        request_id="0f8c2b6e5d7a4c1b9e3f6a7d8c9b0a1e",
        revision=3,
        added=1,
        differential=_DIFFERENTIAL,
        items=[AddedItem(index=0, name="slide-1/7", cell=_CELL)],
    )
)

OPEN: Json = {
    "number": "BM-2026-0042",
    "patient": _json(_PATIENT),
    "order": _json(_ORDER),
    "collected_at": "2026-05-04T08:15:00+02:00",
    "target_cells": 500,
}
CHANGE: Json = {
    "revision": 3,
    "megakaryocytes": 14,
    "megakaryocyte_assessment": {"grade": "reduced", "remark": "small, hypolobated forms"},
    "cellularity": {"grade": "normal"},
    "comment": "No blasts in excess.",
}
TEMPLATES: Json = {"templates": [{"name": "Normal marrow", "text": "500 cells counted, blasts 1.2 %, M:E 2.1."}]}
SIGN: Json = {"revision": 4, "comment": "No blasts in excess."}
REASON: Json = {"revision": 5, "reason": "two blasts were read again"}
REMOVE: Json = {"revision": 3, "reason": "picture of another patient"}
ERASE: Json = {"revision": 5, "reason": "request of the patient, case 17"}
GIVEN_UP: Json = {"reason": "the ward has the report on paper"}
SEEN: Json = {"revision": 3}
LOOK: Json = {"place": 12}
READ: Json = {
    "readings": [
        {"place": 1, "version": 1, "code": "BLA", "why": "open chromatin, nucleoli"},
        {"place": 2, "version": 1, "code": "EBO"},
    ]
}


def answering(example: Json, *, status: int = 200) -> dict[int | str, Any]:
    """The example of a route's answer."""
    return {status: {"content": {"application/json": {"example": example}}}}


def taking(example: Json) -> Json:
    """The example of a route's body."""
    return {"requestBody": {"content": {"application/json": {"example": example}}}}
