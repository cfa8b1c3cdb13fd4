"""Dynamic batching: single items in, one call for many of them, each caller its own result.

One coroutine, one queue, one worker thread. A batch is formed only when the worker is free, so it keeps growing while
the worker is busy, and a lone item never waits for an idle one. Every item is settled exactly once. Knows nothing of
pictures, models, HTTP or metrics: the standard library only.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Why a batch went off: it was full; an idle worker had nothing to wait for; the queue delay was over; an item's
#: deadline forbade to wait longer; the batcher is closing.
FlushReason = Literal["full", "idle", "delay", "deadline", "drain"]


class QueueFull(Exception):
    """Refused at once: every place is taken. `retry_after_s` is when they will be free, at the measured rate."""

    def __init__(self, queued: int, limit: int, retry_after_s: float) -> None:
        super().__init__(f"{queued} of {limit} places are taken")
        self.queued = queued
        self.limit = limit
        self.retry_after_s = retry_after_s


class DeadlineExpired(Exception):
    """The item's deadline passed before its result was there."""


class BatcherClosed(Exception):
    """The batcher is closing, closed or was never started: the item was not computed."""


class RunFailed(Exception):
    """The call for this item's batch failed. Its own exception is the `__cause__`, shared by the whole batch."""


class WrongOutputCount(RunFailed):
    """The call returned another number of results than it was given items: nobody can say which result is whose."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"{expected} items went into the call and {got} results came out")
        self.expected = expected
        self.got = got


class BatchObserver(Protocol):
    """Told of each batch after its callers were answered. What it raises is reported to the loop and harms nobody."""

    def batch_done(self, *, queue_wait_s: Sequence[float], run_s: float, reason: FlushReason, failed: bool) -> None:
        """One wait for each item, so that their number is the size of the batch."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    deadline: float | None
    queued_at: float
    flush_at: float


class Batcher(Generic[Item, Result]):
    """Calls `run` in its worker thread with at most `max_batch_size` items; all else happens on the event loop.

    Args:
        run: items to as many results, in the same order. Never called twice at a time.
        max_queue_size: items waiting, those in the running call not counted; one more is refused.
        max_queue_delay_ms: how long an idle worker waits for company, but never more than half an item's time.
        max_run_s: a call that takes longer makes `alive` false.
        clock: monotonic seconds; deadlines are on it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_delay_ms: float = 0.0,
        max_run_s: float = 60.0,
        observer: BatchObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._max_queue_delay_s = max_queue_delay_ms / 1000
        self._max_run_s = max_run_s
        self._observer = observer
        self._clock = clock
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._running: list[_Waiting[Item, Result]] = []
        self._running_since = 0.0
        self._item_s: float | None = None  # what one item takes in the worker: a moving average
        self._changed = asyncio.Event()
        self._closing = False
        self._forming: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batcher")

    async def start(self) -> None:
        """Form batches on the running event loop from now on. Once only."""
        if self._forming is not None:
            raise RuntimeError("a batcher is started once")
        self._forming = asyncio.create_task(self._form(), name="batcher")

    async def submit(self, item: Item, *, deadline: float | None = None) -> Result:
        """One item's result. Cancelling the caller takes the item out of the queue and touches no other.

        Raises:
            QueueFull: at once; nothing was queued.
            DeadlineExpired: `deadline` passed; an item that still waited is not computed.
            BatcherClosed: not started, closing, or closed without draining.
            RunFailed: the call for this item's batch failed, or gave a WrongOutputCount.
        """
        if self._closing or self._forming is None or self._forming.done():
            raise BatcherClosed("no new items are taken")
        if len(self._queue) >= self._max_queue_size:
            ahead = len(self._queue) + len(self._running)
            raise QueueFull(len(self._queue), self._max_queue_size, self.drain_s(ahead))
        waiting = self._enqueue(item, deadline)
        try:
            async with asyncio.timeout(None if deadline is None else deadline - waiting.queued_at):
                return await waiting.future
        except TimeoutError:
            raise DeadlineExpired("the deadline passed") from None
        finally:
            if not waiting.future.done() or waiting.future.cancelled():
                with suppress(ValueError):  # it is in the running call already
                    self._queue.remove(waiting)

    async def close(self, *, drain: bool = True) -> None:
        """Take nothing new and settle all: compute what was accepted, or else fail it with BatcherClosed.

        Cancelling a draining close, as `asyncio.timeout` around it does, fails what is left at that moment.
        """
        self._closing = True
        self._changed.set()
        try:
            if self._forming is not None:
                if not drain:
                    self._forming.cancel()
                await asyncio.wait([self._forming])
        finally:
            if self._forming is not None:
                self._forming.cancel()
            self._worker.shutdown(wait=False)

    def alive(self) -> bool:
        """Whether batches are being formed and the running call is not overdue."""
        overdue = bool(self._running) and self._clock() - self._running_since > self._max_run_s
        return self._forming is not None and not self._forming.done() and not overdue

    def depth(self) -> int:
        """Items waiting, those in the running call not counted."""
        return len(self._queue)

    def drain_s(self, items: int) -> float:
        """Seconds until so many items are computed, at the rate measured so far; 1 before the first measurement."""
        return 1.0 if self._item_s is None else items * self._item_s

    def _enqueue(self, item: Item, deadline: float | None) -> _Waiting[Item, Result]:
        now = self._clock()
        flush_at = now + self._max_queue_delay_s
        if deadline is not None:
            flush_at = min(flush_at, (now + deadline) / 2)
        waiting = _Waiting(item, asyncio.get_running_loop().create_future(), deadline, now, flush_at)
        self._queue.append(waiting)
        self._changed.set()
        return waiting

    async def _form(self) -> None:
        try:
            while self._queue or not self._closing:
                reason = await self._ripe()
                self._running = self._take()
                if self._running:
                    await self._compute(self._running, reason)
                    self._running = []
        finally:
            self._settle_all()

    async def _ripe(self) -> FlushReason:
        """Return when the idle worker should get what is queued, and why."""
        while True:
            if len(self._queue) >= self._max_batch_size:
                return "full"
            if self._closing:
                return "drain"
            now = self._clock()
            flush_at = min((waiting.flush_at for waiting in self._queue), default=None)
            if flush_at is not None and flush_at <= now:
                return self._why(now)
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if flush_at is None else flush_at - now):
                    await self._changed.wait()

    def _why(self, now: float) -> FlushReason:
        if not self._max_queue_delay_s:
            return "idle"
        return "delay" if self._queue[0].queued_at + self._max_queue_delay_s <= now else "deadline"

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The next batch, without those who have left or are too late."""
        now = self._clock()
        batch: list[_Waiting[Item, Result]] = []
        while self._queue and len(batch) < self._max_batch_size:
            waiting = self._queue.popleft()
            if waiting.future.done():
                continue
            if waiting.deadline is not None and waiting.deadline <= now:
                waiting.future.set_exception(DeadlineExpired("the deadline passed while the item waited"))
            else:
                batch.append(waiting)
        return batch

    async def _compute(self, batch: list[_Waiting[Item, Result]], reason: FlushReason) -> None:
        started = self._running_since = self._clock()
        items = [waiting.item for waiting in batch]
        outcome = await asyncio.get_running_loop().run_in_executor(self._worker, self._call, items)
        run_s = self._clock() - started
        for index, waiting in enumerate(batch):
            if not waiting.future.done():
                if isinstance(outcome, BaseException):
                    waiting.future.set_exception(_failure(outcome))
                else:
                    waiting.future.set_result(outcome[index])
        failed = isinstance(outcome, BaseException)
        if not failed:
            item_s = run_s / len(batch)
            self._item_s = item_s if self._item_s is None else 0.8 * self._item_s + 0.2 * item_s
        self._tell([started - waiting.queued_at for waiting in batch], run_s, reason, failed)

    def _call(self, items: Sequence[Item]) -> list[Result] | BaseException:
        # In the worker thread. Everything is caught: a SystemExit here must not strand those who wait, and a
        # StopIteration cannot travel through a future at all.
        try:
            results = list(self._run(items))
        except BaseException as error:
            return error
        return results if len(results) == len(items) else WrongOutputCount(len(items), len(results))

    def _tell(self, queue_wait_s: list[float], run_s: float, reason: FlushReason, failed: bool) -> None:
        if self._observer is None:
            return
        try:
            self._observer.batch_done(queue_wait_s=queue_wait_s, run_s=run_s, reason=reason, failed=failed)
        except Exception as error:
            context = {"message": "the batch observer failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _settle_all(self) -> None:
        for waiting in (*self._running, *self._queue):
            if not waiting.future.done():
                waiting.future.set_exception(BatcherClosed("closed before the item was computed"))
        self._queue.clear()


def _failure(cause: BaseException) -> RunFailed:
    # One exception for each caller: raising a shared one would braid their tracebacks.
    if isinstance(cause, WrongOutputCount):
        return WrongOutputCount(cause.expected, cause.got)
    failure = RunFailed("the call for this item's batch failed")
    failure.__cause__ = cause
    return failure
