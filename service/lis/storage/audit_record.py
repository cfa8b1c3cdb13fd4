"""What the audit trail says the tables hold: specimens, cells, readings, reports and messages after its last row."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from model.plural import plural
from service.lis.storage.audit import read_rows
from service.lis.storage.digests import digest
from service.lis.storage.states import MessageState
from service.lis.storage.tables import AuditRow

#: A cell: the id of its specimen, and its place.
Place = tuple[str | None, int]


@dataclass(slots=True)
class RecordedSpecimen:
    """A specimen by its last row with a digest; `digest` is None if all rows are of earlier versions.

    `findings` is None if a reader has written nothing.
    """

    row: int
    digest: str | None = None
    findings: str | None = None
    cells: list["RecordedCells"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RecordedCells:
    """Cells added together, from `first` to `last`; `digest` is None in rows of earlier versions."""

    row: int
    first: int
    last: int
    digest: str | None


@dataclass(slots=True)
class RecordedReport:
    """A report, by the row of its signature. An erasure replaces the hash by that of an empty text."""

    row: int
    specimen_id: str | None
    version: Any
    status: Any
    sha256: Any


@dataclass(slots=True)
class RecordedMessage:
    """A message. `state` is None if its last row is of an earlier version; `outcome` is None while it is not settled.

    `is_empty`: it has expired or was erased.
    """

    row: int
    sha256: str
    state: str | None = None
    outcome: str | None = None
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class RecordedReading:
    """The last reading of a cell, and the number of its readings; `at` is None in rows of earlier versions."""

    code: str
    by: str
    at: str | None
    count: int


@dataclass(slots=True)
class AuditRecord:
    """The content of the trail."""

    specimens: dict[str | None, RecordedSpecimen] = field(default_factory=dict)
    reports: dict[str, RecordedReport] = field(default_factory=dict)
    messages: dict[str, RecordedMessage] = field(default_factory=dict)
    readings: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    last_readings: dict[Place, RecordedReading] = field(default_factory=dict)
    removed: set[Place] = field(default_factory=set)
    #: One line for each erasure and expiry.
    erased: list[str] = field(default_factory=list)


def read_record(session: Session) -> AuditRecord:
    """Read the whole trail."""
    record = AuditRecord()
    for row in read_rows(session):
        _apply(record, row, _details(row))
    return record


def _apply(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    if row.action == "open" or "specimen_digest" in details:
        specimen = record.specimens.setdefault(row.specimen_id, RecordedSpecimen(row.number))
        specimen.row, specimen.digest = row.number, details.get("specimen_digest")
        specimen.findings = details.get("findings_digest")
    if apply := _ACTIONS.get(row.action):
        with suppress(LookupError, TypeError, ValueError, AttributeError):  # an edited row: the hash chain reports it
            apply(record, row, details)


def _add(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    first, last = details["places"]
    specimen = record.specimens.setdefault(row.specimen_id, RecordedSpecimen(row.number))
    specimen.cells.append(RecordedCells(row.number, first, last, details.get("cells_digest")))


def _read(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    for place, before, after, why in details.get("cells", ()):
        record.readings[row.specimen_id, place, row.actor, before, after, why] += 1
        key = row.specimen_id, place
        count = record.last_readings[key].count if key in record.last_readings else 0
        record.last_readings[key] = RecordedReading(after, row.actor, details.get("at"), count + 1)


def _remove(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    record.removed.add((row.specimen_id, details["place"]))


def _report(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    found = RecordedReport(
        row.number, row.specimen_id, details.get("version"), details.get("status"), details.get("report_sha256")
    )
    record.reports[str(details.get("report"))] = found
    state = MessageState.WAITING if "specimen_digest" in details else None
    for control_id, sha256 in details.get("messages", {}).items():
        record.messages[control_id] = RecordedMessage(row.number, sha256, state)


def _settle(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    if message := record.messages.get(details["message"]):
        message.row, message.state = row.number, details.get("state")
        message.outcome = details.get("outcome_digest")


def _hold(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    for message in filter(None, map(record.messages.get, details["messages"])):
        message.row, message.state, message.outcome = row.number, MessageState.HELD, None


def _erase(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    specimen = record.specimens[row.specimen_id]
    specimen.cells = [RecordedCells(row.number, 1, details["places"], details["cells_digest"])]
    for report in record.reports.values():
        if report.specimen_id == row.specimen_id:
            report.sha256 = digest("")
    _empty(record, details["messages"])
    for control_id in details["dropped"]:
        record.messages[control_id].state = MessageState.DROPPED
    counts = (details["reports"], "report"), (len(details["messages"]), "message")
    parts = ", ".join(plural(count, noun) for count, noun in counts)
    # Not `details["pictures"]`: rows of earlier versions count the pictures that other specimens still have.
    record.erased.append(
        f"row {row.number}: {row.actor} erased specimen {row.specimen_id} at {row.at} ({details['reason']}): patient, "
        f"order, {parts}, pictures of {plural(details['places'], 'cell')} except those that another specimen has"
    )


def _expire(record: AuditRecord, row: AuditRow, details: dict[str, Any]) -> None:
    _empty(record, details["messages"])
    record.erased.append(
        f"row {row.number}: {plural(len(details['messages']), 'delivered message')} and "
        f"{plural(details['taken'], 'id')} of messages received expired at {row.at}"
    )


def _empty(record: AuditRecord, control_ids: list[str]) -> None:
    for message in filter(None, map(record.messages.get, control_ids)):
        message.is_empty, message.outcome = True, None


_ACTIONS = {
    "add": _add,
    "read": _read,
    "remove": _remove,
    "report": _report,
    "sign": _report,
    "deliver": _settle,
    "confirm": _settle,
    "retry": _settle,
    "drop": _settle,
    "hold": _hold,
    "erase": _erase,
    "expire": _expire,
}


def _details(row: AuditRow) -> dict[str, Any]:
    """Details of a row; empty if they are invalid, which the hash chain reports."""
    try:
        details = json.loads(row.details)
    except ValueError:
        return {}
    return details if isinstance(details, dict) else {}
