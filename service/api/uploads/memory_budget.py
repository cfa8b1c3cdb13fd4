"""Limits of request bodies: sizes, timeouts, and the memory that all requests in flight share."""

from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from service.concurrency.shared_counts import Column, SharedCounts
from service.errors import UploadMemoryExhausted


@dataclass(frozen=True, slots=True)
class TransferTimeouts:
    """How long to wait for a client that sends a body or reads an answer.

    Attributes:
        max_pause_s: the longest pause, and how far a transfer may fall behind the minimum rate.
        total_s: for the whole transfer, whatever its size.
    """

    max_pause_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Maximum sizes of a request body, and its timeouts."""

    max_body_bytes: int
    max_picture_bytes: int
    max_pictures: int
    timeouts: TransferTimeouts


class MemoryBudget:
    """Memory for the bodies and buffered answers of all requests in flight, in bytes.

    Args:
        limit_bytes: for all callers together.
        caller_limit_bytes: for each caller; default: all of it.
        counts: of all workers, which share the limit of all callers; each worker counts its callers for itself.
    """

    def __init__(
        self, limit_bytes: int, caller_limit_bytes: int | None = None, counts: SharedCounts | None = None
    ) -> None:
        self.limit_bytes = limit_bytes
        self._counts = counts
        self.caller_limit_bytes = limit_bytes if caller_limit_bytes is None else caller_limit_bytes
        self.in_use_bytes = 0
        self._per_caller: Counter[str] = Counter()

    def reserve(self, caller: str = "") -> "MemoryReservation":
        """An empty reservation for one request; it is released at the end of its `with` block."""
        return MemoryReservation(self, caller)

    def add(self, caller: str, count: int) -> None:
        """Reserve `count` more bytes for a caller; a negative count releases them.

        Raises:
            UploadMemoryExhausted: over the limit of this caller, or of all callers together.
        """
        held = self._per_caller[caller] + count
        if count > 0 and held > self.caller_limit_bytes:
            raise UploadMemoryExhausted(self.caller_limit_bytes, "your")
        if not self._fits(count):
            raise UploadMemoryExhausted(self.limit_bytes, "all")
        self.in_use_bytes += count
        if held:
            self._per_caller[caller] = held
        else:
            del self._per_caller[caller]  # keeps the counter small: most callers hold nothing

    def _fits(self, count: int) -> bool:
        """Whether `count` more bytes are within the limit; of several workers, they are reserved for all to see."""
        if self._counts is not None:
            return self._counts.add_within(Column.MEMORY, count, self.limit_bytes)
        return count <= 0 or self.in_use_bytes + count <= self.limit_bytes


@dataclass(slots=True)
class MemoryReservation:
    """The part of a memory budget that one request holds, released at the end of its `with` block."""

    budget: MemoryBudget
    caller: str = ""
    reserved_bytes: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.add(-self.reserved_bytes)

    def add(self, count: int) -> None:
        """Reserve `count` more bytes; a negative count releases them.

        Raises:
            UploadMemoryExhausted: over the limit of this caller, or of all callers together.
        """
        self.budget.add(self.caller, count)
        self.reserved_bytes += count

    def resize(self, count: int) -> None:
        """Hold `count` bytes in total.

        Raises:
            UploadMemoryExhausted: over a limit; the reservation keeps its size.
        """
        self.add(count - self.reserved_bytes)
