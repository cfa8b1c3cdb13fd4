"""Specimens and the states they go through: open, signed, amending, signed again; or cancelled while still open.

Knows one specimen's row and who may change it when. Does not know its cells, and writes no report. Everything here runs
within the caller's transaction; a specimen that is to be changed is locked first, so that one of two is always first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.errors import NumberTaken, ReportedAlready, StaleRevision, UnknownSpecimen, WrongState
from service.lis.domain.report import Order, Patient
from service.lis.storage import audit
from service.lis.storage.states import State
from service.lis.storage.tables import SpecimenRow

#: In these, cells come and are read.
CHANGEABLE = (State.OPEN, State.AMENDING)
_CELLS_WHEN = "cells are added and read while it is open or amended"


@dataclass(frozen=True, slots=True)
class NewSpecimen:
    """What is known of a specimen when it is opened."""

    number: str
    patient: Patient
    order: Order
    target_cells: int
    collected_at: datetime | None = None


def open_specimen(session: Session, new: NewSpecimen, by: Actor) -> SpecimenRow:
    """Open a specimen.

    Raises:
        NumberTaken: there is one with this number, whatever its state.
    """
    if by_number(session, new.number) is not None:
        raise NumberTaken
    row = SpecimenRow(
        id=uuid4().hex,
        number=new.number,
        state=State.OPEN,
        revision=1,
        patient=new.patient.model_dump(mode="json", exclude_none=True),
        order=new.order.model_dump(mode="json", exclude_none=True),
        collected_at=new.collected_at,
        target_cells=new.target_cells,
        cells=0,
        reports=0,
        opened_at=datetime.now(UTC),
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:  # another process opened it between the question and the answer
        raise NumberTaken from error
    audit.record(session, by, "open", row.id, target_cells=row.target_cells)
    return row


def by_number(session: Session, number: str) -> SpecimenRow | None:
    """The specimen with this number on its label."""
    return session.scalars(select(SpecimenRow).where(SpecimenRow.number == number)).one_or_none()


def found(session: Session, specimen_id: str) -> SpecimenRow:
    """A specimen, to be looked at.

    Raises:
        UnknownSpecimen: there is none.
    """
    row = session.scalars(select(SpecimenRow).where(SpecimenRow.id == specimen_id)).one_or_none()
    if row is None:
        raise UnknownSpecimen
    return row


def locked(
    session: Session, specimen_id: str, *states: State, revision: int | None = None, allowed: str = ""
) -> SpecimenRow:
    """A specimen, to be changed: whoever else wants to change it waits until this transaction has ended.

    Args:
        states: those in which the change may be made, CHANGEABLE unless said; `allowed` says so in words.
        revision: the one that the caller has seen; None when it does not matter.

    Raises:
        UnknownSpecimen, WrongState, StaleRevision.
    """
    wanted = select(SpecimenRow).where(SpecimenRow.id == specimen_id).with_for_update()
    row = session.scalars(wanted.execution_options(populate_existing=True)).one_or_none()
    if row is None:
        raise UnknownSpecimen
    check_state(row, states or CHANGEABLE, allowed or _CELLS_WHEN)
    if revision is not None and revision != row.revision:
        raise StaleRevision("the specimen", revision, row.revision)
    return row


def lock_all(session: Session, numbers: Sequence[str]) -> None:
    """Lock every specimen that has one of these numbers, in the order in which everybody locks several."""
    wanted = select(SpecimenRow.row).where(SpecimenRow.number.in_(numbers)).order_by(SpecimenRow.row)
    session.execute(wanted.with_for_update()).all()


def check_state(row: SpecimenRow, states: Sequence[State], allowed: str = _CELLS_WHEN) -> None:
    """Return when a specimen is in one of these states.

    Raises:
        WrongState: it is in another one.
    """
    if row.state not in states:
        raise WrongState(row.state, allowed)


def listed(
    session: Session, *, state: State | None, number: str | None, before: int | None, limit: int
) -> Sequence[SpecimenRow]:
    """A page of specimens, the newest first; `before` is the `row` of the last one of the page before."""
    wanted: list[ColumnElement[bool]] = []
    if state is not None:
        wanted.append(SpecimenRow.state == state)
    if number is not None:
        wanted.append(SpecimenRow.number == number)
    if before is not None:
        wanted.append(SpecimenRow.row < before)
    return session.scalars(select(SpecimenRow).where(*wanted).order_by(SpecimenRow.row.desc()).limit(limit)).all()


@dataclass(frozen=True, slots=True)
class Change:
    """New values for a specimen; None leaves one as it is, unless it stands in `cleared`."""

    patient: Patient | None = None
    order: Order | None = None
    collected_at: datetime | None = None
    target_cells: int | None = None
    megakaryocytes: int | None = None
    cleared: frozenset[Literal["collected_at", "megakaryocytes"]] = frozenset()


def same_patient(row: SpecimenRow, patient: Patient) -> bool:
    """Whether a specimen is of the one who has this number of this giver."""
    known = Patient.model_validate(row.patient)
    return (known.identifier, known.authority) == (patient.identifier, patient.authority)


def change(session: Session, row: SpecimenRow, wish: Change, by: Actor) -> None:
    """Change what is known of a locked specimen.

    Raises:
        ReportedAlready: to another patient, while the one it was of has a report.
    """
    if wish.patient is not None:
        if row.reports and not same_patient(row, wish.patient):
            raise ReportedAlready(
                "a report of this specimen went out under its patient, and would stay there; amend it, say so in the "
                "comment, sign, and open another specimen for the other patient"
            )
    new = _new_values(wish)
    old = {name: getattr(row, name) for name in new}
    for name, value in new.items():
        setattr(row, name, value)
    row.revision += 1
    # Which fields, and not what stands in them: the trail is read by more people than the report.
    before = {
        name: audit.digest_of_value(session, row.id, row.revision, name, _as_json(value))
        for name, value in old.items()
        if value != new[name]
    }
    audit.record(session, by, "change", row.id, fields=list(new), before=before, revision=row.revision)


def _new_values(wish: Change) -> dict[str, Any]:
    """The columns that a change sets, with what they become."""
    documents = {"patient": wish.patient, "order": wish.order}
    new: dict[str, Any] = {
        name: document.model_dump(mode="json", exclude_none=True) for name, document in documents.items() if document
    }
    for name in ("collected_at", "target_cells", "megakaryocytes"):
        value = getattr(wish, name)
        if value is not None or name in wish.cleared:
            new[name] = value
    return new


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def cancel(session: Session, row: SpecimenRow, by: Actor, reason: str) -> None:
    """Give a locked specimen up: it is never signed.

    Raises:
        ReportedAlready: its preliminary report would stand for ever.
    """
    if row.reports:
        raise ReportedAlready(
            "a preliminary report went out, and nothing would take it back; sign the specimen, with a comment that "
            "says what is wrong with it"
        )
    row.state = State.CANCELLED
    row.revision += 1
    audit.record(session, by, "cancel", row.id, reason=reason, revision=row.revision)


def reopen(session: Session, row: SpecimenRow, by: Actor) -> None:
    """Open a locked, cancelled specimen again."""
    row.state = State.OPEN
    row.revision += 1
    audit.record(session, by, "reopen", row.id, revision=row.revision)


def amend(session: Session, row: SpecimenRow, by: Actor, reason: str) -> None:
    """Open a locked, signed specimen again; what was signed stands until it is signed anew."""
    row.state = State.AMENDING
    row.correction = reason
    row.revision += 1
    audit.record(session, by, "amend", row.id, reason=reason, revision=row.revision)
