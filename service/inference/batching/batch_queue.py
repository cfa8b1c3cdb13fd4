"""Queue of batches under construction: threads add items to the last batch, the runner takes the first when it is due.

Standard library only; no event loop and no futures.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.telemetry.item_timing import FlushReason

Item = TypeVar("Item")


class Block(Protocol[Item]):
    """Storage for the items of one batch: a list, or an array with one row per item."""

    def __getitem__(self, index: int, /) -> Item: ...

    def __setitem__(self, index: int, item: Item, /) -> None: ...


class Queued(Protocol):
    """The queue's view of an item's entry; times are on the batcher's clock."""

    @property
    def queued_at(self) -> float: ...

    @property
    def flush_at(self) -> float:
        """Latest time for the item's batch to start if the runner is idle."""


Entry = TypeVar("Entry", bound=Queued)


@dataclass(slots=True, eq=False)
class Batch(Generic[Entry, Item]):
    """Entries and their items: `block[i]` is the item of `entries[i]`."""

    block: Block[Item]
    entries: list[Entry] = field(default_factory=list)
    flush_at: float = float("inf")
    started: float = 0.0

    def add(self, entry: Entry, item: Item) -> None:
        """Append an entry and write its item into the block."""
        self.block[len(self.entries)] = item
        self.entries.append(entry)
        self.flush_at = min(self.flush_at, entry.flush_at)

    def filter(self, wanted: Callable[[Entry], bool]) -> None:
        """Remove unwanted entries and close the gaps in the block."""
        kept = 0
        for index, entry in enumerate(self.entries):
            if wanted(entry):
                if index != kept:
                    self.block[kept], self.entries[kept] = self.block[index], entry
                kept += 1
        del self.entries[kept:]


class BatchQueue(Generic[Entry, Item]):
    """Batches of at most `max_batch_size` items, each with its own block from `new_block`. Thread-safe."""

    def __init__(
        self,
        new_block: Callable[[], Block[Item]],
        *,
        max_batch_size: int,
        max_queue_delay_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._new_block = new_block
        self._max_batch_size = max_batch_size
        self._max_queue_delay_s = max_queue_delay_s
        self._clock = clock
        self._changed = threading.Condition()  # guards everything below
        self._batches: deque[Batch[Entry, Item]] = deque()
        self._closing = False
        self._stopped = False

    def put(self, entry: Entry, item: Item) -> None:
        """Add an item to the last batch, or to a new one if that is full."""
        with self._changed:
            if not self._batches or len(self._batches[-1].entries) >= self._max_batch_size:
                self._batches.append(Batch(self._new_block()))
            self._batches[-1].add(entry, item)
            self._changed.notify()

    def take(self) -> tuple[Batch[Entry, Item], FlushReason] | None:
        """Wait until the first batch is due; returns it and why it is due, or None after `stop`."""
        with self._changed:
            while not self._stopped:
                now = self._clock()
                if self._batches and (reason := self._due(self._batches[0], now)):
                    return self._batches.popleft(), reason
                self._changed.wait(self._batches[0].flush_at - now if self._batches else None)
        return None

    def close(self) -> None:
        """Make every batch due at once from now on."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def stop(self) -> None:
        """End `take`, also one that waits; batches left in the queue are dropped."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _due(self, batch: Batch[Entry, Item], now: float) -> FlushReason | None:
        if len(batch.entries) >= self._max_batch_size:
            return "full"
        if self._closing:
            return "drain"
        if batch.flush_at > now:
            return None
        if not self._max_queue_delay_s:
            return "idle"
        return "delay" if batch.entries[0].queued_at + self._max_queue_delay_s <= now else "deadline"
