"""The memory that bodies of all requests in flight take together, leased to each as it needs it.

Counts bytes and refuses. Knows no bodies: whoever holds bytes says how many.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import UploadMemoryExhausted


class UploadMemory:
    """The memory that bodies of all requests in flight may take together, in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.in_use_bytes = 0

    @contextmanager
    def lease(self) -> Iterator["Lease"]:
        """What one request takes, given back when its work ends."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.in_use_bytes -= lease.taken_bytes


@dataclass(slots=True)
class Lease:
    """One request's part of the upload memory."""

    memory: UploadMemory
    taken_bytes: int = 0

    def take(self, count: int) -> None:
        """Take more, or give back a negative count.

        Raises:
            UploadMemoryExhausted: other requests hold the rest.
        """
        if count > 0 and self.memory.in_use_bytes + count > self.memory.limit_bytes:
            raise UploadMemoryExhausted(self.memory.limit_bytes)
        self.memory.in_use_bytes += count
        self.taken_bytes += count

    def resize(self, count: int) -> None:
        """Hold so many bytes in all, from now on.

        Raises:
            UploadMemoryExhausted: other requests hold what is missing; this one holds what it held.
        """
        self.take(count - self.taken_bytes)
