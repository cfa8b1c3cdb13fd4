"""Specimens and their states: open, signed, amending, signed again; or cancelled while open.

All functions run in the caller's transaction. A specimen is locked before it is changed.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from secrets import token_hex
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import ColumnElement, Text, cast, delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.errors import NumberTaken, ReportedAlready, StaleRevision, UnknownSpecimen, WrongState
from service.lis.domain.person import person_of
from service.lis.domain.report import Cellularity, MegakaryocyteAssessment, Order, Patient
from service.lis.storage import audit
from service.lis.storage.digests import digest_of_value
from service.lis.storage.states import State
from service.lis.storage.tables import PatientNumberRow, SpecimenRow

#: States in which cells are added and read.
CHANGEABLE = (State.OPEN, State.AMENDING)
_CELLS_WHEN = "cells can be added and read only while it is open or being amended"


@dataclass(frozen=True, slots=True)
class NewSpecimen:
    """A specimen to open. `shares_tube`: another order has the same number on its tube."""

    number: str
    patient: Patient
    order: Order
    target_cells: int
    collected_at: datetime | None = None
    shares_tube: bool = False


def open_specimen(session: Session, new: NewSpecimen, actor: Actor) -> SpecimenRow:
    """Open a specimen.

    Raises:
        NumberTaken: a specimen with this number exists, in any state, and the new one does not share its tube.
    """
    on_tube = find_by_number(session, new.number)
    if on_tube and not new.shares_tube:
        raise NumberTaken
    row = SpecimenRow(
        id=uuid4().hex,
        key=_free_key(session, new.number, on_tube),
        number=new.number,
        state=State.OPEN,
        revision=1,
        patient=new.patient.model_dump(mode="json", exclude_none=True),
        order=new.order.model_dump(mode="json", exclude_none=True),
        placer_number=new.order.placer_number,
        filler_number=new.order.filler_number,
        collected_at=new.collected_at,
        target_cells=new.target_cells,
        cells=0,
        reports=0,
        opened_at=datetime.now(UTC),
        digest_key=token_hex(32),
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:  # another process opened it in the meantime
        raise NumberTaken from error
    _index_patient(session, row, new.patient)
    audit.record_change(session, actor, "open", row, target_cells=row.target_cells)
    return row


def _free_key(session: Session, number: str, on_tube: Sequence[SpecimenRow]) -> str:
    """The number itself, or with #2, #3, … for further orders on its tube.

    Not a key before theirs that an erasure made free: a receiver without order numbers files reports under it.
    """
    beginning = f"{number[:190]}#"
    alike = or_(SpecimenRow.key == number, SpecimenRow.key.startswith(beginning, autoescape=True))
    taken = set(session.scalars(select(SpecimenRow.key).where(alike)))
    last = max((int(row.key.removeprefix(beginning)) for row in on_tube if row.key != number), default=1)
    further = (f"{beginning}{at}" for at in count(last + 1))
    return next(key for key in chain([] if on_tube else [number], further) if key not in taken)


def _index_patient(session: Session, row: SpecimenRow, patient: Patient) -> None:
    """Replace the numbers by which the specimen is found as this patient's."""
    session.execute(delete(PatientNumberRow).where(PatientNumberRow.specimen == row.row))
    numbers = {patient.identifier, *(each.number for each in patient.all_numbers())}
    session.add_all(PatientNumberRow(number=number, specimen=row.row) for number in numbers)


def find_by_number(session: Session, number: str) -> Sequence[SpecimenRow]:
    """The specimens with this number: one for each order on the tube, oldest first."""
    return session.scalars(select(SpecimenRow).where(SpecimenRow.number == number).order_by(SpecimenRow.row)).all()


def find_by_order(session: Session, placer: str | None, filler: str | None) -> Sequence[SpecimenRow]:
    """The specimens whose order has one of these numbers, newest first, as they are now."""
    wanted = [
        column == number
        for column, number in ((SpecimenRow.placer_number, placer), (SpecimenRow.filler_number, filler))
        if number
    ]
    if not wanted:
        return ()
    found = select(SpecimenRow).where(or_(*wanted)).order_by(SpecimenRow.row.desc())
    return session.scalars(found.execution_options(populate_existing=True)).all()


def get(session: Session, specimen_id: str) -> SpecimenRow:
    """A specimen, to read.

    Raises:
        UnknownSpecimen: there is none with this id.
    """
    row = session.scalars(select(SpecimenRow).where(SpecimenRow.id == specimen_id)).one_or_none()
    if row is None:
        raise UnknownSpecimen
    return row


def lock(
    session: Session, specimen_id: str, *states: State, revision: int | None = None, allowed: str = ""
) -> SpecimenRow:
    """A specimen, locked until the transaction ends.

    Args:
        states: states in which the change is allowed; default CHANGEABLE. `allowed` explains them to the client.
        revision: the revision that the client has seen; None for any.

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


def lock_rows(session: Session, rows: Sequence[int]) -> None:
    """Lock these specimens, in row order so that two transactions cannot deadlock."""
    wanted = select(SpecimenRow.row).where(SpecimenRow.row.in_(rows)).order_by(SpecimenRow.row)
    session.execute(wanted.with_for_update()).all()


def check_state(row: SpecimenRow, states: Sequence[State], allowed: str = _CELLS_WHEN) -> None:
    """Check that a specimen is in one of these states.

    Raises:
        WrongState: it is in another one.
    """
    if row.state not in states:
        raise WrongState(row.state, allowed)


def list_page(
    session: Session,
    *,
    states: Sequence[State],
    number: str | None,
    patient: str | None,
    merged: bool,
    before: int | None,
    limit: int,
) -> Sequence[SpecimenRow]:
    """A page of specimens, newest first; `before` is the last `row` of the previous page.

    Args:
        states: none: in any state.
        merged: only signed specimens that wait for an amendment, because their patient was merged.
    """
    wanted: list[ColumnElement[bool]] = []
    if states:
        wanted.append(SpecimenRow.state.in_(states))
    if number is not None:
        wanted.append(SpecimenRow.number == number)
    if merged:
        wanted += [SpecimenRow.state == State.SIGNED, SpecimenRow.merged_at.is_not(None)]
    if patient is not None:
        of_patient = select(PatientNumberRow.specimen).where(PatientNumberRow.number == patient)
        wanted.append(SpecimenRow.row.in_(of_patient))
    if before is not None:
        wanted.append(SpecimenRow.row < before)
    return session.scalars(select(SpecimenRow).where(*wanted).order_by(SpecimenRow.row.desc()).limit(limit)).all()


def lock_with_patient_numbers(session: Session, numbers: Collection[str]) -> Sequence[SpecimenRow]:
    """Specimens whose patient may have one of these numbers, locked in row order; none whose patient was erased.

    The database looks for the numbers in the text of the patient, which holds them as JSON: it finds these and few
    others.
    """
    patient = cast(SpecimenRow.patient, Text)
    has_number = or_(*(patient.contains(json.dumps(number), autoescape=True) for number in numbers))
    is_kept = SpecimenRow.state != State.ERASED
    wanted = select(SpecimenRow).where(has_number, is_kept).order_by(SpecimenRow.row).with_for_update()
    return session.scalars(wanted.execution_options(populate_existing=True)).all()


#: Fields that a change may empty.
Clearable = Literal["collected_at", "megakaryocytes", "megakaryocyte_assessment", "cellularity", "comment"]
ASSESSMENTS = ("megakaryocyte_assessment", "cellularity")


@dataclass(frozen=True, slots=True)
class SpecimenChange:
    """New values for a specimen. None keeps the old value, except for the fields in `cleared`."""

    patient: Patient | None = None
    order: Order | None = None
    collected_at: datetime | None = None
    target_cells: int | None = None
    megakaryocytes: int | None = None
    megakaryocyte_assessment: MegakaryocyteAssessment | None = None
    cellularity: Cellularity | None = None
    comment: str | None = None
    cleared: frozenset[Clearable] = frozenset()
    moves_patient: bool = False  # the laboratory's system has merged two patients
    number: str | None = None


def same_patient(row: SpecimenRow, patient: Patient) -> bool:
    """Whether the specimen's patient shares a number of the same authority with this one."""
    return Patient.model_validate(row.patient).is_same(patient)


def change(session: Session, row: SpecimenRow, new: SpecimenChange, actor: Actor) -> None:
    """Change the data of a locked specimen.

    Raises:
        ReportedAlready: another patient or filler number, although a report was sent for the current one.
    """
    if new.patient is not None and row.reports and not new.moves_patient and not same_patient(row, new.patient):
        raise ReportedAlready(
            "a report of this specimen was already sent for its patient; amend the specimen, explain the error in the "
            "comment, sign it, and open another specimen for the other patient"
        )
    if new.order is not None and row.reports and new.order.filler_number != row.order.get("filler_number"):
        raise ReportedAlready(
            "a report was already sent under the current filler number, by which receivers file it; keep that number"
        )
    values = _new_values(new)
    if new.patient is not None and not same_patient(row, new.patient):  # the account number is the other patient's
        order = dict(values.get("order", row.order))
        fields = {name: text for name, text in (order.pop("as_ordered", None) or {}).items() if name != "PID-18"}
        values["order"] = order | ({"as_ordered": fields} if fields else {})
    if new.number is not None:
        row.key = _free_key(session, new.number, find_by_number(session, new.number))
    old = {name: getattr(row, name) for name in values}
    for name, value in values.items():
        setattr(row, name, value)
    person = person_of(actor).model_dump(exclude_none=True)
    if "megakaryocytes" in values:
        row.counted_by = person
    if assessed := {name: person for name in ASSESSMENTS if name in values}:
        row.assessed_by = {**(row.assessed_by or {}), **assessed}
    row.placer_number, row.filler_number = row.order.get("placer_number"), row.order.get("filler_number")
    row.revision += 1
    # Names of the fields, and digests of the old values: more people read the audit trail than the report.
    before = {
        name: digest_of_value(row.digest_key, row.id, row.revision, name, _as_json(value))
        for name, value in old.items()
        if value != values[name]
    }
    if new.patient is not None:
        _index_patient(session, row, new.patient)
    audit.record_change(session, actor, "change", row, fields=list(values), before=before)


def _new_values(new: SpecimenChange) -> dict[str, Any]:
    """The columns to set, with their new values."""
    documents = {name: getattr(new, name) for name in ("patient", "order", *ASSESSMENTS)}
    values: dict[str, Any] = {
        name: document.model_dump(mode="json", exclude_none=True) for name, document in documents.items() if document
    }
    plain_names = ("number", "collected_at", "target_cells", "megakaryocytes", "comment")
    plain = {name: getattr(new, name) for name in plain_names}
    values |= {name: value for name, value in plain.items() if value is not None}
    return values | dict.fromkeys(new.cleared - values.keys())


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def cancel(session: Session, row: SpecimenRow, actor: Actor, reason: str) -> None:
    """Cancel a locked specimen. It can no longer be signed.

    Raises:
        ReportedAlready: a preliminary report was sent.
    """
    if row.reports:
        raise ReportedAlready(
            "a preliminary report was already sent and cannot be taken back; sign the specimen, and explain the error "
            "in the comment"
        )
    row.state = State.CANCELLED
    row.revision += 1
    audit.record_change(session, actor, "cancel", row, reason=reason)


def reopen(session: Session, row: SpecimenRow, actor: Actor) -> None:
    """Reopen a locked, cancelled specimen."""
    row.state = State.OPEN
    row.revision += 1
    audit.record_change(session, actor, "reopen", row)


def amend(session: Session, row: SpecimenRow, actor: Actor, reason: str) -> None:
    """Reopen a locked, signed specimen. The signed report stays valid until the next signature."""
    row.state = State.AMENDING
    row.correction = reason
    row.revision += 1
    audit.record_change(session, actor, "amend", row, reason=reason)
