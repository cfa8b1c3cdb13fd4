"""Which keys have come already, for millions of them: on disk, so that memory does not grow. Knows no pictures."""

import hashlib
import sqlite3
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_DIGEST_BYTES = 16  # two of 10^9 keys share one with a probability of 1e-21


class Seen:
    """Keys and where each was first. A context; the file goes with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="marrowlens-")
        self._database = sqlite3.connect(Path(self._folder.name, "keys.db"), isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()

    def earlier(self, key: str, place: str) -> str | None:
        """Where this key came before, or None: then its place is noted."""
        digest = hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest()
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, place)).rowcount
        if added:
            return None
        (found,) = self._database.execute("SELECT place FROM seen WHERE digest = ?", (digest,)).fetchone()
        return str(found)
