"""The batches being built: any thread puts an item into the last one, the runner takes the first when it is due.

Knows when a batch is due and how its places are filled. Knows nothing of the event loop, of callers' futures or of what
is computed: the standard library only.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.telemetry.item_timing import FlushReason

Item = TypeVar("Item")


class Block(Protocol[Item]):
    """Places for the items of one batch: a list, or an array whose rows are items."""

    def __getitem__(self, index: int, /) -> Item: ...

    def __setitem__(self, index: int, item: Item, /) -> None: ...


class Queued(Protocol):
    """What stands for an item while it waits; times are on the batcher's clock."""

    @property
    def queued_at(self) -> float: ...

    @property
    def flush_at(self) -> float:
        """When the item's batch should go off at the latest, if the runner is idle."""


Member = TypeVar("Member", bound=Queued)


@dataclass(slots=True, eq=False)
class Batch(Generic[Member, Item]):
    """Members and their items: the item of `members[i]` is `block[i]`."""

    block: Block[Item]
    members: list[Member] = field(default_factory=list)
    flush_at: float = float("inf")
    started: float = 0.0

    def add(self, member: Member, item: Item) -> None:
        """One more; the item goes straight into its place."""
        self.block[len(self.members)] = item
        self.members.append(member)
        self.flush_at = min(self.flush_at, member.flush_at)

    def keep(self, wanted: Callable[[Member], bool]) -> None:
        """Drop the others and close their gaps in the block."""
        kept = 0
        for index, member in enumerate(self.members):
            if wanted(member):
                if index != kept:
                    self.block[kept], self.members[kept] = self.block[index], member
                kept += 1
        del self.members[kept:]


class Forming(Generic[Member, Item]):
    """Batches of at most `max_batch_size`, each with a block of its own from `new_block`."""

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
        self._changed = threading.Condition()  # guards all that follows
        self._batches: deque[Batch[Member, Item]] = deque()
        self._closing = False
        self._stopped = False

    def put(self, member: Member, item: Item) -> None:
        """Into the last batch, or a new one when that is full. From any thread."""
        with self._changed:
            if not self._batches or len(self._batches[-1].members) >= self._max_batch_size:
                self._batches.append(Batch(self._new_block()))
            self._batches[-1].add(member, item)
            self._changed.notify()

    def take(self) -> tuple[Batch[Member, Item], FlushReason] | None:
        """Wait until the first batch is due; give it, and why it is due. None once stopped."""
        with self._changed:
            while not self._stopped:
                now = self._clock()
                if self._batches and (reason := self._due(self._batches[0], now)):
                    return self._batches.popleft(), reason
                self._changed.wait(self._batches[0].flush_at - now if self._batches else None)
        return None

    def close(self) -> None:
        """From now on nothing waits for company."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def stop(self) -> None:
        """From now on there is nothing to take."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _due(self, batch: Batch[Member, Item], now: float) -> FlushReason | None:
        if len(batch.members) >= self._max_batch_size:
            return "full"
        if self._closing:
            return "drain"
        if batch.flush_at > now:
            return None
        if not self._max_queue_delay_s:
            return "idle"
        return "delay" if batch.members[0].queued_at + self._max_queue_delay_s <= now else "deadline"
