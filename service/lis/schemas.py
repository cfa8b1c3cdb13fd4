"""What the laboratory's routes take and answer, as documents. Knows shapes; a field that does not apply is absent."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field

from model.contract import Code, Sha256
from service.api.schemas import Document, Probability, Problem, TopClass
from service.auth.identity import Identity
from service.lis.domain.report import (
    CollectedAt,
    Line,
    Moment,
    Order,
    Patient,
    ReportStatus,
    SpecimenDifferential,
    Text,
)
from service.lis.storage.states import MessageState, State

#: The largest number that a column takes.
MOST = 2**31 - 1


class Wish(BaseModel):
    """A body of a request; a key that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class OpenSpecimen(Wish):
    """A specimen that no order opened."""

    number: Line = Field(description="as on its label; there is one specimen of a number", examples=["BM-2026-0042"])
    patient: Patient
    order: Order = Field(default_factory=Order)
    collected_at: CollectedAt | None = Field(
        None, description="when the marrow was taken, 1900 to 2199; a time needs its zone"
    )
    target_cells: int | None = Field(None, gt=0, le=100_000, description="cells to count; default: the laboratory's")


class _Seen(Wish):
    revision: int = Field(
        ge=1, le=MOST, description="the specimen's revision that you have seen; 409 if it was changed since"
    )


class ChangeSpecimen(_Seen):
    """New values; what is absent stays as it is. `collected_at` and `megakaryocytes` are emptied by null."""

    patient: Patient | None = None
    order: Order | None = None
    collected_at: CollectedAt | None = None
    target_cells: int | None = Field(None, gt=0, le=100_000)
    megakaryocytes: int | None = Field(None, ge=0, le=100_000, description="counted aside by a person")


class ReportSpecimen(_Seen):
    """A preliminary report, signed by nobody."""


class SignSpecimen(_Seen):
    """A signature: by it a report is final, or corrected after an amendment."""

    comment: Text | None = Field(None, description="goes with the report")
    accept_unread: bool = Field(False, description="sign although cells wait for review; the report says how many")


class WithReason(_Seen):
    """An amendment of a signed specimen, or the end of an open one: both need a reason."""

    reason: Text


class CellReading(Wish):
    """What a person says of one cell."""

    place: int = Field(ge=1, le=MOST)
    version: int = Field(
        ge=1, le=MOST, description="the cell's version that you have seen; 409 if somebody read it since"
    )
    code: Code = Field(description="the cell's own class to confirm it, or another one")
    why: Text | None = Field(None, description="needed when the class changes", examples=["chromatin open, nucleoli"])


class ReadCells(Wish):
    """Readings of several cells: all are written down, or none."""

    readings: Annotated[list[CellReading], FailFast()] = Field(min_length=1, max_length=10_000)


class SpecimenSummary(Document):
    """One line of a list of specimens."""

    id: str
    number: Line
    state: State
    revision: int = Field(description="grows with every change")
    cells: int = Field(description="all cells, counted or not")
    target_cells: int
    reports: int = Field(description="how many versions of a report there are")
    opened_at: Moment


class SpecimenPage(Document):
    """Specimens, the newest first."""

    specimens: list[SpecimenSummary]
    next: int | None = Field(None, description="`before` of the next page; absent on the last one")


class MessageSummary(Document):
    """One message on its way to a receiver."""

    control_id: str = Field(description="MSH-10, and the like on other wires")
    channel: str
    state: MessageState
    attempts: int
    reason: str | None = Field(None, description="why it was not taken, the last time")


class ReportSummary(Document):
    """One version of a report, and what became of its messages."""

    version: int
    id: str
    status: ReportStatus
    created_at: Moment
    messages: list[MessageSummary]


class Specimen(SpecimenSummary):
    """One specimen: whose it is, how its differential stands, and what was reported."""

    patient: Patient
    order: Order
    collected_at: Moment | None = None
    megakaryocytes: int | None = None
    correction: str | None = Field(None, description="why it was last amended")
    differential: SpecimenDifferential
    versions: list[ReportSummary]


class Cell(Document):
    """One cell of a specimen."""

    place: int = Field(description="1, 2, … within the specimen")
    key: str | None = Field(None, description="the client's own name for it")
    sha256: Sha256 = Field(description="of the picture as it was sent")
    code: Code = Field(description="the class it stands under now")
    suggested: Code = Field(description="the class that the model suggested")
    probability: Probability = Field(description="of the suggested class")
    top: list[TopClass] = Field(description="what the model held for most probable")
    model: Sha256 = Field(description="which model suggested it")
    version: int = Field(description="grows with every reading")
    waits: bool = Field(description="a person should read it and has not")
    read_by: str | None = None
    read_at: Moment | None = None


class CellPage(Document):
    """Cells in the order in which they came."""

    cells: list[Cell]
    next: int | None = Field(None, description="`after` of the next page; absent on the last one")


class PastReading(Document):
    """What somebody said of a cell."""

    by: str
    at: Moment
    from_code: Code
    to_code: Code
    why: str | None = None


class CellHistory(Cell):
    """One cell, and everything that people said of it."""

    readings: list[PastReading]


class ReadAnswer(Document):
    """Cells as they stand after a reading."""

    revision: int = Field(description="of the specimen, now")
    cells: list[Cell]


class AddedItem(Document):
    """One picture of the request: a cell, or a problem that touches no other picture."""

    index: int = Field(ge=0)
    name: str | None = None
    cell: Cell | None = None
    problem: Problem | None = None


class AddedCells(Document):
    """What became of pictures that were sent, and how the specimen stands now."""

    request_id: str
    revision: int
    added: int = Field(description="cells that were not there before")
    differential: SpecimenDifferential
    items: list[AddedItem]


class AuditEntry(Document):
    """One line of the audit trail."""

    number: int
    at: str
    actor: str = Field(description="name of a key or of a person, as `identity` says")
    identity: Identity | None = Field(None, description="what verified that name; absent in rows of earlier versions")
    action: str
    details: dict[str, Any]
    hash: str


class AuditTrail(Document):
    """What was done to a specimen, the first first."""

    entries: list[AuditEntry]
