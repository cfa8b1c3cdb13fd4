"""The laboratory's tables, the same on SQLite and PostgreSQL. `migrations/` creates them.

Patients' data are in `specimens`, `patient_numbers`, `reports` and `outbox` only, and in `cells.key` where a client
names its pictures so.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

#: SQLite numbers rows only in a column of type INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")
#: JSON documents; text on SQLite.
Json = JSON()


class Utc(TypeDecorator[datetime]):
    """A time, stored in UTC without a time zone, because SQLite has none."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


class Table(DeclarativeBase):
    """All tables of one laboratory."""

    type_annotation_map = {datetime: Utc, dict[str, Any]: Json, list[Any]: Json}


class ModelRow(Table):
    """A model that suggested classes, with its class list."""

    __tablename__ = "models"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(32))
    version: Mapped[str] = mapped_column(String(32))
    classes: Mapped[list[Any]]
    unsupported: Mapped[list[Any]]
    inert: Mapped[list[Any]] = mapped_column(server_default="[]")


class SpecimenRow(Table):
    """One specimen. `revision` increases with every change; clients send the one they have seen.

    `placer_number` and `filler_number` are those of `order`, to find it by. A tube may carry several orders, each a
    specimen: `number` is on the label, `key` is unique. `merged_at` is the time of a merge of its patient since the
    last signed report. `counted_by` is the person who counted the megakaryocytes; `assessed_by` has who wrote which
    assessment. `comment` is the draft for the next report. `digest_key` keys the digests of the specimen in the audit
    trail (`storage.digests`); an erasure deletes it.
    """

    __tablename__ = "specimens"

    row: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    key: Mapped[str] = mapped_column("number", String(200), unique=True)
    number: Mapped[str] = mapped_column("label", String(200), index=True, server_default="")
    state: Mapped[str] = mapped_column(String(16))
    revision: Mapped[int]
    patient: Mapped[dict[str, Any]]
    order: Mapped[dict[str, Any]]
    placer_number: Mapped[str | None] = mapped_column(String(200), index=True)
    filler_number: Mapped[str | None] = mapped_column(String(200), index=True)
    collected_at: Mapped[datetime | None]
    target_cells: Mapped[int]
    megakaryocytes: Mapped[int | None]
    cells: Mapped[int]
    reports: Mapped[int]
    correction: Mapped[str | None] = mapped_column(Text)
    merged_at: Mapped[datetime | None]
    counted_by: Mapped[dict[str, Any] | None]
    megakaryocyte_assessment: Mapped[dict[str, Any] | None]
    cellularity: Mapped[dict[str, Any] | None]
    assessed_by: Mapped[dict[str, Any] | None]
    comment: Mapped[str | None] = mapped_column(Text)
    opened_at: Mapped[datetime]
    digest_key: Mapped[str | None] = mapped_column(String(64))

    __table_args__ = (Index("specimens_by_state", "state", "row"),)


class PatientNumberRow(Table):
    """One number of a specimen's patient, to find the specimens of a patient by."""

    __tablename__ = "patient_numbers"

    number: Mapped[str] = mapped_column(String(200), primary_key=True)
    specimen: Mapped[int] = mapped_column(ForeignKey("specimens.row"), primary_key=True)


class CellRow(Table):
    """One cell: the model's suggestion and decision, and the current class. `place` is 1, 2, … in its specimen.

    `manifest` is the sha256 of the manifest, which has the thresholds. Without a trust reference `decision` is null,
    and `reasons` and `prediction_set` are empty. A removed cell keeps its row and is not counted.
    """

    __tablename__ = "cells"

    row: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    specimen: Mapped[int] = mapped_column(ForeignKey("specimens.row"))
    place: Mapped[int]
    key: Mapped[str | None] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.sha256"))
    suggested: Mapped[str] = mapped_column(String(32))
    probability: Mapped[float]
    top: Mapped[list[Any]]
    manifest: Mapped[str | None] = mapped_column(String(64))
    decision: Mapped[str | None] = mapped_column(String(8))
    reasons: Mapped[list[Any]] = mapped_column(server_default="[]")
    prediction_set: Mapped[list[Any]] = mapped_column(server_default="[]")
    code: Mapped[str] = mapped_column(String(32))
    version: Mapped[int]
    read_by: Mapped[str | None] = mapped_column(String(200))
    read_at: Mapped[datetime | None]
    added_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("specimen", "place", name="cells_place"),
        UniqueConstraint("specimen", "sha256", name="cells_picture"),
        UniqueConstraint("specimen", "key", name="cells_key"),
        Index("cells_read", "code", "read_at"),
    )


class ReadingRow(Table):
    """One person's reading of one cell: time, old class, new class, reason."""

    __tablename__ = "readings"

    row: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    cell: Mapped[int] = mapped_column(ForeignKey("cells.row"), index=True)
    by: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]
    from_code: Mapped[str] = mapped_column(String(32))
    to_code: Mapped[str] = mapped_column(String(32))
    why: Mapped[str | None] = mapped_column(Text)


class SecondReadingRow(Table):
    """One confirmation of a specimen's cells by a person, the second reader.

    It holds for `cells` cells with this sum of their versions and this last place.
    """

    __tablename__ = "second_readings"

    row: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    specimen: Mapped[int] = mapped_column(ForeignKey("specimens.row"), index=True)
    by: Mapped[str] = mapped_column(String(200))
    identity: Mapped[dict[str, Any]]
    at: Mapped[datetime]
    cells: Mapped[int]
    versions: Mapped[int]
    last_place: Mapped[int]


class PresenceRow(Table):
    """One open page of a specimen: the person, and the cell or class they look at. Deleted soon after it closes."""

    __tablename__ = "presences"

    page: Mapped[str] = mapped_column(String(32), primary_key=True)
    person: Mapped[str] = mapped_column(String(200), primary_key=True)
    specimen: Mapped[int] = mapped_column(ForeignKey("specimens.row"), index=True)
    place: Mapped[int | None]
    code: Mapped[str | None] = mapped_column(String(32))
    seen_at: Mapped[datetime]


class ReportRow(Table):
    """One version of a report. Never updated or deleted; an erasure empties `document`."""

    __tablename__ = "reports"

    row: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    specimen: Mapped[int] = mapped_column(ForeignKey("specimens.row"))
    version: Mapped[int]
    status: Mapped[str] = mapped_column(String(16))
    document: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("specimen", "version", name="reports_version"),)


class MessageRow(Table):
    """One message to one receiver, the same bytes at every attempt; empty once it has expired or was erased."""

    __tablename__ = "outbox"

    row: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    control_id: Mapped[str] = mapped_column(String(20), unique=True)
    channel: Mapped[str] = mapped_column(String(8))
    report: Mapped[int] = mapped_column(ForeignKey("reports.row"))
    specimen: Mapped[int] = mapped_column(ForeignKey("specimens.row"))
    state: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    give_up_at: Mapped[datetime]
    leased_until: Mapped[datetime | None]
    leased_by: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(Text)
    reply: Mapped[str | None] = mapped_column(Text)
    settled_at: Mapped[datetime | None]

    __table_args__ = (
        Index("outbox_due", "state", "channel", "due_at"),
        Index("outbox_order", "specimen", "channel", "row"),
        Index("outbox_report", "report"),
    )


class TakenMessageRow(Table):
    """An accepted message with orders; the same message again changes nothing."""

    __tablename__ = "taken_messages"

    sender: Mapped[str] = mapped_column(String(400), primary_key=True)
    control_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime]


class AuditRow(Table):
    """One row of the audit trail. `hash` covers the row and the previous hash."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(32))
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(32))
    specimen_id: Mapped[str | None] = mapped_column(String(32), index=True)
    details: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(String(64))


class AuditHeadRow(Table):
    """The single row with the end of the chain, so that removed last rows are detected."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(RowNumber)
    hash: Mapped[str] = mapped_column(String(64))


class AuditKeyRow(Table):
    """The single row with the key of earlier versions' digests; later ones use `specimens.digest_key`."""

    __tablename__ = "audit_key"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(64))


class PseudonymKeyRow(Table):
    """The single row with the key of the patients' pseudonyms in training lists: 32 bytes in hexadecimal."""

    __tablename__ = "pseudonym_key"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(64))
