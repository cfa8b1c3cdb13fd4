"""Patients as the laboratory's system knows them: new data for their specimens, and merges of two patients.

A merge moves every specimen, in every state. Signed reports stay as signed: the audit trail of their specimens
says that their patient was merged, and the specimens are listed until a person has amended them.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.lis.domain import specimens
from service.lis.domain.report import Order, Patient, PatientNumber
from service.lis.domain.specimens import CHANGEABLE, SpecimenChange
from service.lis.exchange.orders import PatientUpdate
from service.lis.storage import audit
from service.lis.storage.tables import SpecimenRow


def update(session: Session, updates: Sequence[PatientUpdate], actor: Actor) -> None:
    """Apply all updates of a message, in its order, to the specimens that they concern."""
    numbers = {number.number for each in updates for number in (*_numbers(each), *each.patient.all_numbers())}
    rows = specimens.lock_with_patient_numbers(session, numbers) if numbers else ()
    for each in updates:
        survivor = _surviving_patient(rows, each) if each.merged else None
        for row in _matching_rows(rows, each):
            _apply(session, row, each, survivor, actor)


def _surviving_patient(rows: Sequence[SpecimenRow], update: PatientUpdate) -> Patient | None:
    """What is stored of the patient that a merge keeps, in its latest specimen; None if it has none."""
    known = (Patient.model_validate(row.patient) for row in reversed(rows))
    surviving, merged = update.patient.all_numbers(), update.merged
    return next((each for each in known if _has_one(each, surviving) and not _has_one(each, merged)), None)


def _has_one(patient: Patient, numbers: Sequence[PatientNumber]) -> bool:
    return any(own.is_exactly(number) for own in patient.all_numbers() for number in numbers)


def _numbers(update: PatientUpdate) -> Sequence[PatientNumber]:
    """The numbers by which an update finds its specimens."""
    return update.merged or update.patient.all_numbers()


def _matching_rows(rows: Iterable[SpecimenRow], update: PatientUpdate) -> Iterable[SpecimenRow]:
    """By a whole number: a part of the authority could be that of two patients."""
    for row in rows:
        known = Patient.model_validate(row.patient)
        if not _has_one(known, _numbers(update)):
            continue
        if update.merged or (row.state in CHANGEABLE and known.is_same(update.patient)):
            yield row


def _apply(session: Session, row: SpecimenRow, new: PatientUpdate, survivor: Patient | None, actor: Actor) -> None:
    known = Patient.model_validate(row.patient)
    if not new.merged:
        specimens.change(session, row, SpecimenChange(merged_patient(known, new.patient, new.deleted)), actor)
        return
    after = _patient_after_merge(known, new, survivor)
    specimens.change(session, row, SpecimenChange(after, moves_patient=True), actor)
    if row.reports:  # they name the other patient
        row.merged_at = datetime.now(UTC)
        audit.record(session, actor, "merge", row.id, revision=row.revision)


def _patient_after_merge(known: Patient, merge: PatientUpdate, survivor: Patient | None) -> Patient:
    """The surviving patient: own numbers, and those of the merged one that the merge does not replace.

    Fields that the message leaves empty are those that are stored of the surviving patient; if nothing is stored, they
    stay as they are. So no patient gets one person's name and another's birth date.
    """
    surviving = merge.patient.all_numbers()
    kept = [
        each for each in known.all_numbers() if not any(each.is_same(other) for other in (*merge.merged, *surviving))
    ]
    values = merged_values(survivor or known, merge.patient, merge.deleted, "patient")
    numbers = [each.model_dump() for each in (*surviving, *kept)]
    return Patient.model_validate(values | {"authority": merge.patient.authority, "numbers": numbers})


def merged_patient(known: Patient, new: Patient, deleted: Collection[str]) -> Patient:
    """The known patient with new data and new numbers. The primary number stays: the message shares a number."""
    sent = [_fuller(each, known, deleted) for each in new.all_numbers()]
    others = [each for each in known.all_numbers() if not any(each.is_same(other) for other in sent)]
    is_known = known.numbers or new.numbers
    numbers = [each.model_dump() for each in (*sent, *others)] if is_known else None
    own = [each for each in (*sent, *others) if each.number == known.identifier]
    authorities = [each.namespace or each.universal_id for each in own]
    authority = known.authority if known.authority in authorities or not own else authorities[0]
    values = merged_values(known, new, deleted, "patient")
    return Patient.model_validate(values | {"identifier": known.identifier, "authority": authority, "numbers": numbers})


def _fuller(number: PatientNumber, known: Patient, deleted: Collection[str]) -> PatientNumber:
    """The number with what is known of its authority and type: empty components are unchanged, unless deleted."""
    own = next((each for each in known.all_numbers() if each.is_same(number)), None)
    if own is None:
        return number
    stored = {name: value for name, value in own.model_dump().items() if value is not None}
    return number.model_copy(
        update={name: value for name, value in stored.items() if f"numbers.{number.number}.{name}" not in deleted}
    )


def merged_values(known: Patient | Order, new: Patient | Order, deleted: Collection[str], name: str) -> dict[str, Any]:
    """The known values with the new ones. None is unchanged; deleted fields are removed."""
    values = known.model_dump() | {field: value for field, value in new.model_dump().items() if value is not None}
    if isinstance(new, Patient) and new.sex is not None:
        values["sex_as_sent"] = new.sex_as_sent
    return {field: value for field, value in values.items() if f"{name}.{field}" not in deleted}
