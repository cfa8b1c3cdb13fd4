"""Dynamic batching: callers submit single items, one call computes many of them, each caller gets its own result.

A few threads prepare items and write them into the batch under construction. One more thread, the runner, takes the
batch when it is free. So a batch grows while the runner is busy, and a lone item does not wait for an idle runner. The
event loop is woken once for each computed batch. Every item is settled exactly once. Standard library only.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from service.inference.batching.batch_queue import Batch, BatchQueue, Block, Item
from service.inference.batching.errors import (
    BatcherClosed,
    DeadlineExpired,
    QueueFull,
    WrongOutputCount,
    prepare_error,
    run_error,
)
from service.telemetry.item_timing import BatchObserver, BatchRun, FlushReason, ItemTiming

Raw = TypeVar("Raw")
Result = TypeVar("Result")

#: An item is refused if the estimated wait times this factor exceeds the time to its deadline.
LATENESS_MARGIN = 1.25
#: Weight of a new batch in the moving average of the throughput.
THROUGHPUT_WEIGHT = 0.2


class Throughput:
    """Seconds per item under load, as an exponential moving average over batches."""

    def __init__(self) -> None:
        self._item_s: float | None = None
        self._ended = 0.0

    def add_batch(self, count: int, *, queued_at: float, ended: float) -> None:
        """Add a batch of `count` items, the first queued at `queued_at`.

        The time counts from the end of the previous batch or from `queued_at`, whichever is later. So it includes
        preparation, hand-over to the runner, and waiting for a core.
        """
        item_s = (ended - max(self._ended, queued_at)) / count
        weight = THROUGHPUT_WEIGHT
        self._item_s = item_s if self._item_s is None else (1 - weight) * self._item_s + weight * item_s
        self._ended = ended

    def known(self) -> bool:
        """Whether a batch has been measured."""
        return self._item_s is not None

    def drain_s(self, items: int) -> float:
        """Estimated seconds to compute this many items; 1 before the first measurement."""
        return 1.0 if self._item_s is None else items * self._item_s


@dataclass(slots=True, eq=False)
class _Entry(Generic[Raw, Result]):
    raw: Raw | None  # None once prepared, to free its memory
    future: asyncio.Future[Result]
    deadline: float | None
    queued_at: float
    flush_at: float
    timing: ItemTiming
    taken: bool = False


class Batcher(Generic[Raw, Item, Result]):
    """Collects items into batches and calls `run` for each in the runner thread.

    Args:
        prepare: turns a submitted item into one for the batch, in `prepare_threads` threads. Exceptions are delivered
            to that item's caller only. An item joins a batch once it is prepared, so a slow one delays no other.
        run: takes the block and the number of items in it; returns one result per item, in order. Called by one thread.
        new_block: allocates a block of `max_batch_size` places. Each batch has its own: results may refer to it.
        max_queue_size: limit of items accepted and not yet settled.
        max_queue_delay_ms: how long an idle runner waits for a batch to fill, at most half of an item's time.
        max_run_s: `alive` is false while a call takes longer.
        max_failed_runs: `alive` is false after this many failed calls in a row.
        clock: monotonic seconds; deadlines are on it.
    """

    def __init__(
        self,
        prepare: Callable[[Raw], Item],
        run: Callable[[Block[Item], int], Sequence[Result]],
        new_block: Callable[[], Block[Item]],
        *,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_delay_ms: float = 0.0,
        prepare_threads: int = 1,
        max_run_s: float = 60.0,
        max_failed_runs: int = 5,
        observer: BatchObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prepare = prepare
        self._run = run
        self._max_queue_size = max_queue_size
        self._max_queue_delay_s = max_queue_delay_ms / 1000
        self._max_run_s = max_run_s
        self._max_failed_runs = max_failed_runs
        self._observer = observer
        self._clock = clock
        # Used on the event loop only.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entries: set[_Entry[Raw, Result]] = set()
        self._empty = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._next_expiry = math.inf  # the deadline for which the timer is set
        self._throughput = Throughput()
        self._failed_runs = 0  # in a row
        self._closing = False
        self._running_threads = 0
        self._ended = asyncio.Event()  # no thread runs
        self._ended.set()
        # Shared with the threads. These are daemons: a call that hangs must not keep the process from ending.
        self._unprepared: SimpleQueue[_Entry[Raw, Result] | None] = SimpleQueue()
        self._queue: BatchQueue[_Entry[Raw, Result], Item] = BatchQueue(
            new_block, max_batch_size=max_batch_size, max_queue_delay_s=self._max_queue_delay_s, clock=clock
        )
        self._running: Batch[_Entry[Raw, Result], Item] | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(stage,), name=name, daemon=True)
            for name, stage in [
                ("batcher", self._run_batches),
                *((f"prepare-{number}", self._prepare_items) for number in range(prepare_threads)),
            ]
        ]

    async def start(self) -> None:
        """Start the threads, for callers on the running event loop. Once only."""
        if self._loop is not None:
            raise RuntimeError("a batcher is started once")
        self._loop = asyncio.get_running_loop()
        self._running_threads = len(self._threads)
        self._ended.clear()
        for thread in self._threads:
            thread.start()

    async def submit(self, raw: Raw, *, deadline: float | None = None, timing: ItemTiming | None = None) -> Result:
        """Compute one item. Cancelling the caller removes the item from its batch and affects no other.

        Args:
            timing: filled in as the item passes each stage.

        Raises:
            QueueFull: at once, without queuing the item: the queue is full, or the result would be too late.
            DeadlineExpired: the deadline passed. An item still in the queue is not computed.
            BatcherClosed: not started, closing, or closed without draining.
            RunFailed: the call for this item's batch failed, or returned a WrongOutputCount.
            Exception: whatever `prepare` raised.
        """
        if self._loop is None or self._closing:
            raise BatcherClosed("the batcher takes no new items")
        if len(self._entries) >= self._max_queue_size or self.would_be_late(deadline):
            raise QueueFull(len(self._entries), self._max_queue_size, self.drain_s(len(self._entries)))
        entry = self._admit(self._loop, raw, deadline, timing or ItemTiming())
        try:
            return await entry.future
        except asyncio.CancelledError:
            if entry.future.done() and not entry.future.cancelled():
                entry.future.exception()  # retrieved, or asyncio would log it as never retrieved
            raise
        finally:
            self._release(entry)
            del raw, entry  # breaks the cycle of exception, frame and future, which would keep the item in memory

    async def close(self, *, drain: bool = True) -> None:
        """Take no new items and settle the others: compute them, or without `drain` fail them with BatcherClosed.

        A draining close also waits for the threads, even if all items were cancelled: a process that ends during a call
        of native code is aborted. Cancelling it, as `asyncio.timeout` does, fails the items that are left.
        """
        self._closing = True
        self._queue.close()
        try:
            if drain and self._entries:
                await self._empty.wait()
        finally:
            self._fail_all()
            self._queue.stop()
            for _ in self._threads[1:]:
                self._unprepared.put(None)
        if drain:
            await self._ended.wait()

    def alive(self) -> bool:
        """Whether it takes items, its threads run, and calls neither hang nor fail repeatedly."""
        running = self._running
        overdue = running is not None and self._clock() - running.started > self._max_run_s
        failing = self._failed_runs >= self._max_failed_runs
        return not (self._closing or overdue or failing) and self._running_threads == len(self._threads)

    def in_flight(self) -> int:
        """Number of items accepted and not yet settled."""
        return len(self._entries)

    def queued(self) -> int:
        """Number of items whose batch has not started."""
        return sum(not entry.taken for entry in self._entries)

    def would_be_late(self, deadline: float | None) -> bool:
        """Whether one more item would miss its deadline at the measured throughput. A lone item is always tried."""
        if deadline is None or not self._throughput.known() or not self._entries:
            return False
        return LATENESS_MARGIN * self.drain_s(len(self._entries) + 1) > deadline - self._clock()

    def drain_s(self, items: int) -> float:
        """Estimated seconds to compute this many items; 1 before the first measurement."""
        return self._throughput.drain_s(items)

    # On the event loop.

    def _admit(
        self, loop: asyncio.AbstractEventLoop, raw: Raw, deadline: float | None, timing: ItemTiming
    ) -> _Entry[Raw, Result]:
        timing.queued_at = now = self._clock()
        flush_at = now + self._max_queue_delay_s
        if deadline is not None:
            flush_at = min(flush_at, (now + deadline) / 2)
            if deadline < self._next_expiry:
                self._expire_at(loop, deadline)
        entry: _Entry[Raw, Result] = _Entry(raw, loop.create_future(), deadline, now, flush_at, timing)
        self._entries.add(entry)
        self._empty.clear()
        self._unprepared.put(entry)
        return entry

    def _expire_at(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._next_expiry = deadline
        self._expiry = loop.call_later(deadline - self._clock(), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fail the items whose deadline has passed. One timer for all, since most are answered long before."""
        passed = max(self._next_expiry, self._clock())  # a timer can be early by its resolution
        self._stop_expiry()
        deadlines = [(entry.deadline, entry) for entry in self._entries if entry.deadline is not None]
        for deadline, entry in deadlines:
            if deadline <= passed:
                self._fail(entry, DeadlineExpired())
        left = [deadline for deadline, _ in deadlines if deadline > passed]
        if left:
            self._expire_at(loop, min(left))

    def _stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry, self._next_expiry = None, math.inf

    def _release(self, entry: _Entry[Raw, Result]) -> None:
        self._entries.discard(entry)
        if not self._entries:
            self._empty.set()

    def _fail(self, entry: _Entry[Raw, Result], error: Exception) -> None:
        if not entry.future.done():
            entry.future.set_exception(error)
        self._release(entry)

    def _thread_ended(self) -> None:
        self._fail_all()  # after a regular end there are no entries left
        self._running_threads -= 1
        if not self._running_threads:
            self._ended.set()

    def _fail_all(self) -> None:
        self._closing = True
        self._stop_expiry()
        for entry in list(self._entries):
            self._fail(entry, BatcherClosed("closed before the item was computed"))

    def _deliver(
        self,
        batch: Batch[_Entry[Raw, Result], Item],
        outcome: Sequence[Result] | BaseException,
        run_s: float,
        reason: FlushReason,
    ) -> None:
        failed = isinstance(outcome, BaseException)
        run = BatchRun(batch.started, batch.started + run_s, len(batch.entries), reason, failed)
        run.timings = [entry.timing for entry in batch.entries if entry.timing.owner is not None]
        for index, entry in enumerate(batch.entries):
            entry.timing.run = run
            if isinstance(outcome, BaseException):
                self._fail(entry, run_error(outcome))
            else:
                if not entry.future.done():
                    entry.future.set_result(outcome[index])
                self._release(entry)
        self._failed_runs = self._failed_runs + 1 if failed else 0
        if not failed:
            queued_at = min(entry.queued_at for entry in batch.entries)
            self._throughput.add_batch(len(batch.entries), queued_at=queued_at, ended=batch.started + run_s)
        waits_s = [batch.started - entry.queued_at - entry.timing.prepare_s() for entry in batch.entries]
        self._notify_observer(waits_s, run_s, reason, failed)

    def _notify_observer(self, queue_wait_s: list[float], run_s: float, reason: FlushReason, failed: bool) -> None:
        if self._observer is None:
            return
        try:
            self._observer.batch_done(queue_wait_s=queue_wait_s, run_s=run_s, reason=reason, failed=failed)
        except Exception as error:
            context = {"message": "the batch observer failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    # In the threads. Exceptions of `prepare` and `run` are caught: they must not leave callers waiting.

    def _work(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        finally:
            self._post(self._thread_ended)

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed, so no caller waits
            self._loop.call_soon_threadsafe(callback, *args)

    def _prepare_items(self) -> None:
        while (entry := self._unprepared.get()) is not None:
            if not entry.future.done():
                entry.timing.prepare_began = self._clock()
                try:
                    item = self._prepare(entry.raw)  # type: ignore[arg-type]
                    entry.timing.prepared_at = self._clock()
                    self._queue.put(entry, item)
                except BaseException as error:
                    self._post(self._fail, entry, prepare_error(error))
            entry.raw = None

    def _run_batches(self) -> None:
        while taken := self._queue.take():
            batch, reason = taken
            batch.filter(self._still_wanted)
            if batch.entries:
                self._compute(batch, reason)

    def _still_wanted(self, entry: _Entry[Raw, Result]) -> bool:
        if entry.deadline is not None and entry.deadline <= self._clock():
            self._post(self._fail, entry, DeadlineExpired())
            return False
        entry.taken = not entry.future.done()
        return entry.taken

    def _compute(self, batch: Batch[_Entry[Raw, Result], Item], reason: FlushReason) -> None:
        batch.started = self._clock()
        self._running = batch
        outcome = self._call(batch.block, len(batch.entries))
        self._running = None
        self._post(self._deliver, batch, outcome, self._clock() - batch.started, reason)

    def _call(self, block: Block[Item], count: int) -> list[Result] | BaseException:
        try:
            results = list(self._run(block, count))
        except BaseException as error:
            return error
        return results if len(results) == count else WrongOutputCount(count, len(results))
