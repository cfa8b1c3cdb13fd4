"""The audit trail: who did what to which specimen, in a chain of hashes that shows every later change of a row.

Knows rows and their order. Does not know what actions mean: `audit_checks` holds the tables against them. Each row's
hash covers its content and the hash before it; one more row says where the chain ends. Whoever can write the database
can also write a new chain: keep the end that `marrowlens audit verify` prints outside, and give it to the next check.
"""

import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.lis.storage.tables import AuditHeadRow, AuditKeyRow, AuditRow

#: What stands before the first row.
BEGINNING = "0" * 64
_PAGE = 1000
#: Under which a row's details hold what its actor's name was verified by. Rows of earlier versions have none.
IDENTITY = "identity"


class TrailBroken(Exception):
    """Nothing can be recorded, and so nothing may be done."""


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


def record(session: Session, actor: Actor, action: str, specimen_id: str | None = None, **details: Any) -> None:
    """Append one row within the caller's transaction, as the last thing before its commit: all others wait for it.

    Args:
        details: what was done, without anything of the patient; JSON. The actor's identity stands among them.
    """
    head = session.scalars(select(AuditHeadRow).with_for_update()).one_or_none()
    if head is None:
        raise TrailBroken("what says where the audit trail ends is missing; see `marrowlens audit verify`")
    row = AuditRow(
        number=head.number + 1,
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        actor=actor.name,
        action=action,
        specimen_id=specimen_id,
        details=json.dumps({**details, IDENTITY: actor.identity.details()}, sort_keys=True, ensure_ascii=False),
    )
    row.hash = _hash(row, head.hash)
    session.add(row)
    head.number, head.hash = row.number, row.hash


def verify(session: Session, known: End | None = None) -> tuple[End, list[Fault]]:
    """Where the chain ends, and every place where it is not as it was written.

    Args:
        known: an end that an earlier check printed; the chain must still lead through it.
    """
    faults: list[Fault] = []
    end = End(0, BEGINNING)
    for row in rows(session):
        faults += _faults(row, end)
        end = End(row.number, row.hash)
        if known and row.number == known.number and row.hash != known.hash:
            faults.append(Fault(row.number, "is not the row that an earlier check ended with"))
    head = session.scalars(select(AuditHeadRow)).one_or_none()
    if head is None:
        faults.append(Fault(end.number, "is the last row, and what said where the trail ends is missing"))
    elif (head.number, head.hash) != (end.number, end.hash):
        faults.append(Fault(end.number, f"is the last row, but {head.number} were written: rows are missing"))
    if known and end.number < known.number:
        faults.append(Fault(end.number, f"is the last row, but an earlier check saw {known.number}"))
    return end, faults


def rows(session: Session, *actions: str) -> Iterator[AuditRow]:
    """All rows, or those of some actions, in their order."""
    wanted = select(AuditRow).order_by(AuditRow.number).execution_options(yield_per=_PAGE)
    yield from session.scalars(wanted.where(AuditRow.action.in_(actions)) if actions else wanted)


def _faults(row: AuditRow, before: End) -> Iterator[Fault]:
    if row.number != before.number + 1:
        yield Fault(row.number, f"follows on {before.number}: rows between them are missing")
    elif row.hash != _hash(row, before.hash):
        yield Fault(row.number, "was edited, or is not the row that stood here")


def digest(document: str) -> str:
    """Under which the text of a report or a message is recorded."""
    return sha256(document.encode()).hexdigest()


def digest_of_value(session: Session, specimen_id: str | None, revision: int, field: str, value: Any) -> str:
    """Under which a value is recorded that a change replaced: HMAC-SHA256 under the database's own key.

    Without the key no list of names can be tried against the trail. Specimen, revision and field are part of it: equal
    values in two rows have two digests.
    """
    key = session.scalars(select(AuditKeyRow)).one().key
    message = json.dumps([specimen_id, revision, field, value], sort_keys=True, ensure_ascii=False)
    return hmac.new(bytes.fromhex(key), message.encode(), sha256).hexdigest()


def _hash(row: AuditRow, before: str) -> str:
    fields = [row.number, row.at, row.actor, row.action, row.specimen_id, row.details, before]
    return sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()
