"""The audit trail: who did what to which specimen, in a chain of hashes that shows every later change of a row.

Knows rows and their order. Does not know what actions mean. Each row's hash covers its content and the hash before it;
one more row says where the chain ends. Whoever can write the database can also write a new chain: keep the end that
`marrowlens audit verify` prints outside of it, and give it back to the next check.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.lis.tables import AuditHeadRow, AuditRow, ReportRow

#: What stands before the first row.
BEGINNING = "0" * 64
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class End:
    """Where the chain ends: how many rows, and the hash of the last."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not as it was written."""

    number: int
    what: str


def record(session: Session, actor: str, action: str, specimen_id: str | None = None, **details: Any) -> None:
    """Append one row within the caller's transaction, as the last thing before its commit: all others wait for it.

    Args:
        details: what was done, without anything of the patient; JSON.
    """
    head = session.scalars(select(AuditHeadRow).with_for_update()).one()
    row = AuditRow(
        number=head.number + 1,
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        actor=actor,
        action=action,
        specimen_id=specimen_id,
        details=json.dumps(details, sort_keys=True, ensure_ascii=False),
    )
    row.hash = _hash(row, head.hash)
    session.add(row)
    head.number, head.hash = row.number, row.hash


def verify(session: Session, known: End | None = None) -> tuple[End, list[Fault]]:
    """Where the chain ends, and every place where it is not as it was written.

    A report counts as edited when its text is not the one whose hash was recorded when it was written.

    Args:
        known: an end that an earlier check printed; the chain must still lead through it.
    """
    faults: list[Fault] = []
    end = End(0, BEGINNING)
    for row in _rows(session):
        faults += _faults(row, end)
        end = End(row.number, row.hash)
        if known and row.number == known.number and row.hash != known.hash:
            faults.append(Fault(row.number, "is not the row that an earlier check ended with"))
    head = session.scalars(select(AuditHeadRow)).one()
    if (head.number, head.hash) != (end.number, end.hash):
        faults.append(Fault(end.number, f"is the last row, but {head.number} were written: rows are missing"))
    if known and end.number < known.number:
        faults.append(Fault(end.number, f"is the last row, but an earlier check saw {known.number}"))
    return end, [*faults, *_edited_reports(session)]


def _rows(session: Session) -> Iterator[AuditRow]:
    yield from session.scalars(select(AuditRow).order_by(AuditRow.number).execution_options(yield_per=_PAGE))


def _faults(row: AuditRow, before: End) -> Iterator[Fault]:
    if row.number != before.number + 1:
        yield Fault(row.number, f"follows on {before.number}: rows between them are missing")
    elif row.hash != _hash(row, before.hash):
        yield Fault(row.number, "was edited, or is not the row that stood here")


def _edited_reports(session: Session) -> Iterator[Fault]:
    recorded = select(AuditRow).where(AuditRow.action.in_(("report", "sign"))).order_by(AuditRow.number)
    for row in session.scalars(recorded.execution_options(yield_per=_PAGE)):
        with suppress(ValueError, KeyError, TypeError):  # edited beyond reading, which its hash has shown already
            details = json.loads(row.details)
            report, expected = details["report"], details["report_sha256"]
            document = session.scalar(select(ReportRow.document).where(ReportRow.id == report))
            if document is None:
                yield Fault(row.number, f"speaks of report {report}, which is missing")
            elif digest(document) != expected:
                yield Fault(row.number, f"speaks of report {report}, whose text was edited")


def digest(document: str) -> str:
    """Under which a report's text is recorded."""
    return sha256(document.encode()).hexdigest()


def _hash(row: AuditRow, before: str) -> str:
    fields = [row.number, row.at, row.actor, row.action, row.specimen_id, row.details, before]
    return sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()
