"""Retention: erases patients' data, expires messages and deletes pictures after their days. All calls block."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from service.config.lis import LisSettings
from service.errors import Conflict
from service.lis.domain import erasure, specimens
from service.lis.picture_store import PictureStore
from service.lis.storage import expiry
from service.lis.storage.database import Database

log = logging.getLogger(__name__)

#: Specimens of one query, and messages of one transaction.
_AT_ONCE = 200


class Retention:
    """The retention of one laboratory. Several processes may run it at once.

    Every method may raise StorageUnavailable: what was done so far stays done.
    """

    def __init__(self, database: Database, lis: LisSettings) -> None:
        self._database = database
        self._patient_days, self._message_days = lis.patient_days, lis.message_days

    def erase_patients(self, picture_store: PictureStore | None) -> int:
        """Erase the patients' data that are due; returns the number of specimens."""
        if self._patient_days is None:
            return 0
        count, before = 0, _days_ago(self._patient_days)
        while due := self._due(before):
            erased = [self._erase(specimen_id, picture_store) for specimen_id in due]
            count += sum(erased)
            if not all(erased):  # another process erases or amends them: the next run sees what is left
                break
        return count

    def expire_messages(self) -> int:
        """Expire the messages that are due; returns the number of emptied ones."""
        if self._message_days is None:
            return 0
        count, found, before = 0, _AT_ONCE, _days_ago(self._message_days)
        while found == _AT_ONCE:
            with self._database.writing() as session:
                found = expiry.expire(session, before, _AT_ONCE)
            count += found
        return count

    def delete_pictures(self, picture_store: PictureStore) -> int:
        """Delete the pictures that are due, and settle staged files that were left; returns the number of due files."""
        picture_store.settle_left(self.pictures_needed)
        return picture_store.delete_expired(self._in_use, self.pictures_needed)

    def pictures_needed(self, pictures: Sequence[str]) -> set[str]:
        """Those of the pictures that a specimen with its patient's data has."""
        with self._database.reading() as session:
            return erasure.pictures_needed(session, pictures)

    def empty_log(self) -> None:
        """Delete what was erased or expired from the log of SQLite too, unless it is in use: then the next run does."""
        self._database.empty_log()

    def _due(self, before: datetime) -> Sequence[str]:
        with self._database.reading() as session:
            return erasure.due(session, before, _AT_ONCE)

    def _erase(self, specimen_id: str, picture_store: PictureStore | None) -> bool:
        """Erase one specimen; False if it has changed since it was found."""
        try:
            with self._database.writing() as session:
                row = specimens.lock(session, specimen_id, *erasure.ERASABLE)
                pictures = erasure.erase(session, row, expiry.RETENTION, f"{self._patient_days} days have passed")
        except Conflict:
            return False
        if picture_store is not None:
            picture_store.delete(pictures, self.pictures_needed)
        return True

    def _in_use(self, pictures: Sequence[str]) -> set[str]:
        with self._database.reading() as session:
            return erasure.pictures_in_use(session, pictures)


def _days_ago(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)
