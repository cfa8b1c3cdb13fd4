"""The second reader: another person than the signer confirms the cells before the signature.

A confirmation holds for the cells as they were. Each new cell, reading or removal ends it. All functions run in the
caller's transaction.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.errors import NotReviewed
from service.lis.storage import audit
from service.lis.storage.tables import CellRow, SecondReadingRow, SpecimenRow


def confirm(session: Session, specimen: SpecimenRow, reader: Actor) -> SecondReadingRow:
    """Record that a person confirms the cells of a locked specimen.

    Raises:
        NotReviewed: the specimen has no cell.
    """
    if not specimen.cells:
        raise NotReviewed("the specimen has no cell; add cells first")
    versions, last_place = _cell_state(session, specimen)
    row = SecondReadingRow(
        specimen=specimen.row,
        by=reader.name,
        identity=reader.identity.details(),
        at=datetime.now(UTC),
        cells=specimen.cells,
        versions=versions,
        last_place=last_place,
    )
    session.add(row)
    session.flush()
    audit.record(session, reader, "second-reading", specimen.id, cells=specimen.cells, revision=specimen.revision)
    return row


def list_confirmations(session: Session, specimen: SpecimenRow) -> Sequence[SecondReadingRow]:
    """All confirmations of a specimen, the latest first."""
    wanted = select(SecondReadingRow).where(SecondReadingRow.specimen == specimen.row)
    return session.scalars(wanted.order_by(SecondReadingRow.row.desc())).all()


def is_current(session: Session, specimen: SpecimenRow, row: SecondReadingRow) -> bool:
    """Whether the cells are those that were confirmed."""
    return (row.cells, row.versions, row.last_place) == (specimen.cells, *_cell_state(session, specimen))


def second_reader(session: Session, specimen: SpecimenRow, signer: Actor) -> str:
    """The name of the person who has confirmed the cells of a locked specimen.

    Raises:
        NotReviewed: nobody has confirmed the current cells, or only the signer has.
    """
    readers = list(_current_readers(session, specimen))
    if not readers:
        raise NotReviewed(
            "no second reader has confirmed the cells as they are now; a second person confirms them with "
            "POST /specimens/{specimen_id}/second-reading"
        )
    other = next((row.by for row in readers if not _is_same_person(row, signer)), None)
    if other is None:
        raise NotReviewed("the second reader and the signer are the same person; another person must sign or confirm")
    return other


def _current_readers(session: Session, specimen: SpecimenRow) -> Iterator[SecondReadingRow]:
    return (row for row in list_confirmations(session, specimen) if is_current(session, specimen, row))


def _is_same_person(row: SecondReadingRow, signer: Actor) -> bool:
    """One name is one person, also with two credentials; one subject of the issuer is one person with two names."""
    if row.by.casefold() == signer.name.casefold():
        return True
    return signer.identity.kind == "token" and row.identity == signer.identity.details()


def _cell_state(session: Session, specimen: SpecimenRow) -> tuple[int, int]:
    """The sum of the cells' versions, and the last place.

    After each new cell, reading or removal one of them, or `specimen.cells`, differs.
    """
    wanted = select(func.sum(CellRow.version), func.max(CellRow.place)).where(CellRow.specimen == specimen.row)
    versions, last_place = session.execute(wanted).one()
    return int(versions or 0), int(last_place or 0)
