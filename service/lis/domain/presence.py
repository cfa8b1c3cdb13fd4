"""Who has a specimen open now, and which cell or class they look at. All functions run in the caller's transaction.

The database is what all workers and replicas of a laboratory share. A page says every few seconds that it is still
open; one that is silent is taken for closed. This is no change of the specimen: its revision and the audit trail stay.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.lis.storage.tables import PresenceRow, SpecimenRow

#: A page that is silent for so long is closed. Pages speak every 10 s.
SILENCE = timedelta(seconds=30)
#: Most pages that a list shows.
_MOST = 50


def announce(
    session: Session, specimen: SpecimenRow, page: str, actor: Actor, place: int | None, code: str | None
) -> None:
    """Record that a person has the specimen open in a page, and what they look at."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    look = {"specimen": specimen.row, "place": place, "code": code, "seen_at": datetime.now(UTC)}
    row = dialect.insert(PresenceRow).values(page=page, person=actor.name, **look)
    session.execute(row.on_conflict_do_update(index_elements=[PresenceRow.page, PresenceRow.person], set_=look))


def leave(session: Session, page: str, actor: Actor) -> None:
    """Forget a page of this person."""
    session.execute(delete(PresenceRow).where(PresenceRow.page == page, PresenceRow.person == actor.name))


def list_present(session: Session, specimen: SpecimenRow) -> Sequence[PresenceRow]:
    """The open pages of a specimen, by person."""
    is_open = PresenceRow.specimen == specimen.row, PresenceRow.seen_at > datetime.now(UTC) - SILENCE
    wanted = select(PresenceRow).where(*is_open).order_by(PresenceRow.person, PresenceRow.page)
    return session.scalars(wanted.limit(_MOST)).all()


def forget_silent(session: Session) -> None:
    """Delete the pages of all specimens that are silent."""
    session.execute(delete(PresenceRow).where(PresenceRow.seen_at < datetime.now(UTC) - SILENCE))
