"""The checkpoint of a scoring run: one SQLite file beside its table.

A run that is killed loses only the pictures since its last commit, about a second's: SQLite's rollback journal ensures
that.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import orjson

from model.atomic_file import is_link
from service.scoring.tables import DECISION_COLUMNS, Columns, DecisionColumns, ScoredPicture, TableError

COMMIT_EVERY_S = 1.0
#: Suffixes of the database and of the files that SQLite opens beside it.
_FILES = ("", "-journal", "-wal", "-shm")
#: Increased with every change of the schema.
_VERSION = 1
_SCHEMA = """
CREATE TABLE run (model_sha256 TEXT NOT NULL, codes TEXT NOT NULL);
CREATE TABLE scored (path TEXT PRIMARY KEY, probabilities BLOB NOT NULL, decided TEXT) WITHOUT ROWID;
CREATE TABLE problem (path TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""


class Checkpoint:
    """The open checkpoint of one run; a context manager. One process at a time can open it.

    If the block ends with an exception, the file is kept for the next run to resume; otherwise it is removed. Problems
    are those of this run: the next run tries these pictures again.

    Args:
        before: the rows of an existing table, for a new checkpoint.

    Raises:
        TableError: another model's, open in another process, not a checkpoint, or it or its journal is a link.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        before: Callable[[], Iterable[ScoredPicture]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        for name in _FILES:
            if is_link(path.with_name(path.name + name)):
                raise TableError(path.with_name(path.name + name), "is a link or not a regular file; remove it")
        self._clock = clock
        self._committed = clock()
        self._keep = path.exists()
        self._database = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._begin(columns, before)
        except sqlite3.OperationalError as error:
            self._close()
            raise TableError(path, f"cannot be used ({error}); is another run still active?") from error
        except sqlite3.DatabaseError as error:
            self._close()
            raise TableError(path, "is not a checkpoint of `marrowlens score`; move it away") from error
        except BaseException:
            self._close()
            raise

    def _begin(self, columns: Columns, before: Callable[[], Iterable[ScoredPicture]]) -> None:
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("BEGIN EXCLUSIVE")
        known = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        run = (columns.model, " ".join(columns.codes))
        if known:
            if self._database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                raise TableError(self.path, "is of another version of marrowlens; move it away")
            (found,) = self._database.execute("SELECT model_sha256, codes FROM run")
            if found != run:
                raise TableError(
                    self.path,
                    "belongs to another model, or to other thresholds or reviewed classes; choose another --out",
                )
            self._database.execute("DELETE FROM problem")
        else:  # in one transaction with the rows of the table
            for statement in _SCHEMA.split(";"):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
            self._database.execute("INSERT INTO run VALUES (?, ?)", run)
            for scored in before():
                self._insert(scored)
        self._commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._database.execute("COMMIT")
        finally:
            self._keep &= error is not None
            self._close()

    def _close(self) -> None:
        self._database.close()
        if not self._keep:
            self.path.unlink(missing_ok=True)

    def __contains__(self, path: str) -> bool:
        return self._database.execute("SELECT 1 FROM scored WHERE path = ?", (path,)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM scored").fetchone()[0])

    def add(self, scored: ScoredPicture) -> None:
        """Store a picture's row; it is on disk within about a second."""
        self._keep = True
        self._insert(scored)
        self._commit_periodically()

    def add_problem(self, path: str, reason: str) -> None:
        """Store why a picture could not be scored."""
        self._database.execute("INSERT OR REPLACE INTO problem VALUES (?, ?)", (path, reason))
        self._commit_periodically()

    def rows(self) -> Iterator[ScoredPicture]:
        """All rows, sorted by path: the table does not depend on interruptions."""
        rows = self._database.execute("SELECT path, probabilities, decided FROM scored ORDER BY path")
        for path, blob, decided in rows:
            found = None if decided is None else DecisionColumns.read(orjson.loads(decided))
            yield ScoredPicture(path, np.frombuffer(blob, "<f4"), found)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Path and reason of each picture that this run could not score, sorted by path."""
        yield from self._database.execute("SELECT path, reason FROM problem ORDER BY path")

    def _insert(self, scored: ScoredPicture) -> None:
        blob = scored.probabilities.astype("<f4").tobytes()
        row = None if scored.decided is None else dict(zip(DECISION_COLUMNS, scored.decided.columns(), strict=True))
        decided = None if row is None else orjson.dumps(row).decode()
        self._database.execute("INSERT OR REPLACE INTO scored VALUES (?, ?, ?)", (scored.path, blob, decided))

    def _commit_periodically(self) -> None:
        if self._clock() - self._committed >= COMMIT_EVERY_S:
            self._commit()

    def _commit(self) -> None:
        self._database.execute("COMMIT")
        self._database.execute("BEGIN EXCLUSIVE")
        self._committed = self._clock()
