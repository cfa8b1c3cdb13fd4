"""The use cases of presence: who has a specimen open now. All calls block, and may raise StorageUnavailable."""

from service.auth.identity import Actor
from service.lis.domain import presence, specimens
from service.lis.schemas import Look
from service.lis.storage.database import Database


class Presence:
    """The open pages of one laboratory's specimens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def announce(self, specimen_id: str, page: str, look: Look, actor: Actor) -> None:
        """Record that a page of a person is open, and what they look at. Raises UnknownSpecimen."""
        with self._database.writing() as session:
            specimen = specimens.get(session, specimen_id)
            presence.announce(session, specimen, page, actor, look.place, look.code)

    def leave(self, page: str, actor: Actor) -> None:
        """Forget a page of a person."""
        with self._database.writing() as session:
            presence.leave(session, page, actor)

    def forget_silent(self) -> None:
        """Delete the pages that are silent."""
        with self._database.writing() as session:
            presence.forget_silent(session)
