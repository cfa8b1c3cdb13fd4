"""Counts that all workers of a service share: open connections and upload memory, a row for each worker.

A memory-mapped file. A lock is a record lock of the file, so the kernel frees it when its holder is killed.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Self

from service.concurrency.worker import Worker

_BYTES = 8
#: Connections of a worker that does not run: no other worker leaves a connection to it.
ABSENT = 2**62


class Column(IntEnum):
    """What is counted."""

    CONNECTIONS = 0
    MEMORY = 1


class SharedCounts:
    """The table of all workers: each writes its own row and reads all rows.

    Args:
        path: the file; the first process to open it creates it.
        row: the row that this process writes.
    """

    def __init__(self, path: Path, rows: int, row: int = 0) -> None:
        self._row = row
        size = rows * len(Column) * _BYTES
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, size)
        self._cells = memoryview(mmap.mmap(self._file, size)).cast("q")

    @classmethod
    def of(cls, worker: Worker) -> Self:
        """The table of a worker's service."""
        return cls(worker.counts, worker.count, worker.index)

    def set(self, column: Column, value: int) -> None:
        """Set this process's count."""
        self._cells[self._row * len(Column) + column] = value

    def least(self, column: Column) -> int:
        """The smallest count of all workers."""
        return min(self._cells[column :: len(Column)])

    def add_within(self, column: Column, count: int, limit: int) -> bool:
        """Add to this process's count, unless the sum over all workers would exceed the limit; whether it was added.

        A negative count is always added.
        """
        with self._locked(column):
            if count > 0 and sum(self._cells[column :: len(Column)]) + count > limit:
                return False
            self._cells[self._row * len(Column) + column] += count
            return True

    def clear(self, row: int) -> None:
        """Clear the row of a worker that does not run."""
        self._cells[row * len(Column) + Column.CONNECTIONS] = ABSENT
        self._cells[row * len(Column) + Column.MEMORY] = 0

    @contextmanager
    def _locked(self, column: Column) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, column)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, column)
