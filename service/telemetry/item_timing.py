"""When an item came through each stage of the batcher, for whoever wants to tell its caller: the standard library only.

Knows moments on the batcher's clock. Does not know what they are told as.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

#: Why a batch went off: it was full; an idle runner had nothing to wait for; the queue delay was over; an item's
#: deadline forbade to wait longer; the batcher is closing.
FlushReason = Literal["full", "idle", "delay", "deadline", "drain"]


@dataclass(slots=True, eq=False)
class BatchRun:
    """One call for a batch. `exported` is for whoever tells of it: what it was told as, once for all of its items."""

    started: float
    ended: float
    items: int
    reason: FlushReason
    failed: bool
    timings: "Sequence[ItemTiming]" = ()  # of its items, those with an owner
    exported: object = None


@dataclass(slots=True, eq=False)
class ItemTiming:
    """One item's way; None where it did not come so far. `owner` is whom it is told to: none, and nobody looks."""

    owner: object = None
    queued_at: float = 0.0
    prepare_began: float | None = None
    prepared_at: float | None = None
    run: BatchRun | None = None

    def prepare_s(self) -> float:
        """How long its preparation took; 0 where it is not over."""
        if self.prepare_began is None or self.prepared_at is None:
            return 0.0
        return self.prepared_at - self.prepare_began


class BatchObserver(Protocol):
    """Told of each batch after its callers were answered. What it raises is reported to the loop and harms nobody."""

    def batch_done(self, *, queue_wait_s: Sequence[float], run_s: float, reason: FlushReason, failed: bool) -> None:
        """One wait for each item, its preparation not counted, so that their number is the size of the batch."""
