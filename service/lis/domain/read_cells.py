"""The cells of all specimens that people have read, with pseudonyms for patients."""

import hmac
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.auth.identity import Actor
from service.lis.domain.specimens import CHANGEABLE
from service.lis.storage import audit
from service.lis.storage.states import State
from service.lis.storage.tables import CellRow, PseudonymKeyRow, SpecimenRow
from service.lis.training_list import ReadCell

#: Specimens whose cells are listed. A cancelled one may have been the wrong patient's.
_STATES = (*CHANGEABLE, State.SIGNED)
#: Of a cell: picture, and the fields of `ReadCell` after `patient`.
_COLUMNS: tuple[InstrumentedAttribute[Any], ...] = (
    CellRow.sha256,
    CellRow.code,
    CellRow.read_by,
    CellRow.suggested,
    CellRow.probability,
    CellRow.model,
    CellRow.read_at,
)
_PAGE = 1000


def list_read_cells(session: Session) -> list[ReadCell]:
    """Each picture that a person has read, once, with its latest reading, in the order of the readings."""
    patients = _pseudonyms(session)
    are_read = CellRow.read_by.is_not(None), CellRow.removed_at.is_(None)
    wanted = select(CellRow.specimen, *_COLUMNS).where(*are_read).order_by(CellRow.read_at)
    latest: dict[str, ReadCell] = {}
    for specimen, picture, *reading in session.execute(wanted.execution_options(yield_per=_PAGE)):
        if specimen in patients:
            latest.pop(picture, None)
            latest[picture] = ReadCell(picture, patients[specimen], *reading)
    return list(latest.values())


def export_read_cells(session: Session, actor: Actor) -> list[ReadCell]:
    """`list_read_cells`, for a training list. The audit trail records it."""
    found = list_read_cells(session)
    audit.record(session, actor, "export", cells=len(found))
    return found


def _pseudonyms(session: Session) -> dict[int, str]:
    """The pseudonym of each listed specimen's patient, by the row of the specimen."""
    key = bytes.fromhex(session.scalars(select(PseudonymKeyRow)).one().key)
    wanted = select(SpecimenRow.row, SpecimenRow.patient).where(SpecimenRow.state.in_(_STATES))
    return {row: _pseudonym(key, patient) for row, patient in session.execute(wanted)}


def _pseudonym(key: bytes, patient: dict[str, Any]) -> str:
    """HMAC-SHA256 of the patient's number: the same in each list of this database.

    Without the authority, because one order may name it and another one not. Two patients with one number share a
    pseudonym; that only keeps their cells together.
    """
    return hmac.new(key, patient["identifier"].encode(), sha256).hexdigest()[:16]
