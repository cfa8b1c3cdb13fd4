"""Erasure of a patient's data: what identifies the patient goes, counts and the audit trail stay.

All functions run in the caller's transaction.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.errors import Conflict
from service.lis.storage import audit, outbox
from service.lis.storage.digests import cells_digest
from service.lis.storage.outbox import DeliveryInProgress
from service.lis.storage.states import MessageState, State
from service.lis.storage.tables import AuditRow, CellRow, MessageRow, PatientNumberRow, ReportRow, SpecimenRow

#: States in which a patient's data can be erased.
ERASABLE = (State.SIGNED, State.CANCELLED)
#: The identifier of an erased patient.
ERASED = {"identifier": "erased"}


def erase(session: Session, specimen: SpecimenRow, actor: Actor, reason: str) -> list[str]:
    """Erase the patient's data of a locked specimen; its undelivered messages are dropped.

    Returns:
        Hashes of the pictures that no other specimen needs.

    Raises:
        Conflict: a message of the specimen is being sent.
    """
    messages, dropped = _empty_messages(session, specimen)
    reports = session.scalars(select(ReportRow).where(ReportRow.specimen == specimen.row)).all()
    for report in reports:
        report.document = ""
    cells = session.scalars(select(CellRow).where(CellRow.specimen == specimen.row).order_by(CellRow.place)).all()
    for cell in cells:
        cell.key = None
    session.execute(delete(PatientNumberRow).where(PatientNumberRow.specimen == specimen.row))
    specimen.number = specimen.key = f"erased-{specimen.id}"
    specimen.patient, specimen.order, specimen.merged_at = ERASED, {}, None
    specimen.placer_number = specimen.filler_number = specimen.collected_at = specimen.correction = None
    specimen.megakaryocyte_assessment = specimen.cellularity = specimen.assessed_by = specimen.comment = None
    specimen.digest_key = None  # what the trail keeps of the data are digests under this key
    specimen.state = State.ERASED
    specimen.revision += 1
    session.flush()
    of_cells = {cell.sha256 for cell in cells}
    pictures = sorted(of_cells - pictures_needed(session, sorted(of_cells)))
    erased = {"messages": messages, "dropped": dropped, "reports": len(reports), "pictures": len(pictures)}
    digest = cells_digest(specimen, cells)
    audit.record_change(
        session, actor, "erase", specimen, reason=reason, **erased, places=len(cells), cells_digest=digest
    )
    return pictures


def _empty_messages(session: Session, specimen: SpecimenRow) -> tuple[list[str], list[str]]:
    """Empty all messages of the specimen; returns their control ids, and those that were dropped for it."""
    wanted = select(MessageRow).where(MessageRow.specimen == specimen.row).order_by(MessageRow.row)
    messages = session.scalars(wanted.with_for_update().execution_options(populate_existing=True)).all()
    try:
        dropped = [message.control_id for message in messages if outbox.empty(message)]
    except DeliveryInProgress as error:
        raise Conflict("a report of the specimen is being sent; try again in a minute") from error
    return [message.control_id for message in messages], dropped


def due(session: Session, before: datetime, limit: int) -> Sequence[str]:
    """Ids of specimens signed or cancelled for the last time before a time, without undelivered messages."""
    last = (
        select(func.max(AuditRow.at))
        .where(AuditRow.specimen_id == SpecimenRow.id, AuditRow.action.in_(("sign", "cancel")))
        .scalar_subquery()
    )
    unsettled = (
        select(MessageRow.row)
        .where(
            MessageRow.specimen == SpecimenRow.row,
            MessageRow.state.in_((MessageState.WAITING, MessageState.HELD, MessageState.DEAD)),
        )
        .exists()
    )
    wanted = select(SpecimenRow.id).where(SpecimenRow.state.in_(ERASABLE), ~unsettled, last < audit.timestamp(before))
    return session.scalars(wanted.order_by(SpecimenRow.row).limit(limit)).all()


def pictures_needed(session: Session, pictures: Sequence[str]) -> set[str]:
    """Those of the pictures that a specimen has that is not erased; one with a removed cell does not need it."""
    needed = (
        select(CellRow.sha256)
        .join(SpecimenRow, SpecimenRow.row == CellRow.specimen)
        .where(CellRow.sha256.in_(pictures), CellRow.removed_at.is_(None), SpecimenRow.state != State.ERASED)
    )
    return set(session.scalars(needed))


def pictures_in_use(session: Session, pictures: Sequence[str]) -> set[str]:
    """Those of the pictures that an open or amended specimen has."""
    wanted = (
        select(CellRow.sha256)
        .join(SpecimenRow, SpecimenRow.row == CellRow.specimen)
        .where(
            CellRow.sha256.in_(pictures),
            CellRow.removed_at.is_(None),
            SpecimenRow.state.in_((State.OPEN, State.AMENDING)),
        )
    )
    return set(session.scalars(wanted))
