"""Request and response documents of the laboratory's routes. Absent fields do not apply."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictBool, StrictInt

from model.fields import Code, Sha256
from model.trust.decision import Decision
from service.api.schemas import Document, Probability, Problem, TopClass
from service.auth.identity import Identity
from service.lis.domain.report import (
    MAX_INTEGER,
    CellReading,
    Cellularity,
    CollectedAt,
    Line,
    MegakaryocyteAssessment,
    Moment,
    Order,
    Patient,
    Report,
    ReportStatus,
    SpecimenDifferential,
    Text,
)
from service.lis.storage.states import MessageState, State


class RequestBody(BaseModel):
    """A JSON request body. Unknown fields are refused.

    Numbers and flags are StrictInt and StrictBool: pydantic would read true as 1 and "t" as true. `strict` of the whole
    model would refuse dates.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class OpenSpecimen(RequestBody):
    """A specimen to open without an order."""

    number: Line = Field(description="as on the label; unique", examples=["BM-2026-0042"])
    patient: Patient
    order: Order = Field(default_factory=Order)
    collected_at: CollectedAt | None = Field(
        None, description="collection time, 1900 to 2199; a time needs its time zone"
    )
    target_cells: StrictInt | None = Field(
        None, gt=0, le=100_000, description="cells to count; default: MARROWLENS_LIS_TARGET_CELLS"
    )


class _WithRevision(RequestBody):
    revision: StrictInt = Field(
        ge=1, le=MAX_INTEGER, description="the specimen's revision that you have seen; 409 if it has changed"
    )


class ChangeSpecimen(_WithRevision):
    """New values. Absent fields keep their values; null clears a field that may be empty."""

    patient: Patient | None = None
    order: Order | None = None
    collected_at: CollectedAt | None = None
    target_cells: StrictInt | None = Field(None, gt=0, le=100_000)
    megakaryocytes: StrictInt | None = Field(None, ge=0, le=100_000, description="counted separately by a person")
    megakaryocyte_assessment: MegakaryocyteAssessment | None = Field(
        None, description="the acting person is its author"
    )
    cellularity: Cellularity | None = Field(None, description="the acting person is its author")
    comment: Text | None = Field(None, description="draft of the comment, for the next signature")


class ReportSpecimen(_WithRevision):
    """A request for a preliminary, unsigned report."""


class SignSpecimen(_WithRevision):
    """A signature. The report becomes final, or corrected after an amendment."""

    comment: Text | None = Field(
        None, description="sent with the report; absent: the specimen's draft; null: no comment"
    )
    accept_unread: StrictBool = Field(
        False, description="sign although cells wait for review; the report states their number"
    )
    accept_below_target: StrictBool = Field(
        False, description="sign although fewer cells are counted than `target_cells`; the report says so"
    )


class ConfirmCells(_WithRevision):
    """A second reader's confirmation of all cells as they are now."""


class WithReason(_WithRevision):
    """The reason to amend a signed specimen, to cancel an open one, or to remove a cell."""

    reason: Text


class Reason(RequestBody):
    """Why a message is given up."""

    reason: Text


class ReadCells(RequestBody):
    """Readings of several cells: all are stored, or none."""

    readings: Annotated[list[CellReading], FailFast()] = Field(min_length=1, max_length=10_000)


class RowDocument(Document):
    """A document that can be read from the columns of a table's row."""

    model_config = ConfigDict(from_attributes=True)


class SpecimenSummary(RowDocument):
    """One specimen in a list."""

    id: str
    number: Line = Field(description="as on the label; a tube with several orders has a specimen for each")
    placer_number: Line | None = Field(None, description="the order's number where it was placed")
    filler_number: Line | None = Field(None, description="the order's number in the laboratory")
    state: State
    revision: int = Field(description="increases with every change")
    cells: int = Field(description="all cells, counted or not")
    target_cells: int
    reports: int = Field(description="number of report versions")
    opened_at: Moment
    merged_at: Moment | None = Field(
        None, description="when its patient was merged with another one, since the last signed report: amend it"
    )


class SpecimenPage(Document):
    """Specimens, newest first."""

    specimens: list[SpecimenSummary]
    next: int | None = Field(None, description="`before` of the next page; absent on the last page")


class WorklistEntry(RowDocument):
    """One specimen of the worklist: whose it is, how far it is, and whether its reports arrived."""

    id: str
    number: Line
    state: State
    revision: int
    patient: Patient
    collected_at: Moment | None = None
    opened_at: Moment
    cells: int = Field(description="all cells, counted or not")
    counted: int = Field(description="cells in the denominator")
    target_cells: int
    waiting_review: int = Field(description="cells that wait for review by a person")
    reports: int = Field(description="number of report versions")
    delivery: MessageState | None = Field(
        None, description="of its messages the most urgent: dead, waiting, delivered, dropped; absent without messages"
    )


class Worklist(Document):
    """Specimens with patient, progress and delivery, newest first."""

    specimens: list[WorklistEntry]
    next: int | None = Field(None, description="`before` of the next page; absent on the last page")


class MessageSummary(RowDocument):
    """One message to a receiver."""

    control_id: str = Field(description="MSH-10 in HL7; the message's id in FHIR and ASTM")
    channel: str
    state: MessageState
    attempts: int
    reason: str | None = Field(None, description="why the last attempt failed")


class ReportSummary(RowDocument):
    """One version of a report, with its messages."""

    version: int
    id: str
    status: ReportStatus
    created_at: Moment
    messages: list[MessageSummary]


class SecondReading(Document):
    """The second reader's confirmation of a specimen's cells."""

    required: bool = Field(description="MARROWLENS_LIS_SECOND_READER: without a confirmation nobody can sign")
    by: str | None = Field(None, description="who confirmed last; absent if nobody has")
    at: Moment | None = None
    current: bool = Field(description="false: nobody has confirmed the cells as they are now")


class Specimen(SpecimenSummary):
    """One specimen: patient, order, current differential and reports."""

    patient: Patient
    order: Order
    collected_at: Moment | None = None
    megakaryocytes: int | None = None
    megakaryocyte_assessment: MegakaryocyteAssessment | None = None
    cellularity: Cellularity | None = None
    comment: str | None = Field(None, description="draft of the comment, for the next signature")
    correction: str | None = Field(None, description="reason of the last amendment")
    differential: SpecimenDifferential
    second_reading: SecondReading | None = Field(None, description="absent if it is neither required nor made")
    versions: list[ReportSummary]


class Look(RequestBody):
    """What a person looks at in an open page."""

    place: StrictInt | None = Field(None, ge=1, le=MAX_INTEGER, description="of the cell")
    code: Code | None = Field(None, description="class code, if they look at the cells of one class")


class Present(Document):
    """A person who has a specimen open now."""

    name: str
    page: str = Field(description="id of their page; a client knows its own by it")
    place: int | None = Field(None, description="the cell they look at")
    code: Code | None = Field(None, description="the class they look at")


class SpecimenRevision(Document):
    """Whether a specimen has changed, and who has it open. No patient data, so asking is no read for the audit."""

    revision: int
    delivery: MessageState | None = Field(None, description="of its messages the most urgent, as in the worklist")
    present: list[Present] = Field(description="people who have the specimen open in a page")


class FilledTemplate(RowDocument):
    """A template of the laboratory with the specimen's numbers in it."""

    name: Line
    text: Text = Field(description="to be edited and sent as `comment`")


class CommentTemplatesOf(Document):
    """The laboratory's templates for the comment, filled for one specimen."""

    templates: list[FilledTemplate] = Field(description="empty without MARROWLENS_LIS_COMMENT_TEMPLATES")


class PreviewedMessage(Document):
    """A message as a receiver would get it, but for its control id and times."""

    channel: str
    message: str


class Preview(Document):
    """What a signature would write and send now. Nothing is stored or sent."""

    report: Report = Field(description="as it would be signed; its id and times are not those of the signed report")
    messages: list[PreviewedMessage]


class CellReason(RowDocument):
    """Why the model's answer was not accepted, as stored with the cell."""

    code: Code = Field(description="as in the answer of `/classify`; an earlier version may have had other codes")
    detail: str


class Cell(RowDocument):
    """One cell of a specimen."""

    place: int = Field(description="1, 2, … within the specimen")
    key: str | None = Field(None, description="the client's own name for it")
    sha256: Sha256 = Field(description="of the picture file as it was sent")
    code: Code = Field(description="current class")
    suggested: Code = Field(description="class that the model suggested")
    probability: Probability = Field(description="of the suggested class")
    top: list[TopClass] = Field(description="the model's most probable classes")
    decision: Decision | None = Field(
        None, description="the model's: review and reject wait for a person; absent without a trust reference"
    )
    reasons: list[CellReason] | None = Field(None, description="of review or reject; empty for accept")
    prediction_set: list[Code] | None = Field(
        None, description="classes that cannot be excluded, the suggested class first"
    )
    model: Sha256 = Field(description="SHA-256 of the model that suggested the class")
    manifest: Sha256 | None = Field(
        None, description="SHA-256 of its manifest, which has the thresholds of the decision"
    )
    version: int = Field(description="increases with every reading")
    waits: bool = Field(description="the cell waits for review by a person")
    read_by: str | None = None
    read_at: Moment | None = None


class CellPage(Document):
    """Cells in the order they were added."""

    cells: list[Cell]
    next: int | None = Field(None, description="`after` of the next page; absent on the last page")


class PastReading(RowDocument):
    """One reading of a cell by a person."""

    by: str
    at: Moment
    from_code: Code
    to_code: Code
    why: str | None = None


class CellHistory(Cell):
    """One cell with all its readings."""

    readings: list[PastReading]


class ReadAnswer(Document):
    """The cells after a reading."""

    revision: int = Field(description="the specimen's new revision")
    cells: list[Cell]


class AddedItem(Document):
    """One picture of the request: its cell, or a problem. Other pictures are not affected."""

    index: int = Field(ge=0)
    name: str | None = None
    cell: Cell | None = None
    problem: Problem | None = None
    warning: str | None = Field(None, description="the picture is also a cell of another patient's specimen")


class AddedCells(Document):
    """The result for each picture, and the specimen's new differential."""

    request_id: str
    revision: int
    added: int = Field(description="number of new cells")
    differential: SpecimenDifferential
    items: list[AddedItem]


class AuditEntry(RowDocument):
    """One row of the audit trail."""

    number: int
    at: str
    actor: str = Field(description="name of the key or person; see `identity`")
    identity: Identity | None = Field(None, description="how the name was verified; absent in rows of earlier versions")
    action: str
    details: dict[str, Any]
    hash: str


class AuditTrail(Document):
    """The audit trail of a specimen, oldest first."""

    entries: list[AuditEntry]
    next: int | None = Field(None, description="`after` of the next page; null on the last page")


class Share(Document):
    """A share of n cells with its 95 % Wilson interval; without one if n is too small."""

    hits: int
    n: int
    share: float | None = Field(None, description="absent if n is below the minimum")
    low: float | None = Field(None, description="cells taken as independent: too narrow if a patient's cells are alike")
    high: float | None = None


class ClassAgreement(Document):
    """Agreement on one class."""

    code: Code
    of_read: Share = Field(description="of the cells that readers call so, those that the model suggested so")
    of_suggested: Share = Field(description="of the cells that the model suggested so, those that readers call so")


class ReaderAgreement(Document):
    """Agreement of one reader with the model."""

    reader: str
    agreement: Share


class Agreement(Document):
    """Agreement of the model's suggestions with the last readings of all specimens that are not cancelled."""

    cells: int = Field(description="read cells")
    patients: int
    minimum: int = Field(description="fewest read cells for which shares are given; for a class or reader: 10")
    enough: bool = Field(description="false: fewer cells were read than the minimum")
    agreement: Share
    kappa: float | None = Field(None, description="Cohen's kappa; absent if there are too few cells or one class")
    classes: list[ClassAgreement] = Field(description="classes that readers or the model named")
    readers: list[ReaderAgreement]
    confusion: dict[Code, dict[Code, int]] = Field(description="reader's class → suggested class → cells")


class ReferenceCell(Document):
    """A picture of a class to compare a cell with."""

    id: Sha256 = Field(description="SHA-256 of the picture")
    source: Literal["laboratory", "signed", "drawn"] = Field(
        description="`laboratory`: its own folder; `signed`: read by a person, in a signed specimen; `drawn`: a drawing"
    )


class ReferenceCellList(Document):
    """The reference cells of a class."""

    code: Code
    cells: list[ReferenceCell]
