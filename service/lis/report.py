"""What a report of one specimen says, as documents: to be frozen, stored, encoded and shown. No I/O, no clock.

Knows fields and their meaning. Does not know how a differential is counted, how a message is encoded or who may sign.
"""

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from model.contract import Code, Sha256
from service.schemas import ClassCount, ClassShare, Document


def _aware(moment: datetime) -> datetime:
    """In UTC; a time without a zone is refused, for nobody can say when it was."""
    if moment.tzinfo is None:
        raise ValueError("a time needs its zone, as in 2026-05-04T08:30:00+02:00")
    return moment.astimezone(UTC)


#: One line of text that a person typed: no control characters, so that it fits every wire.
Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
]
#: Free text of several lines, without other control characters: PostgreSQL, for one, keeps no NUL.
Text = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=4000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+$"
    ),
]
Moment = Annotated[datetime, AfterValidator(_aware)]


class ReportStatus(StrEnum):
    """How far a report may be relied on. The model alone never gets further than preliminary."""

    PRELIMINARY = "preliminary"
    FINAL = "final"
    CORRECTED = "corrected"


class Patient(Document):
    """Whose marrow it is, as the laboratory's system says it. Never in a log, a metric or a trace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identifier: Line = Field(description="PID-3.1: the patient's number", examples=["100234"])
    authority: Line | None = Field(None, description="PID-3.4.1: who gave that number", examples=["HOSPITAL"])
    family: Line | None = Field(None, description="PID-5.1", examples=["Muster"])
    given: Line | None = Field(None, description="PID-5.2", examples=["Erika"])
    birth_date: date | None = Field(None, description="PID-7", examples=["1964-08-12"])
    sex: Literal["F", "M", "O", "U", "A", "N"] | None = Field(None, description="PID-8, HL7 table 0001")


class Order(Document):
    """What was asked for, in the words of the system that asked: they come back unchanged with the result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    placer_number: Line | None = Field(None, description="ORC-2, OBR-2: the order's number where it was placed")
    filler_number: Line | None = Field(None, description="ORC-3, OBR-3: the order's number in the laboratory")
    service_code: Line | None = Field(None, description="OBR-4.1 as it was ordered; default: the panel of the code map")
    service_name: Line | None = Field(None, description="OBR-4.2")
    service_system: Line | None = Field(None, description="OBR-4.3")


class LineageShare(Document):
    """One lineage in the differential; percentages are absent while no cell is counted."""

    lineage: str
    supported: bool = Field(description="false: one of its classes is no measurement, and so neither is the lineage")
    count: int = Field(ge=0)
    percent: float | None = None
    low: float | None = Field(None, description="lower bound of the 95 % Wilson interval, in per cent, if supported")
    high: float | None = Field(None, description="upper bound")


class MyeloidErythroidRatio(Document):
    """Myeloid to erythroid cells. Without an erythroid cell there is no value."""

    supported: bool = Field(description="false: a class of one of its terms is no measurement, and so neither is it")
    myeloid: int = Field(ge=0)
    erythroid: int = Field(ge=0)
    value: float | None = None
    low: float | None = Field(
        None, description="lower bound of the 95 % interval, if supported: Wilson's for m of m + e"
    )
    high: float | None = Field(None, description="upper bound")
    formula: str = Field(description="lineages and classes in each term, as this laboratory counts")


class SpecimenDifferential(Document):
    """The differential of one specimen: what the model suggested, with what a person has read in its place."""

    cells: int = Field(ge=0, description="all cells, counted or not")
    counted: int = Field(ge=0, description="cells in the denominator")
    target_cells: int = Field(gt=0, description="how many the laboratory wants to count")
    to_go: int = Field(ge=0, description="how many are missing to the target")
    read_by_person: int = Field(ge=0, description="cells whose class a person confirmed or changed")
    waiting_review: int = Field(
        ge=0, description="cells that a person should read and has not: the model is unsure, or claims nothing for them"
    )
    classes: list[ClassShare] = Field(description="the countable classes, in logit order")
    excluded: list[ClassCount] = Field(description="classes that are not counted: artefacts, smudge cells, …")
    lineages: list[LineageShare]
    me_ratio: MyeloidErythroidRatio
    unsupported: list[Code] = Field(
        description="classes that are no measurement here: the model does not support them, and it alone saw some cells"
    )
    count_other: bool = Field(description="whether classes left to the laboratory are in the denominator")


class ReportModel(Document):
    """A model that suggested classes for cells of the specimen."""

    name: str
    version: str
    sha256: Sha256


class Report(Document):
    """One version of a specimen's report: as it was signed or, while preliminary, as it stood then. Never changed."""

    id: str = Field(description="of this version: 32 hexadecimal digits")
    specimen_id: str = Field(description="32 hexadecimal digits")
    version: int = Field(ge=1, description="1, 2, … within the specimen")
    status: ReportStatus
    number: Line = Field(description="the specimen's number, as on its label (SPM-2)")
    patient: Patient
    order: Order
    collected_at: Moment | None = Field(None, description="when the marrow was taken (SPM-17)")
    differential: SpecimenDifferential
    megakaryocytes: int | None = Field(None, ge=0, description="counted aside by a person, never in the denominator")
    models: list[ReportModel] = Field(description="most recent first; more than one if it was changed in between")
    created_at: Moment
    signed_by: Line | None = Field(None, description="who signed; absent while preliminary")
    comment: Text | None = Field(None, description="what the person who signed has to say")
    correction: Text | None = Field(None, description="why a signed report was amended; corrected reports only")
