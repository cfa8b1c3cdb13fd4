"""Cells of signed specimens that people have read: examples of their classes.

Pictures of a patient are examples only while the specimen is signed: not while it is amended, and never once it is
cancelled or erased. All functions run in the caller's transaction.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.lis.storage.states import State
from service.lis.storage.tables import CellRow, SpecimenRow


def list_signed_pictures(session: Session, code: str, limit: int) -> Sequence[str]:
    """SHA-256 of the pictures of a class, the most recently read first."""
    wanted = select(CellRow.sha256).join(SpecimenRow, SpecimenRow.row == CellRow.specimen)
    return session.scalars(wanted.where(*_examples(code)).order_by(CellRow.read_at.desc()).limit(limit)).all()


def specimen_of_picture(session: Session, code: str, sha256: str) -> str | None:
    """The id of a specimen whose signed cell of this class has the picture; None if there is none."""
    wanted = select(SpecimenRow.id).join(CellRow, SpecimenRow.row == CellRow.specimen)
    return session.scalars(wanted.where(*_examples(code), CellRow.sha256 == sha256).limit(1)).first()


def _examples(code: str) -> tuple[ColumnElement[Any], ...]:
    is_read = CellRow.code == code, CellRow.read_at.is_not(None), CellRow.removed_at.is_(None)
    return (*is_read, SpecimenRow.state == State.SIGNED)
