"""The audit trail: who changed which specimen, in a hash chain that reveals later changes of a row.

Each row's hash covers its content and the previous hash; one more row stores the end of the chain. A database
administrator can write a new chain: store the end that `marrowlens audit verify` prints outside, and pass it to the
next check.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.lis.storage.digests import findings_digest, specimen_digest
from service.lis.storage.tables import AuditHeadRow, AuditRow, SpecimenRow

#: The hash before the first row.
BEGINNING = "0" * 64
_PAGE = 1000
#: Key of the actor's verified identity in a row's details. Absent in rows of earlier versions.
IDENTITY = "identity"


class AuditTrailBroken(Exception):
    """The audit trail cannot be written; the change is refused."""


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """The end of the chain: the number of rows and the last hash."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One difference between the database and the audit trail."""

    number: int
    what: str


def record(session: Session, actor: Actor, action: str, specimen_id: str | None = None, **details: Any) -> None:
    """Append one row in the caller's transaction, as its last step: the end of the chain stays locked until the commit.

    Args:
        details: JSON without patients' data. The actor's identity is added.
    """
    head = lock(session)
    row = AuditRow(
        number=head.number + 1,
        at=timestamp(datetime.now(UTC)),
        actor=actor.name,
        action=action,
        specimen_id=specimen_id,
        details=json.dumps({**details, IDENTITY: actor.identity.details()}, sort_keys=True, ensure_ascii=False),
    )
    row.hash = _hash(row, head.hash)
    session.add(row)
    head.number, head.hash = row.number, row.hash


def lock(session: Session) -> AuditHeadRow:
    """The end of the chain, locked until the commit. Lock specimens before it.

    Raises:
        AuditTrailBroken: it is missing.
    """
    head = session.scalars(select(AuditHeadRow).with_for_update()).one_or_none()
    if head is None:
        raise AuditTrailBroken("the row with the end of the audit trail is missing; run `marrowlens audit verify`")
    return head


def timestamp(moment: datetime) -> str:
    """A time as in the column `at`: equal lengths, so that texts sort as times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def record_change(session: Session, actor: Actor, action: str, specimen: SpecimenRow, **details: Any) -> None:
    """As `record`, for a change of a specimen: with its new revision, and the digest of its new data."""
    findings = {"findings_digest": written} if (written := findings_digest(specimen)) else {}
    digests = {"specimen_digest": specimen_digest(specimen), **findings}
    record(session, actor, action, specimen.id, **details, revision=specimen.revision, **digests)


def verify(session: Session, known: ChainEnd | None = None) -> tuple[ChainEnd, list[Mismatch]]:
    """Check the hash chain; returns its end and all mismatches.

    Args:
        known: an end printed by an earlier check; the chain must contain it.
    """
    faults: list[Mismatch] = []
    end = ChainEnd(0, BEGINNING)
    for row in read_rows(session):
        faults += _faults(row, end)
        end = ChainEnd(row.number, row.hash)
        if known and row.number == known.number and row.hash != known.hash:
            faults.append(Mismatch(row.number, "differs from the row that ended an earlier check"))
    head = session.scalars(select(AuditHeadRow)).one_or_none()
    if head is None:
        faults.append(Mismatch(end.number, "is the last row, but the row with the end of the trail is missing"))
    elif (head.number, head.hash) != (end.number, end.hash):
        faults.append(Mismatch(end.number, f"is the last row, but {head.number} rows were written: rows are missing"))
    if known and end.number < known.number:
        faults.append(Mismatch(end.number, f"is the last row, but an earlier check found {known.number} rows"))
    return end, faults


def read_rows(session: Session, *actions: str) -> Iterator[AuditRow]:
    """All rows, or those of some actions, in order."""
    wanted = select(AuditRow).order_by(AuditRow.number).execution_options(yield_per=_PAGE)
    yield from session.scalars(wanted.where(AuditRow.action.in_(actions)) if actions else wanted)


def _faults(row: AuditRow, before: ChainEnd) -> Iterator[Mismatch]:
    if row.number != before.number + 1:
        yield Mismatch(row.number, f"follows row {before.number}: rows are missing")
    elif row.hash != _hash(row, before.hash):
        yield Mismatch(row.number, "was edited or replaced")


def _hash(row: AuditRow, before: str) -> str:
    fields = [row.number, row.at, row.actor, row.action, row.specimen_id, row.details, before]
    return sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()
