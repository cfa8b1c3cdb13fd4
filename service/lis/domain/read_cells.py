"""The cells of all specimens that people have read, with pseudonyms for patients."""

import hmac
import json
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.lis.domain.specimens import CHANGEABLE
from service.lis.storage import audit
from service.lis.storage.states import State
from service.lis.storage.tables import CellRow, PseudonymKeyRow, SpecimenRow
from service.lis.training_list import ReadCell

#: Specimens whose cells are listed. A cancelled one may have been the wrong patient's.
_STATES = (*CHANGEABLE, State.SIGNED)
_PAGE = 1000


def list_read_cells(session: Session) -> list[ReadCell]:
    """Each picture that a person has read, once, with its latest reading, in the order of the readings."""
    patients = _pseudonyms(session)
    wanted = select(CellRow).where(CellRow.read_by.is_not(None), CellRow.specimen.in_(_listed_specimens()))
    rows = session.scalars(wanted.order_by(CellRow.read_at, CellRow.row).execution_options(yield_per=_PAGE))
    latest: dict[str, ReadCell] = {}
    for row in rows:
        latest.pop(row.sha256, None)
        latest[row.sha256] = _read_cell(row, patients[row.specimen])
    return list(latest.values())


def export_read_cells(session: Session, actor: Actor) -> list[ReadCell]:
    """`list_read_cells`, for a training list. The audit trail records it."""
    found = list_read_cells(session)
    audit.record(session, actor, "export", cells=len(found))
    return found


def _listed_specimens() -> Any:
    return select(SpecimenRow.row).where(SpecimenRow.state.in_(_STATES))


def _read_cell(row: CellRow, patient: str) -> ReadCell:
    assert row.read_by is not None and row.read_at is not None, "the query takes read cells only"
    return ReadCell(row.sha256, row.code, patient, row.read_by, row.suggested, row.probability, row.model, row.read_at)


def _pseudonyms(session: Session) -> dict[int, str]:
    """The pseudonym of each listed specimen's patient, by the row of the specimen."""
    key = bytes.fromhex(session.scalars(select(PseudonymKeyRow)).one().key)
    wanted = select(SpecimenRow.row, SpecimenRow.patient).where(SpecimenRow.state.in_(_STATES))
    return dict(_named(key, *row) for row in session.execute(wanted))


def _named(key: bytes, row: int, patient: dict[str, Any]) -> tuple[int, str]:
    """HMAC-SHA256 of authority and number: the same patient has the same pseudonym in each list of this database."""
    number = json.dumps([patient.get("authority"), patient["identifier"]], ensure_ascii=False)
    return row, hmac.new(key, number.encode(), sha256).hexdigest()[:16]
