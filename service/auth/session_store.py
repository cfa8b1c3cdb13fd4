"""Stores of sessions and of sign-ins in progress: in the memory of one process, or in a file that all workers share.

A store keeps at most so many records; a further one replaces the one that was unused for longest.
"""

import logging
import os
import sqlite3
from collections import OrderedDict
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import TypeAdapter

from service.concurrency.worker import Worker
from service.errors import NotReady

log = logging.getLogger(__name__)

Record = TypeVar("Record")
StoreName = Literal["sessions", "sign_ins"]
#: Most records of a store.
MAX_RECORDS = 10_000
#: Longest wait in s for another worker's write, which takes microseconds.
_BUSY_TIMEOUT_S = 1.0
_TABLE = """
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY,  -- the larger, the more recently used
    key TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
)"""


class SessionStore(Protocol[Record]):
    """Records by key. A key is the digest of a secret, never the secret."""

    def put(self, key: str, record: Record) -> None:
        """Add a record. If there are too many, the one that was unused for longest is removed."""

    def find(self, key: str) -> Record | None:
        """The record of a key, if there is one."""

    def update(self, key: str, record: Record) -> None:
        """Replace a record, which counts as use. One that was removed meanwhile stays removed."""

    def take(self, key: str) -> Record | None:
        """Remove and return a record, if there is one. Of several callers at once, one gets it."""

    def close(self) -> None:
        """Close the store. Other workers keep its records."""


class MemoryStore(Generic[Record]):
    """The records of a process that serves alone."""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._records: OrderedDict[str, Record] = OrderedDict()

    def put(self, key: str, record: Record) -> None:
        """Add a record. If there are too many, the one that was unused for longest is removed."""
        self._records[key] = record
        self._records.move_to_end(key)
        if len(self._records) > self._limit:
            self._records.popitem(last=False)

    def find(self, key: str) -> Record | None:
        """The record of a key, if there is one."""
        return self._records.get(key)

    def update(self, key: str, record: Record) -> None:
        """Replace a record, which counts as use. One that was removed meanwhile stays removed."""
        if key in self._records:
            self.put(key, record)

    def take(self, key: str) -> Record | None:
        """Remove and return a record, if there is one."""
        return self._records.pop(key, None)

    def close(self) -> None:
        """Nothing is open."""


class SharedStore(Generic[Record]):
    """The records of all workers: JSON in SQLite, in a file of mode 0600.

    A worker that is killed leaves all records; SQLite's write-ahead log ends its unfinished write. A lookup takes 8 µs
    and an update 20 µs, so they run on the event loop.

    Args:
        path: the file; the first process to open it creates it, `Worker.alone`.
        record_type: a type that pydantic writes as JSON and reads back unchanged.
    """

    def __init__(self, path: Path, record_type: type[Record], limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._json: TypeAdapter[Record] = TypeAdapter(record_type)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite gives its other files this mode
        # Opened in one thread and used in another, that of the event loop, one call at a time. No transaction spans
        # two statements. Nothing has to survive a power failure, so nothing waits for the disk.
        self._database = sqlite3.connect(path, _BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", _TABLE):
            self._database.execute(statement).close()

    def put(self, key: str, record: Record) -> None:
        """Add a record. If there are too many, the one that was unused for longest is removed."""
        self._execute("INSERT OR REPLACE INTO records (key, record) VALUES (?, ?)", key, self._written(record))
        self._execute(
            "DELETE FROM records WHERE id = (SELECT min(id) FROM records) AND (SELECT count(*) FROM records) > ?",
            self._limit,
        )

    def find(self, key: str) -> Record | None:
        """The record of a key, if there is one."""
        rows = self._execute("SELECT record FROM records WHERE key = ?", key).fetchall()
        return self._json.validate_json(rows[0][0]) if rows else None

    def update(self, key: str, record: Record) -> None:
        """Replace a record, which counts as use. One that was removed meanwhile stays removed."""
        self._execute(
            "UPDATE records SET id = (SELECT max(id) FROM records) + 1, record = ? WHERE key = ?",
            self._written(record),
            key,
        )

    def take(self, key: str) -> Record | None:
        """Remove and return a record, if there is one. Of several callers at once, one gets it."""
        found = self.find(key)
        return found if self._execute("DELETE FROM records WHERE key = ?", key).rowcount else None

    def close(self) -> None:
        """Close the file. Other workers keep its records."""
        self._database.close()

    def _written(self, record: Record) -> str:
        return self._json.dump_json(record).decode()

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute a statement.

        Raises:
            NotReady: the file cannot be used, such as on a full disk.
        """
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:
            log.error("Browser sessions: the file in the temporary folder cannot be used: %s", error)
            raise NotReady("browser sessions cannot be read or changed now; retry later") from None


def store_of(worker: Worker | None, name: StoreName, record_type: type[Record]) -> SessionStore[Record]:
    """The store of a process that serves alone, or the one that all workers share."""
    return MemoryStore() if worker is None else SharedStore(worker.session_store(name), record_type)
