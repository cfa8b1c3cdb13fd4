"""What a scoring run has done so far, in one SQLite file beside its table, so that it can be stopped at any moment.

Knows rows, problems and transactions. Knows no pictures and no table formats. A run that is killed loses what came
after its last commit and nothing else: SQLite's rollback journal sees to that.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from model.atomic_file import is_link
from service.scoring.tables import Columns, Scored, TableError

COMMIT_EVERY_S = 1.0
#: What SQLite opens beside a database, and the database itself.
_FILES = ("", "-journal", "-wal", "-shm")
_SCHEMA = """
CREATE TABLE run (model_sha256 TEXT NOT NULL, codes TEXT NOT NULL);
CREATE TABLE scored (path TEXT PRIMARY KEY, probabilities BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE problem (path TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""


class Ledger:
    """The open ledger of one run; a context. It can be open in one process at a time.

    It is kept when the context ends by an exception, for the next run to go on with, and removed when it ends well.
    Problems are of this run alone: pictures that failed are tried again by the next one.

    Raises:
        TableError: it belongs to another model, is open elsewhere, is no ledger, or it or its journal is a link.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        before: Callable[[], Iterable[Scored]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        for name in _FILES:
            if is_link(path.with_name(path.name + name)):
                raise TableError(path.with_name(path.name + name), "is a link or no ordinary file; remove it")
        self._clock = clock
        self._committed = clock()
        self._worth_keeping = path.exists()
        self._database = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._begin(columns, before)
        except sqlite3.OperationalError as error:
            self._close()
            raise TableError(path, f"cannot be used ({error}); is another run still writing it?") from error
        except sqlite3.DatabaseError as error:
            self._close()
            raise TableError(path, "is not the ledger of a run; move it away") from error
        except BaseException:
            self._close()
            raise

    def _begin(self, columns: Columns, before: Callable[[], Iterable[Scored]]) -> None:
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("BEGIN EXCLUSIVE")
        known = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        run = (columns.model_sha256, " ".join(columns.codes))
        if known:
            (found,) = self._database.execute("SELECT model_sha256, codes FROM run")
            if found != run:
                raise TableError(self.path, f"was begun with model {found[0][:12]}…, this is model {run[0][:12]}…")
            self._database.execute("DELETE FROM problem")
        else:  # with what the table already holds, in one transaction: never a ledger with a part of it
            for statement in _SCHEMA.split(";"):
                self._database.execute(statement)
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
            self._worth_keeping &= error is not None
            self._close()

    def _close(self) -> None:
        self._database.close()
        if not self._worth_keeping:
            self.path.unlink(missing_ok=True)

    def __contains__(self, path: str) -> bool:
        return self._database.execute("SELECT 1 FROM scored WHERE path = ?", (path,)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM scored").fetchone()[0])

    def add(self, scored: Scored) -> None:
        """Note a picture's row. It is safe on disk within about a second."""
        self._worth_keeping = True
        self._insert(scored)
        self._commit_now_and_then()

    def refuse(self, path: str, reason: str) -> None:
        """Note a picture that could not be scored, and why."""
        self._database.execute("INSERT OR REPLACE INTO problem VALUES (?, ?)", (path, reason))
        self._commit_now_and_then()

    def rows(self) -> Iterator[Scored]:
        """All rows by path, so that a table is the same however often its run was interrupted."""
        for path, blob in self._database.execute("SELECT path, probabilities FROM scored ORDER BY path"):
            yield Scored(path, np.frombuffer(blob, "<f4"))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Path and reason of each picture that this run could not score, by path."""
        yield from self._database.execute("SELECT path, reason FROM problem ORDER BY path")

    def _insert(self, scored: Scored) -> None:
        blob = scored.probabilities.astype("<f4").tobytes()
        self._database.execute("INSERT OR REPLACE INTO scored VALUES (?, ?)", (scored.path, blob))

    def _commit_now_and_then(self) -> None:
        if self._clock() - self._committed >= COMMIT_EVERY_S:
            self._commit()

    def _commit(self) -> None:
        self._database.execute("COMMIT")
        self._database.execute("BEGIN EXCLUSIVE")
        self._committed = self._clock()
