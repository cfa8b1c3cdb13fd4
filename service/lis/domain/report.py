"""The report of a specimen and its parts, as documents. Pure: no I/O, no clock."""

import re
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictInt, StringConstraints, model_validator

from model.contract import PartName
from model.fields import Code, Sha256
from service.api.schemas import ClassCount, ClassShare, Document
from service.lis.domain.person import Person

#: The largest value of an integer column.
MAX_INTEGER: Final = 2**31 - 1
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
#: Valid collection times and UTC offsets. Dates near the ends of the calendar do not exist in every time zone.
FIRST_COLLECTED, LAST_COLLECTED = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
FARTHEST_ZONES = timedelta(hours=-12), timedelta(hours=14)


def _aware(moment: datetime) -> datetime:
    """The time in UTC; refused without a time zone."""
    if moment.tzinfo is None:
        raise ValueError("a time needs its time zone, as in 2026-05-04T08:30:00+02:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("no such time in UTC") from None


def collected(moment: datetime) -> datetime:
    """The collection time in UTC.

    Raises:
        ValueError: without a time zone, or not between 1900 and 2199.
    """
    moment_utc = _aware(moment)
    west, east = FARTHEST_ZONES
    if not west <= (moment.utcoffset() or timedelta()) <= east:
        raise ValueError("invalid UTC offset; use -12:00 to +14:00")
    if not FIRST_COLLECTED <= moment_utc < LAST_COLLECTED:
        raise ValueError("invalid collection time; use 1900 to 2199")
    return moment_utc


def _written_out(value: object) -> object:
    """Require an ISO 8601 text; the meaning of a number would be ambiguous."""
    if not isinstance(value, date) and not (isinstance(value, str) and _DAY.match(value)):
        raise ValueError("write a date as in 2026-05-04, and a time as in 2026-05-04T08:30:00+02:00")
    return value


def _day_alone(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and not _DAY.fullmatch(value)):
        raise ValueError("write a date as in 2026-05-04, without a time")
    return _written_out(value)


#: One line of text without control characters, valid in every message format.
Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
]
#: Text of several lines, without other control characters; PostgreSQL stores no NUL.
Text = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=4000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+$"
    ),
]
#: A remark on one finding: a line that fits a note of every message format.
Remark = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Moment = Annotated[datetime, AfterValidator(_aware)]
#: A collection time as a client sends it.
CollectedAt = Annotated[datetime, BeforeValidator(_written_out), AfterValidator(collected)]
Day = Annotated[date, BeforeValidator(_day_alone)]


class ReportStatus(StrEnum):
    """Status of a report. Only a signature makes it final or corrected."""

    PRELIMINARY = "preliminary"
    FINAL = "final"
    CORRECTED = "corrected"


#: A field of an HL7 message, and its text with the standard delimiters: one field, so that no text can add another.
FieldName = Annotated[str, StringConstraints(pattern=r"^(ORC|OBR|PID|SPM)-[0-9]{1,2}$")]
FieldText = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^|\x00-\x1f\x7f]+$")]


class PatientNumber(Document):
    """One number of a patient (a repetition of PID-3), with the authority that assigned it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: Line = Field(description="PID-3.1")
    namespace: Line | None = Field(None, description="PID-3.4.1")
    universal_id: Line | None = Field(None, description="PID-3.4.2, such as an OID")
    universal_id_type: Line | None = Field(None, description="PID-3.4.3", examples=["ISO"])
    type: Line | None = Field(None, description="PID-3.5, HL7 table 0203", examples=["MR"])

    def is_same(self, other: "PatientNumber") -> bool:
        """Whether both are the same number: of the same authority, and not of different types."""
        is_other_type = self.type and other.type and self.type != other.type
        return self.number == other.number and not is_other_type and self.shares_authority(other)

    def shares_authority(self, other: "PatientNumber") -> bool:
        """Whether both have the same authority: the same universal id, or else the same namespace.

        Two numbers without an authority match. A namespace never matches a universal id.
        """
        if self.universal_id and other.universal_id:
            return self.universal_id == other.universal_id
        if self.namespace or other.namespace:
            return self.namespace == other.namespace
        return not (self.universal_id or other.universal_id)

    def is_exactly(self, other: "PatientNumber") -> bool:
        """Whether number, namespace and universal id are equal: no match by a part of the authority."""
        mine, theirs = ((each.number, each.namespace, each.universal_id) for each in (self, other))
        return mine == theirs


class Patient(Document):
    """The patient, as the laboratory's system sends it. Never in a log, a metric or a trace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identifier: Line = Field(description="PID-3.1: the patient's number", examples=["100234"])
    authority: Line | None = Field(
        None, description="PID-3.4.1: the authority that assigned the number", examples=["HOSPITAL"]
    )
    family: Line | None = Field(None, description="PID-5.1", examples=["Muster"])
    given: Line | None = Field(None, description="PID-5.2", examples=["Erika"])
    birth_date: Day | None = Field(None, description="PID-7", examples=["1964-08-12"])
    sex: Literal["F", "M", "O", "U", "A", "N"] | None = Field(None, description="PID-8, HL7 table 0001")
    sex_as_sent: Line | None = Field(
        None, description="PID-8 as it was sent, if it is not in that table; `sex` is then U", examples=["W"]
    )
    numbers: tuple[PatientNumber, ...] | None = Field(
        None, description="all numbers in the order, as sent; absent: only `identifier`"
    )

    @model_validator(mode="after")
    def _has_its_number(self) -> Self:
        own = [each for each in self.numbers or () if each.number == self.identifier]
        if self.numbers and self.authority not in [each.namespace or each.universal_id for each in own]:
            raise ValueError("identifier and authority must be one of numbers; change both, or leave out numbers")
        return self

    def all_numbers(self) -> tuple[PatientNumber, ...]:
        """Every number by which the patient is known."""
        return self.numbers or (PatientNumber.model_construct(number=self.identifier, namespace=self.authority),)

    def is_same(self, other: "Patient") -> bool:
        """Whether both share a number of the same authority, and none of their numbers says the contrary.

        It does where both have numbers of one authority and type, such as medical record numbers, and share none.
        """
        pairs = [(own, each) for own in self.all_numbers() for each in other.all_numbers()]
        return any(own.is_same(each) for own, each in pairs) and not self._differs(pairs)

    def _differs(self, pairs: list[tuple[PatientNumber, PatientNumber]]) -> bool:
        alike = [(a, b) for a, b in pairs if a.type and a.type == b.type and a.shares_authority(b)]
        kinds = {(a.type, a.namespace, a.universal_id) for a, _ in alike}
        return any(
            not any(a.is_same(b) for a, b in alike if (a.type, a.namespace, a.universal_id) == kind) for kind in kinds
        )


class Order(Document):
    """The order, as the ordering system sent it. Returned unchanged with the result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    placer_number: Line | None = Field(None, description="ORC-2, OBR-2: the order's number where it was placed")
    filler_number: Line | None = Field(None, description="ORC-3, OBR-3: the order's number in the laboratory")
    service_code: Line | None = Field(None, description="OBR-4.1 of the order; default: the panel of the code table")
    service_name: Line | None = Field(None, description="OBR-4.2")
    service_system: Line | None = Field(None, description="OBR-4.3")
    as_ordered: dict[FieldName, FieldText] | None = Field(
        None,
        description="fields of the HL7 order that are returned verbatim, such as ORC-2, with the standard delimiters; "
        "ignored in a request",
        examples=[{"ORC-2": "P-77^HIS"}],
    )


#: Fields of an order, and what they are returned for.
_PLAIN_FIELDS = {
    "ORC-2": ("placer_number",),
    "OBR-2": ("placer_number",),
    "ORC-3": ("filler_number",),
    "OBR-3": ("filler_number",),
    "OBR-4": ("service_code", "service_name", "service_system"),
}


def edited_order(stored: Order, new: Order) -> Order:
    """The order as a person has edited it. Fields as they were sent come from the stored order, and only where the
    person has not changed what they say: `as_ordered` of a request is ignored."""
    kept = {
        name: text
        for name, text in (stored.as_ordered or {}).items()
        if all(getattr(stored, plain) == getattr(new, plain) for plain in _PLAIN_FIELDS.get(name, ()))
    }
    return new.model_copy(update={"as_ordered": kept or None})


#: Fields of an order with the collection time.
COLLECTION_FIELDS = ("SPM-17", "OBR-7")


def without_collection_time(order: Order) -> Order:
    """The order without the collection time as it was sent, which a new collection time replaces."""
    kept = {name: text for name, text in (order.as_ordered or {}).items() if name not in COLLECTION_FIELDS}
    return order.model_copy(update={"as_ordered": kept or None})


class LineageShare(Document):
    """One lineage of the differential. Percentages are absent while no cell is counted."""

    lineage: str
    supported: bool = Field(description="false: not measured, because the lineage includes an unsupported class")
    count: int = Field(ge=0)
    percent: float | None = None
    low: float | None = Field(None, description="lower bound of the 95 % Wilson interval, in per cent, if supported")
    high: float | None = Field(None, description="upper bound")


class MyeloidErythroidRatio(Document):
    """Myeloid to erythroid ratio. Without erythroid cells it has no value."""

    supported: bool = Field(description="false: not measured, because a term includes an unsupported class")
    myeloid: int = Field(ge=0)
    erythroid: int = Field(ge=0)
    value: float | None = None
    low: float | None = Field(
        None, description="lower bound of the 95 % interval, if supported; from Wilson's interval of m among m + e"
    )
    high: float | None = Field(None, description="upper bound")
    formula: str = Field(description="lineages and classes of each term, as configured")


class SpecimenDifferential(Document):
    """The differential of one specimen: a person's reading of each cell, or else the model's suggestion."""

    cells: int = Field(ge=0, description="all cells, counted or not")
    counted: int = Field(ge=0, description="cells in the denominator")
    target_cells: int = Field(gt=0, description="cells to count")
    to_go: int = Field(ge=0, description="cells still missing to the target")
    read_by_person: int = Field(ge=0, description="cells that a person has confirmed or reclassified")
    waiting_review: int = Field(
        ge=0, description="cells waiting for review: improbable or of an unsupported class, and not read by a person"
    )
    classes: list[ClassShare] = Field(description="the countable classes, in logit order")
    excluded: list[ClassCount] = Field(description="classes outside the denominator: artefacts, smudge cells, …")
    lineages: list[LineageShare]
    me_ratio: MyeloidErythroidRatio
    unsupported: list[Code] = Field(
        description="classes without a measured value: the model does not support them, and a person has not "
        "read every cell"
    )
    count_other: bool = Field(description="whether classes left to the laboratory are in the denominator")


class CellReading(Document):
    """A person's reading of one cell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    place: StrictInt = Field(ge=1, le=MAX_INTEGER)
    version: StrictInt = Field(
        ge=1, le=MAX_INTEGER, description="the cell's version that you have seen; 409 if it has changed"
    )
    code: Code = Field(description="the cell's current class to confirm it, or another one")
    why: Text | None = Field(None, description="required when the class changes", examples=["chromatin open, nucleoli"])


class Cellularity(Document):
    """A reader's assessment of the cellularity of particles and trails (ICSH 2008)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grade: Literal["reduced", "normal", "increased", "not_assessed"] = Field(description="for the patient's age")
    remark: Remark | None = Field(None, description="sent as a note of the result")


class MegakaryocyteAssessment(Document):
    """A reader's assessment of number and form of the megakaryocytes (ICSH 2008)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grade: Literal["absent", "reduced", "normal", "increased", "not_assessed"]
    remark: Remark | None = Field(
        None, description="sent as a note of the result", examples=["small, hypolobated forms"]
    )


class ReportModel(Document):
    """A model that suggested classes for cells of the specimen."""

    name: str
    version: str
    sha256: Sha256
    inert: list[PartName] | None = Field(
        None, description="parts of the network that answers do not depend on; absent: none, or not measured"
    )


class ReportContent(Document):
    """Which results a report has besides the differential. Later versions withdraw those that they no longer have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_counts: bool = Field(False, description="the number of cells of each class is a result of its own")
    provenance: Literal["notes", "results"] = Field(
        "notes", description="cells that wait for review, models and method: notes, or results of their own"
    )
    pdf: Literal[True] | None = Field(None, description="the report is attached as a PDF, in HL7 and FHIR")


DEFAULT_CONTENT: Final = ReportContent()
#: Of reports that do not say it.
EARLIER_CONTENT: Final = ReportContent(provenance="results")


class Report(Document):
    """One version of a specimen's report. Never changed."""

    id: str = Field(description="id of this version, 32 hexadecimal digits")
    specimen_id: str = Field(description="32 hexadecimal digits")
    version: int = Field(ge=1, description="1, 2, … within the specimen")
    status: ReportStatus
    number: Line = Field(description="the specimen's number, as on its label (SPM-2)")
    filed_under: Line | None = Field(
        None, description="OBR-3 without a filler number, if another order is on the same tube; absent: `number`"
    )
    part: int | None = Field(
        None, ge=2, description="which specimen of its order (OBX-4): 2, 3, …; absent: the first to be reported"
    )
    patient: Patient
    order: Order
    collected_at: Moment | None = Field(None, description="collection time (SPM-17)")
    differential: SpecimenDifferential
    megakaryocytes: int | None = Field(
        None, ge=0, description="counted separately by a person, never in the denominator"
    )
    megakaryocytes_by: Person | None = Field(None, description="who counted them; absent: the signer")
    megakaryocyte_assessment: MegakaryocyteAssessment | None = None
    megakaryocyte_assessment_by: Person | None = Field(None, description="who assessed them; absent: the signer")
    cellularity: Cellularity | None = None
    cellularity_by: Person | None = Field(None, description="who assessed it; absent: the signer")
    models: list[ReportModel] = Field(
        description="most recent first; more than one if the model was changed in between"
    )
    created_at: Moment
    signed_by: Line | None = Field(None, description="the signer; absent while preliminary")
    signer: Person | None = Field(None, description="the signer with the id that the credential proves")
    second_reader: Line | None = Field(
        None, description="the person who confirmed the cells before the signature, if the laboratory requires it"
    )
    signed_below_target: Literal[True] | None = Field(
        None, description="fewer cells are counted than the target, and the signer has confirmed it"
    )
    comment: Text | None = Field(None, description="the signer's comment")
    correction: Text | None = Field(None, description="reason of the amendment; corrected reports only")
    content: ReportContent | None = Field(
        None, description="absent in reports of earlier versions: provenance as results, no counts"
    )

    @property
    def signing_person(self) -> Person | None:
        """The signer. A report that an earlier version signed has only a name, which was validated with the report."""
        if self.signer is None and self.signed_by:
            return Person.model_construct(name=self.signed_by)
        return self.signer

    @property
    def collected_as(self) -> str | None:
        """The collection time with the order's precision and offset, as an HL7 timestamp; None if unknown."""
        return self._collection(0)

    @property
    def collected_until_as(self) -> str | None:
        """The end of a collection that took time, as `collected_as`; None if the order has none."""
        return self._collection(1)

    def _collection(self, end: int) -> str | None:
        sent = self.order.as_ordered or {}
        text = next((sent[name] for name in COLLECTION_FIELDS if name in sent), "") if self.collected_at else ""
        return [*text.split("^"), ""][end] or None
