"""Patients as the laboratory's system knows them: new data for their specimens, and merges of two patients.

A merge moves the specimens that are not signed. Signed reports stay as signed; the audit trail of their specimens says
that their patient was merged, so that a person can amend them.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.lis.domain import specimens
from service.lis.domain.report import Order, Patient, PatientNumber
from service.lis.domain.specimens import CHANGEABLE, SpecimenChange
from service.lis.exchange.orders import PatientUpdate
from service.lis.storage import audit
from service.lis.storage.states import State
from service.lis.storage.tables import SpecimenRow


def specimens_of(session: Session, update: PatientUpdate) -> Sequence[SpecimenRow]:
    """Specimens that an update concerns: open and amending ones; for a merge also signed ones."""
    states = (*CHANGEABLE, State.SIGNED) if update.merged else CHANGEABLE
    return [row for row in specimens.list_in_states(session, states) if _is_concerned(row, update)]


def _is_concerned(row: SpecimenRow, update: PatientUpdate) -> bool:
    """By a whole number: a part of the authority could be that of two patients."""
    known = Patient.model_validate(row.patient)
    numbers = update.merged or update.patient.all_numbers()
    shared = any(own.is_exactly(number) for own in known.all_numbers() for number in numbers)
    return shared and (bool(update.merged) or known.is_same(update.patient))


def update(session: Session, new: PatientUpdate, actor: Actor) -> None:
    """Change the patient of the specimens that are not signed, and note a merge at the signed ones."""
    for row in specimens_of(session, new):
        if row.state == State.SIGNED:
            audit.record(session, actor, "merge", row.id, revision=row.revision)
            continue
        known = Patient.model_validate(row.patient)
        patient = _moved(known, new) if new.merged else merged_patient(known, new.patient, new.deleted)
        specimens.change(session, row, SpecimenChange(patient, moves_patient=bool(new.merged)), actor)


def _moved(known: Patient, merge: PatientUpdate) -> Patient:
    """The surviving patient: own numbers, and those of the merged one that the merge does not replace."""
    surviving = merge.patient.all_numbers()
    kept = [
        each for each in known.all_numbers() if not any(each.is_same(other) for other in (*merge.merged, *surviving))
    ]
    values = merged_values(known, merge.patient, merge.deleted, "patient")
    numbers = [each.model_dump() for each in (*surviving, *kept)]
    return Patient.model_validate(values | {"authority": merge.patient.authority, "numbers": numbers})


def merged_patient(known: Patient, new: Patient, deleted: Collection[str]) -> Patient:
    """The known patient with new data and new numbers. The primary number stays: the message shares a number."""
    sent = [_fuller(each, known) for each in new.all_numbers()]
    others = [each for each in known.all_numbers() if not any(each.is_same(other) for other in sent)]
    is_known = known.numbers or new.numbers
    numbers = [each.model_dump() for each in (*sent, *others)] if is_known else None
    values = merged_values(known, new, deleted, "patient")
    return Patient.model_validate(
        values | {"identifier": known.identifier, "authority": known.authority, "numbers": numbers}
    )


def _fuller(number: PatientNumber, known: Patient) -> PatientNumber:
    """The number with what is known of its authority and type: empty components are unchanged."""
    own = next((each for each in known.all_numbers() if each.is_same(number)), None)
    if own is None:
        return number
    return number.model_copy(update={name: value for name, value in own.model_dump().items() if value is not None})


def merged_values(known: Patient | Order, new: Patient | Order, deleted: Collection[str], name: str) -> dict[str, Any]:
    """The known values with the new ones. None is unchanged; deleted fields are removed."""
    values = known.model_dump() | {field: value for field, value in new.model_dump().items() if value is not None}
    return {field: value for field, value in values.items() if f"{name}.{field}" not in deleted}
