"""Dynamic batching: single items in, one call for many of them, each caller its own result.

Items are prepared by a few threads, written into the batch that is being built, and computed by one more thread, the
runner. The runner takes a batch when it is free, so a batch keeps growing while the runner is busy, and a lone item
never waits for an idle one. Between two batches it asks nobody: the event loop hears of a batch once, when its callers
are to be answered. Every item is settled exactly once. Knows nothing of pictures, models, HTTP or metrics: the
standard library only.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from service.inference.batching import errors as unanswered
from service.inference.batching.batch_queue import Batch, Block, Forming, Item
from service.inference.batching.errors import BatcherClosed, QueueFull, WrongOutputCount
from service.inference.batching.throughput import Rate
from service.telemetry.item_timing import BatchObserver, BatchRun, FlushReason, ItemTiming

Raw = TypeVar("Raw")
Result = TypeVar("Result")


#: Refused is what would be answered later than this part of its time, at the measured rate.
LATENESS_MARGIN = 1.25


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Raw, Result]):
    raw: Raw | None  # let go once it is prepared
    future: asyncio.Future[Result]
    deadline: float | None
    queued_at: float
    flush_at: float
    timing: ItemTiming
    taken: bool = False


class Batcher(Generic[Raw, Item, Result]):
    """Calls `run` in its runner thread with a block and how many of its first places hold items.

    Args:
        prepare: from what is submitted to an item, in `prepare_threads` threads. What it raises is the caller's and
            nobody else's. An item takes its place in a batch once it is prepared, so a slow one holds up nobody.
        run: the block and the number of its items to as many results, in the same order. Never called twice at a time.
        new_block: `max_batch_size` places, made for each batch anew: results may refer to them.
        max_queue_size: items accepted and not yet settled; one more is refused.
        max_queue_delay_ms: how long an idle runner waits for company, but never more than half an item's time.
        max_run_s: a call that takes longer makes `alive` false.
        max_failed_runs: so do so many failed calls in a row.
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
        # The event loop's own.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inside: set[_Waiting[Raw, Result]] = set()
        self._empty = asyncio.Event()
        self._rate = Rate()
        self._failed_runs = 0  # in a row
        self._closing = False
        # Shared with the threads, which are daemons, because a call that hangs must not keep the process from ending.
        self._unprepared: SimpleQueue[_Waiting[Raw, Result] | None] = SimpleQueue()
        self._forming: Forming[_Waiting[Raw, Result], Item] = Forming(
            new_block, max_batch_size=max_batch_size, max_queue_delay_s=self._max_queue_delay_s, clock=clock
        )
        self._running: Batch[_Waiting[Raw, Result], Item] | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(stage,), name=name, daemon=True)
            for name, stage in [
                ("batcher", self._run_batches),
                *((f"prepare-{number}", self._prepare_items) for number in range(prepare_threads)),
            ]
        ]

    async def start(self) -> None:
        """Form batches from now on, for callers on the running event loop. Once only."""
        if self._loop is not None:
            raise RuntimeError("a batcher is started once")
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def submit(self, raw: Raw, *, deadline: float | None = None, timing: ItemTiming | None = None) -> Result:
        """One item's result. Cancelling the caller takes the item out of its batch and touches no other. `timing` is
        filled as the item goes.

        Raises:
            QueueFull: at once; every place is taken, or so many are that `deadline` would pass before the result is
                there. Nothing was queued.
            DeadlineExpired: `deadline` passed; an item that still waited is not computed.
            BatcherClosed: not started, closing, or closed without draining.
            RunFailed: the call for this item's batch failed, or gave a WrongOutputCount.
            Exception: what `prepare` raised.
        """
        if self._loop is None or self._closing:
            raise BatcherClosed("no new items are taken")
        if len(self._inside) >= self._max_queue_size or self.would_be_late(deadline):
            raise QueueFull(len(self._inside), self._max_queue_size, self.drain_s(len(self._inside)))
        waiting = self._admit(self._loop, raw, deadline, timing or ItemTiming())
        timer = None
        if deadline is not None:
            timer = self._loop.call_later(deadline - waiting.queued_at, self._fail, waiting, unanswered.too_late())
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting.future.done() and not waiting.future.cancelled():
                waiting.future.exception()  # looked at, or asyncio would report it as lost
            raise
        finally:
            self._release(waiting)
            if timer is not None:
                timer.cancel()
            del raw, waiting  # an error holds this frame; with its future in here it would hold itself, and the picture

    async def close(self, *, drain: bool = True) -> None:
        """Take nothing new and settle all: compute what was accepted, or else fail it with BatcherClosed.

        Cancelling a draining close, as `asyncio.timeout` around it does, fails what is left at that moment.
        """
        self._closing = True
        self._forming.close()
        try:
            if drain and self._inside:
                await self._empty.wait()
        finally:
            self._give_up()
            self._forming.stop()
            for _ in self._threads[1:]:
                self._unprepared.put(None)

    def alive(self) -> bool:
        """Whether it takes items, its threads live, and its calls neither hang nor fail one after the other."""
        running = self._running
        overdue = running is not None and self._clock() - running.started > self._max_run_s
        failing = self._failed_runs >= self._max_failed_runs
        return not (self._closing or overdue or failing) and all(thread.is_alive() for thread in self._threads)

    def inside(self) -> int:
        """Items accepted and not yet settled."""
        return len(self._inside)

    def depth(self) -> int:
        """Items waiting for their batch to be computed."""
        return sum(not waiting.taken for waiting in self._inside)

    def would_be_late(self, deadline: float | None) -> bool:
        """Whether one item more would be answered after its deadline, at the measured rate."""
        # Never a lone item: no better moment could help it.
        if deadline is None or not self._rate.known() or not self._inside:
            return False
        return LATENESS_MARGIN * self.drain_s(len(self._inside) + 1) > deadline - self._clock()

    def drain_s(self, items: int) -> float:
        """Seconds until so many items are computed, at the rate measured so far; 1 before the first measurement."""
        return self._rate.drain_s(items)

    # On the event loop.

    def _admit(
        self, loop: asyncio.AbstractEventLoop, raw: Raw, deadline: float | None, timing: ItemTiming
    ) -> _Waiting[Raw, Result]:
        timing.queued_at = now = self._clock()
        flush_at = now + self._max_queue_delay_s
        if deadline is not None:
            flush_at = min(flush_at, (now + deadline) / 2)
        waiting: _Waiting[Raw, Result] = _Waiting(raw, loop.create_future(), deadline, now, flush_at, timing)
        self._inside.add(waiting)
        self._empty.clear()
        self._unprepared.put(waiting)
        return waiting

    def _release(self, waiting: _Waiting[Raw, Result]) -> None:
        self._inside.discard(waiting)
        if not self._inside:
            self._empty.set()

    def _fail(self, waiting: _Waiting[Raw, Result], error: Exception) -> None:
        if not waiting.future.done():
            waiting.future.set_exception(error)
        self._release(waiting)

    def _give_up(self) -> None:
        self._closing = True
        for waiting in list(self._inside):
            self._fail(waiting, BatcherClosed("closed before the item was computed"))

    def _answer(
        self,
        batch: Batch[_Waiting[Raw, Result], Item],
        outcome: Sequence[Result] | BaseException,
        run_s: float,
        reason: FlushReason,
    ) -> None:
        failed = isinstance(outcome, BaseException)
        run = BatchRun(batch.started, batch.started + run_s, len(batch.members), reason, failed)
        run.timings = [waiting.timing for waiting in batch.members if waiting.timing.owner is not None]
        for index, waiting in enumerate(batch.members):
            waiting.timing.run = run
            if isinstance(outcome, BaseException):
                self._fail(waiting, unanswered.failure(outcome))
            else:
                if not waiting.future.done():
                    waiting.future.set_result(outcome[index])
                self._release(waiting)
        self._failed_runs = self._failed_runs + 1 if failed else 0
        if not failed:
            queued_at = min(waiting.queued_at for waiting in batch.members)
            self._rate.batch(len(batch.members), queued_at=queued_at, ended=batch.started + run_s)
        waits_s = [batch.started - waiting.queued_at - waiting.timing.prepare_s() for waiting in batch.members]
        self._tell(waits_s, run_s, reason, failed)

    def _tell(self, queue_wait_s: list[float], run_s: float, reason: FlushReason, failed: bool) -> None:
        if self._observer is None:
            return
        try:
            self._observer.batch_done(queue_wait_s=queue_wait_s, run_s=run_s, reason=reason, failed=failed)
        except Exception as error:
            context = {"message": "the batch observer failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    # In the threads. What others' code raises is caught: it must not strand those who wait.

    def _work(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        finally:
            self._post(self._give_up)  # nobody is inside when a stage ends as it should

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(callback, *args)

    def _prepare_items(self) -> None:
        while (waiting := self._unprepared.get()) is not None:
            if not waiting.future.done():
                waiting.timing.prepare_began = self._clock()
                try:
                    item = self._prepare(waiting.raw)  # type: ignore[arg-type]
                    waiting.timing.prepared_at = self._clock()
                    self._forming.put(waiting, item)
                except BaseException as error:
                    self._post(self._fail, waiting, unanswered.own(error))
            waiting.raw = None

    def _run_batches(self) -> None:
        while taken := self._forming.take():
            batch, reason = taken
            batch.keep(self._still_wanted)
            if batch.members:
                self._compute(batch, reason)

    def _still_wanted(self, waiting: _Waiting[Raw, Result]) -> bool:
        if waiting.deadline is not None and waiting.deadline <= self._clock():
            self._post(self._fail, waiting, unanswered.too_late())
            return False
        waiting.taken = not waiting.future.done()
        return waiting.taken

    def _compute(self, batch: Batch[_Waiting[Raw, Result], Item], reason: FlushReason) -> None:
        batch.started = self._clock()
        self._running = batch
        outcome = self._call(batch.block, len(batch.members))
        self._running = None
        self._post(self._answer, batch, outcome, self._clock() - batch.started, reason)

    def _call(self, block: Block[Item], count: int) -> list[Result] | BaseException:
        try:
            results = list(self._run(block, count))
        except BaseException as error:
            return error
        return results if len(results) == count else WrongOutputCount(count, len(results))
