"""Timestamps of an item on its way through the batcher, for traces. All are on the batcher's monotonic clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

#: Why a batch was started: full; the runner was idle and no queue delay is set; the queue delay passed; an item's
#: deadline was near; the batcher is closing.
FlushReason = Literal["full", "idle", "delay", "deadline", "drain"]


@dataclass(slots=True, eq=False)
class BatchRun:
    """One call for a batch, times in s. `exported` holds the recorder's span, made once for all items."""

    started: float
    ended: float
    items: int
    reason: FlushReason
    failed: bool
    timings: "Sequence[ItemTiming]" = ()  # of items with an owner
    exported: object = None


@dataclass(slots=True, eq=False)
class ItemTiming:
    """Timestamps of one item; None for stages not reached. Without an `owner` they are not read."""

    owner: object = None
    queued_at: float = 0.0
    prepare_began: float | None = None
    prepared_at: float | None = None
    run: BatchRun | None = None

    def prepare_s(self) -> float:
        """Preparation time in s; 0 before its end."""
        if self.prepare_began is None or self.prepared_at is None:
            return 0.0
        return self.prepared_at - self.prepare_began


class BatchObserver(Protocol):
    """Called after each batch, once its results are delivered. Its exceptions go to the event loop's handler."""

    def batch_done(self, *, queue_wait_s: Sequence[float], run_s: float, reason: FlushReason, failed: bool) -> None:
        """`queue_wait_s` has one entry per item of the batch: time in the queue without preparation."""
