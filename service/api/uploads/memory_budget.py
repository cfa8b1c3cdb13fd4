"""The memory that requests in flight take for bodies and collected answers, leased to each as it needs it.

Counts bytes, of all callers together and of each of them, and refuses. Knows no bodies: the holder says how many.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import UploadMemoryExhausted


class UploadMemory:
    """The memory that all requests in flight may take together, in bytes, and the part of it that one caller may."""

    def __init__(self, limit_bytes: int, caller_limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.caller_limit_bytes = limit_bytes if caller_limit_bytes is None else caller_limit_bytes
        self.in_use_bytes = 0
        self._of_callers: Counter[str] = Counter()

    @contextmanager
    def lease(self, caller: str = "") -> Iterator["Lease"]:
        """What one request of a caller takes, given back when its work ends."""
        lease = Lease(self, caller)
        try:
            yield lease
        finally:
            lease.take(-lease.taken_bytes)

    def take(self, caller: str, count: int) -> None:
        """Count more bytes for a caller, or fewer.

        Raises:
            UploadMemoryExhausted: the caller, or all callers together, would hold more than is allowed.
        """
        held = self._of_callers[caller] + count
        if count > 0 and held > self.caller_limit_bytes:
            raise UploadMemoryExhausted(self.caller_limit_bytes, "your")
        if count > 0 and self.in_use_bytes + count > self.limit_bytes:
            raise UploadMemoryExhausted(self.limit_bytes, "all")
        self.in_use_bytes += count
        if held:
            self._of_callers[caller] = held
        else:
            del self._of_callers[caller]  # callers are many, and most of them hold nothing


@dataclass(slots=True)
class Lease:
    """One request's part of the upload memory."""

    memory: UploadMemory
    caller: str = ""
    taken_bytes: int = 0

    def take(self, count: int) -> None:
        """Take more, or give back a negative count.

        Raises:
            UploadMemoryExhausted: other requests hold the rest.
        """
        self.memory.take(self.caller, count)
        self.taken_bytes += count

    def resize(self, count: int) -> None:
        """Hold so many bytes in all, from now on.

        Raises:
            UploadMemoryExhausted: other requests hold what is missing; this one holds what it held.
        """
        self.take(count - self.taken_bytes)
