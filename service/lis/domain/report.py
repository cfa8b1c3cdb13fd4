"""What a report of one specimen says, as documents: to be frozen, stored, encoded and shown. No I/O, no clock.

Knows fields and their meaning. Does not know how a differential is counted, how a message is encoded or who may sign.
"""

import re
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints

from model.contract import Code, Sha256
from service.api.schemas import ClassCount, ClassShare, Document

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
#: When marrow can have been taken, and how far a zone can be from UTC. Anything else is a mistake, and near the ends of
#: the calendar another zone has no such day.
FIRST_COLLECTED, LAST_COLLECTED = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
FARTHEST_ZONES = timedelta(hours=-12), timedelta(hours=14)


def _aware(moment: datetime) -> datetime:
    """In UTC; a time without a zone is refused, for nobody can say when it was."""
    if moment.tzinfo is None:
        raise ValueError("a time needs its zone, as in 2026-05-04T08:30:00+02:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("no such time in UTC") from None


def collected(moment: datetime) -> datetime:
    """When marrow was taken, in UTC.

    Raises:
        ValueError: without a zone, or none at which marrow can have been taken.
    """
    moment_utc = _aware(moment)
    west, east = FARTHEST_ZONES
    if not west <= (moment.utcoffset() or timedelta()) <= east:
        raise ValueError("no zone is so far from UTC; zones are from -12:00 to +14:00")
    if not FIRST_COLLECTED <= moment_utc < LAST_COLLECTED:
        raise ValueError("not a time at which marrow was taken: before 1900 or after 2199")
    return moment_utc


def _written_out(value: object) -> object:
    """A day or a time in digits and hyphens. A number could be seconds, milliseconds or 20260504."""
    if not isinstance(value, date) and not (isinstance(value, str) and _DAY.match(value)):
        raise ValueError("a day is written as in 2026-05-04, and a time as in 2026-05-04T08:30:00+02:00")
    return value


def _day_alone(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and not _DAY.fullmatch(value)):
        raise ValueError("a day is written as in 2026-05-04, without a time")
    return _written_out(value)


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
#: As a client writes it.
CollectedAt = Annotated[datetime, BeforeValidator(_written_out), AfterValidator(collected)]
Day = Annotated[date, BeforeValidator(_day_alone)]


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
    birth_date: Day | None = Field(None, description="PID-7", examples=["1964-08-12"])
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
