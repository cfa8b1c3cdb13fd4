"""The batcher's invariants, one test each, and all of them at once against a model of it under random interleavings."""

import asyncio
import gc
import queue
import subprocess
import sys
import threading
import weakref
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.inference.batching.batcher import LATENESS_MARGIN, Batcher
from service.inference.batching.errors import BatcherClosed, DeadlineExpired, QueueFull, RunFailed, WrongOutputCount

Outcome = Callable[[Sequence[int]], Sequence[int]]
HOUR_MS = 3_600_000


def tenfold(items: Sequence[int]) -> list[int]:
    return [10 * item for item in items]


def failing(error: BaseException) -> Outcome:
    def run(_: Sequence[int]) -> Sequence[int]:
        raise error

    return run


class Worker:
    """A `run` that stops at its entry until the test lets it go on, with the outcome that the test chooses."""

    def __init__(self) -> None:
        self.entered: asyncio.Queue[list[int]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self._loop.call_soon_threadsafe(self.entered.put_nowait, list(items))
        return self._outcomes.get(timeout=60)(items)  # or a failed test would keep the interpreter from ending

    def go_on(self, outcome: Outcome = tenfold) -> None:
        self._outcomes.put(outcome)

    async def batch(self) -> list[int]:
        """The items of the next call, once it has begun."""
        return await asyncio.wait_for(self.entered.get(), 60)


class Log:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def batch_done(self, **batch: Any) -> None:
        self.batches.put_nowait(batch)

    def reasons(self) -> list[str]:
        return [self.batches.get_nowait()["reason"] for _ in range(self.batches.qsize())]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Places(list[int]):
    """A block that says which items were written into it."""

    def __init__(self, count: int, told: Callable[[int], None]) -> None:
        super().__init__([-1] * count)
        self._told = told

    def __setitem__(self, index: Any, item: Any) -> None:
        super().__setitem__(index, item)
        self._told(item)


class Watched(Batcher[int, int, int]):
    """A batcher of numbers that are prepared already, and when each of them has its place in a batch."""

    def __init__(self, run: Outcome, *, max_batch_size: int = 4, max_queue_size: int = 8, **options: Any) -> None:
        super().__init__(
            lambda item: item,
            lambda block, count: run([block[index] for index in range(count)]),
            lambda: Places(max_batch_size, self._placed),
            max_batch_size=max_batch_size,
            max_queue_size=max_queue_size,
            **options,
        )
        self._test_loop = asyncio.get_running_loop()
        self._having_places: set[int] = set()
        self._one_more = asyncio.Event()

    def _placed(self, item: int) -> None:
        self._having_places.add(item)
        self._test_loop.call_soon_threadsafe(self._one_more.set)

    async def places(self, items: Iterable[int]) -> None:
        """Until each of them has its place."""
        while not self._having_places.issuperset(items):
            await asyncio.wait_for(self._one_more.wait(), 60)
            self._one_more.clear()


async def idle() -> None:
    """Let everything on the event loop happen that can happen without the threads."""
    for _ in range(20):
        await asyncio.sleep(0)


def asked(batcher: Batcher[int, int, int], *items: int, deadline: float | None = None) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item, deadline=deadline)) for item in items]


async def submitted(batcher: Watched, *items: int, deadline: float | None = None) -> list[asyncio.Task[int]]:
    """Callers whose items have their places in a batch."""
    callers = asked(batcher, *items, deadline=deadline)
    await batcher.places(items)
    return callers


async def started(run: Outcome, **options: Any) -> Watched:
    batcher = Watched(run, **options)
    await batcher.start()
    return batcher


async def occupied(worker: Worker, **options: Any) -> tuple[Watched, asyncio.Task[int]]:
    """A batcher whose runner is busy with item 0, so that what is submitted now forms batches."""
    batcher = await started(worker, **options)
    (first,) = await submitted(batcher, 0)
    assert await worker.batch() == [0]
    return batcher, first


async def test_a_lone_item_on_an_idle_runner_waits_for_nobody() -> None:
    log = Log()
    batcher = await started(tenfold, observer=log)
    assert await batcher.submit(7) == 70
    assert log.reasons() == ["idle"]
    await batcher.close()


async def test_a_batch_grows_while_the_runner_is_busy_and_each_caller_gets_its_own_result() -> None:
    worker, log = Worker(), Log()
    batcher, first = await occupied(worker, observer=log)
    later = await submitted(batcher, 2, 3, 4, 5, 6)
    worker.go_on()
    assert await worker.batch() == [2, 3, 4, 5]
    worker.go_on()
    assert await worker.batch() == [6]
    worker.go_on()
    assert await asyncio.gather(first, *later) == [0, 20, 30, 40, 50, 60]
    await batcher.close()
    assert log.reasons() == ["idle", "full", "idle"]


async def test_the_loop_is_woken_once_for_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, woken = asyncio.get_running_loop(), list[object]()
    batcher: Batcher[int, int, int] = Batcher(
        lambda item: item,
        lambda block, count: tenfold([block[index] for index in range(count)]),
        lambda: [0] * 4,
        max_batch_size=4,
        max_queue_size=4,
        max_queue_delay_ms=HOUR_MS,
    )
    await batcher.start()
    wake = loop.call_soon_threadsafe

    def counted(*call: Any) -> object:
        woken.append(call)
        return wake(*call)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    assert list(await asyncio.gather(*asked(batcher, 1, 2, 3, 4))) == [10, 20, 30, 40]
    assert len(woken) == 1
    await batcher.close()


async def test_one_callers_cancellation_in_a_running_batch_changes_nothing_for_the_others() -> None:
    worker = Worker()
    batcher = await started(worker, max_queue_delay_ms=HOUR_MS)
    first, second, third, fourth = await submitted(batcher, 1, 2, 3, 4)
    assert await worker.batch() == [1, 2, 3, 4]
    second.cancel()
    await idle()
    worker.go_on()
    assert list(await asyncio.gather(first, third, fourth)) == [10, 30, 40]
    assert second.cancelled()
    await batcher.close()


@pytest.mark.parametrize("leaving", [(1,), (4,), (1, 2), (2, 3), (1, 4), (1, 2, 3)])
async def test_those_who_leave_are_not_computed_and_their_gaps_are_closed(leaving: tuple[int, ...]) -> None:
    worker = Worker()
    batcher, first = await occupied(worker)
    callers = dict(zip((1, 2, 3, 4), await submitted(batcher, 1, 2, 3, 4), strict=True))
    for item in leaving:
        callers[item].cancel()
    await idle()
    staying = [item for item in callers if item not in leaving]
    assert batcher.depth() == len(staying)
    worker.go_on()
    assert await worker.batch() == staying
    worker.go_on()
    assert await asyncio.gather(first, *(callers[item] for item in staying)) == [0, *tenfold(staying)]
    await batcher.close()


async def test_a_caller_who_leaves_frees_a_place_at_once() -> None:
    worker = Worker()
    batcher, first = await occupied(worker, max_queue_size=2)
    (second,) = await submitted(batcher, 2)
    with pytest.raises(QueueFull):
        await batcher.submit(3)
    second.cancel()
    await idle()
    third = await submitted(batcher, 3)
    worker.go_on()
    assert await worker.batch() == [3]
    worker.go_on()
    assert await asyncio.gather(first, *third) == [0, 30]
    await batcher.close()


async def test_a_batch_that_everybody_left_is_not_computed() -> None:
    worker = Worker()
    batcher, first = await occupied(worker, max_batch_size=1)
    leaving, staying = await submitted(batcher, 1, 2)
    leaving.cancel()
    await idle()
    worker.go_on()
    assert await worker.batch() == [2]
    worker.go_on()
    assert [await first, await staying] == [0, 20]
    await batcher.close()


async def test_an_item_whose_deadline_passed_in_the_queue_is_not_computed() -> None:
    worker, clock = Worker(), Clock()
    batcher, first = await occupied(worker, clock=clock)
    late = await submitted(batcher, 2, deadline=clock.now + 100)
    patient = await submitted(batcher, 3)
    clock.now += 100
    worker.go_on()
    assert await worker.batch() == [3]
    worker.go_on()
    assert await asyncio.gather(first, *patient) == [0, 30]
    with pytest.raises(DeadlineExpired):
        await late[0]
    await batcher.close()


@pytest.mark.parametrize("computing", [False, True], ids=["queued", "computing"])
async def test_the_deadline_ends_the_wait_even_when_the_runner_hangs(computing: bool) -> None:
    worker, loop = Worker(), asyncio.get_running_loop()
    blocking = []
    if computing:
        batcher = await started(worker, clock=loop.time)
    else:
        batcher, first = await occupied(worker, clock=loop.time)
        blocking = [first]
    with pytest.raises(DeadlineExpired):
        await batcher.submit(2, deadline=loop.time() + 0.01)
    assert batcher.depth() == 0
    worker.go_on()
    assert await asyncio.gather(*blocking) == ([] if computing else [0])
    await batcher.close()


async def test_a_deadline_already_passed_is_refused_without_a_call() -> None:
    worker, clock = Worker(), Clock()
    batcher = await started(worker, clock=clock)
    with pytest.raises(DeadlineExpired):
        await batcher.submit(1, deadline=clock.now)
    await batcher.close()
    assert worker.entered.empty()


@pytest.mark.parametrize(
    "error", [ValueError("a bad model"), SystemExit(3), KeyboardInterrupt(), StopIteration(1), asyncio.CancelledError()]
)
async def test_a_failing_call_reaches_all_its_callers_and_the_next_batch_still_runs(error: BaseException) -> None:
    worker, log = Worker(), Log()
    batcher = await started(worker, observer=log, max_batch_size=3, max_queue_delay_ms=HOUR_MS)
    callers = await submitted(batcher, 1, 2, 3)
    await worker.batch()
    worker.go_on(failing(error))
    failures = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(failure) for failure in failures] == [RunFailed] * 3
    assert all(isinstance(failure, RunFailed) and failure.__cause__ is error for failure in failures)
    assert len({id(failure) for failure in failures}) == 3
    assert (await log.batches.get())["failed"]
    worker.go_on()
    assert await asyncio.gather(*await submitted(batcher, 4, 5, 6)) == [40, 50, 60]
    assert batcher.alive()
    await batcher.close()


@pytest.mark.parametrize("results", [[], [10], [10, 20, 30]])
async def test_a_wrong_number_of_results_is_nobodys_result(results: list[int]) -> None:
    worker = Worker()
    batcher = await started(worker, max_batch_size=2, max_queue_delay_ms=HOUR_MS)
    callers = await submitted(batcher, 1, 2)
    await worker.batch()
    worker.go_on(lambda _: results)
    failures = await asyncio.gather(*callers, return_exceptions=True)
    assert [(type(f), f.expected, f.got) for f in failures] == [(WrongOutputCount, 2, len(results))] * 2  # type: ignore[union-attr]
    worker.go_on()
    assert await asyncio.gather(*await submitted(batcher, 3, 4)) == [30, 40]
    await batcher.close()


async def test_a_result_that_is_no_sequence_fails_the_batch() -> None:
    batcher = await started(lambda _: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(RunFailed) as failure:
        await batcher.submit(1)
    assert isinstance(failure.value.__cause__, TypeError)
    await batcher.close()


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back_by_the_measured_rate() -> None:
    worker, clock = Worker(), Clock()
    batcher = await started(worker, max_queue_size=5, clock=clock)
    measured = await submitted(batcher, 1)
    await worker.batch()
    clock.now += 0.5
    worker.go_on()
    await asyncio.gather(*measured)
    waiting = await submitted(batcher, 6, 7, 8, 9, 10)
    with pytest.raises(QueueFull) as refusal:
        await batcher.submit(11)
    assert (refusal.value.queued, refusal.value.limit) == (5, 5)
    assert refusal.value.retry_after_s == pytest.approx(5 * 0.5)
    for _ in waiting:
        worker.go_on()
    assert await asyncio.gather(*waiting) == [60, 70, 80, 90, 100]
    await batcher.close()


async def test_what_would_be_late_is_refused_at_once_but_a_lone_item_is_tried() -> None:
    worker, clock = Worker(), Clock()
    batcher = await started(worker, clock=clock)
    measured = await submitted(batcher, 1)
    await worker.batch()
    clock.now += 2.0
    worker.go_on()
    await asyncio.gather(*measured)
    lone = await submitted(batcher, 2, deadline=clock.now + 0.5)
    assert await worker.batch() == [2]
    in_time = await submitted(batcher, 3, deadline=clock.now + 2 * 2.0 * LATENESS_MARGIN)
    with pytest.raises(QueueFull) as refusal:
        await batcher.submit(4, deadline=clock.now + 3 * 2.0 * LATENESS_MARGIN - 0.1)
    assert refusal.value.retry_after_s == pytest.approx(2 * 2.0)
    worker.go_on()
    worker.go_on()
    assert [await lone[0], await in_time[0]] == [20, 30]
    await batcher.close()


async def test_the_rate_follows_what_is_measured_by_a_fifth_a_batch() -> None:
    worker, clock = Worker(), Clock()
    batcher = await started(worker, clock=clock, max_queue_delay_ms=HOUR_MS)
    for run_s, measured in [(2.0, 0.5), (4.0, 0.6)]:
        callers = await submitted(batcher, 1, 2, 3, 4)
        await worker.batch()
        clock.now += run_s
        worker.go_on()
        await asyncio.gather(*callers)
        assert batcher.drain_s(10) == pytest.approx(10 * measured)
    await batcher.close()


async def test_a_failing_call_does_not_count_as_a_rate() -> None:
    batcher = await started(failing(ValueError()))
    with pytest.raises(RunFailed):
        await batcher.submit(1)
    assert batcher.drain_s(100) == 1.0
    await batcher.close()


async def test_close_computes_what_was_accepted_and_takes_nothing_new() -> None:
    worker, log = Worker(), Log()
    batcher, first = await occupied(worker, max_batch_size=2, observer=log)
    callers = await submitted(batcher, 2, 3, 4)
    closing = asyncio.create_task(batcher.close())
    await idle()
    with pytest.raises(BatcherClosed):
        await batcher.submit(5)
    for _ in range(3):
        worker.go_on()
    assert await asyncio.gather(first, *callers) == [0, 20, 30, 40]
    await closing
    assert not batcher.alive()
    assert log.reasons() == ["idle", "full", "drain"]


async def test_close_without_draining_settles_at_once_even_when_the_runner_hangs() -> None:
    worker = Worker()
    batcher, first = await occupied(worker)
    callers = await submitted(batcher, 2, 3)
    await batcher.close(drain=False)
    failures = await asyncio.gather(first, *callers, return_exceptions=True)
    assert [type(failure) for failure in failures] == [BatcherClosed] * 3
    worker.go_on()


async def test_a_draining_close_that_is_cancelled_settles_what_is_left() -> None:
    worker = Worker()
    batcher, first = await occupied(worker)
    callers = await submitted(batcher, 2, 3)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(batcher.close(), 0.01)
    failures = await asyncio.gather(first, *callers, return_exceptions=True)
    assert [type(failure) for failure in failures] == [BatcherClosed] * 3
    worker.go_on()


async def test_close_may_be_called_twice_or_without_a_start() -> None:
    batcher = await started(tenfold)
    await asyncio.gather(batcher.close(), batcher.close())
    await batcher.close()
    never = Watched(tenfold)
    with pytest.raises(BatcherClosed):
        await never.submit(1)
    assert not never.alive()
    await never.close()


async def test_its_threads_end_with_it() -> None:
    before = set(threading.enumerate())
    batcher = await started(tenfold, prepare_threads=3)
    assert await batcher.submit(1) == 10
    mine = set(threading.enumerate()) - before
    assert len(mine) == 4
    await batcher.close()
    for thread in mine:
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()


async def test_a_batcher_is_started_once() -> None:
    batcher = await started(tenfold)
    with pytest.raises(RuntimeError, match="once"):
        await batcher.start()
    await batcher.close()


async def test_an_idle_runner_waits_for_company_until_the_batch_is_full() -> None:
    worker, log = Worker(), Log()
    batcher = await started(worker, max_batch_size=2, max_queue_delay_ms=HOUR_MS, observer=log)
    first = await submitted(batcher, 1)
    assert batcher.depth() == 1
    second = await submitted(batcher, 2)
    assert await worker.batch() == [1, 2]
    worker.go_on()
    assert await asyncio.gather(*first, *second) == [10, 20]
    await batcher.close()
    assert log.reasons() == ["full"]


async def test_the_queue_delay_ends_without_company() -> None:
    log = Log()
    batcher = await started(tenfold, max_queue_delay_ms=1, observer=log)
    assert await batcher.submit(1) == 10
    assert log.reasons() == ["delay"]
    await batcher.close()


async def test_waiting_for_company_takes_at_most_half_of_an_items_time() -> None:
    worker, log, clock = Worker(), Log(), Clock()
    batcher = await started(worker, max_queue_delay_ms=HOUR_MS, observer=log, clock=clock)
    hurried = await submitted(batcher, 1, deadline=clock.now + 200)
    clock.now += 99
    patient = await submitted(batcher, 2)
    assert batcher.depth() == 2
    clock.now += 1
    patient += asked(batcher, 3)  # wakes the runner, which may look before or after this one has its place
    assert (await worker.batch())[:2] == [1, 2]
    closing = asyncio.create_task(batcher.close())
    worker.go_on()
    worker.go_on()
    assert await asyncio.gather(*hurried, *patient) == [10, 20, 30]
    await closing
    assert log.reasons()[0] == "deadline"


async def test_company_that_leaves_is_not_waited_for() -> None:
    worker = Worker()
    batcher = await started(worker, max_queue_delay_ms=HOUR_MS)
    (lonely,) = await submitted(batcher, 1)
    lonely.cancel()
    await idle()
    assert batcher.depth() == 0
    await batcher.close()
    assert worker.entered.empty()


async def test_the_observer_is_told_waits_and_run_seconds() -> None:
    worker, log, clock = Worker(), Log(), Clock()
    batcher, first = await occupied(worker, observer=log, clock=clock)
    early = await submitted(batcher, 2)
    clock.now += 3
    late = await submitted(batcher, 3)
    clock.now += 1
    worker.go_on()
    await worker.batch()
    clock.now += 0.25
    worker.go_on()
    await asyncio.gather(first, *early, *late)
    assert await log.batches.get() == {"queue_wait_s": [0], "run_s": 4, "reason": "idle", "failed": False}
    assert await log.batches.get() == {"queue_wait_s": [4, 1], "run_s": 0.25, "reason": "idle", "failed": False}
    await batcher.close()


async def test_an_observer_that_fails_is_reported_and_harms_nobody() -> None:
    class Broken:
        def batch_done(self, **_: Any) -> None:
            raise LookupError("a broken observer")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    batcher = await started(tenfold, observer=Broken())
    assert [await batcher.submit(1), await batcher.submit(2)] == [10, 20]
    await idle()
    assert [type(context["exception"]) for context in reported] == [LookupError] * 2
    await batcher.close()


async def test_alive_until_the_running_call_is_overdue() -> None:
    worker, clock = Worker(), Clock()
    batcher, first = await occupied(worker, clock=clock, max_run_s=60)
    assert batcher.alive()
    clock.now += 60
    assert batcher.alive()
    clock.now += 0.1
    assert not batcher.alive()
    worker.go_on()
    await first
    assert batcher.alive()
    await batcher.close()


async def test_not_alive_once_so_many_calls_in_a_row_have_failed() -> None:
    worker, log = Worker(), Log()
    batcher = await started(worker, max_failed_runs=3, observer=log)
    lives = []
    for outcome in [failing(ValueError()), failing(ValueError()), tenfold, *[failing(ValueError())] * 3]:
        worker.go_on(outcome)
        await asyncio.gather(*asked(batcher, 1), return_exceptions=True)
        await log.batches.get()
        lives.append(batcher.alive())
    assert lives == [True, True, True, True, True, False]
    await batcher.close()


@pytest.mark.parametrize("thread", ["batcher", "prepare-0"])
async def test_when_a_thread_dies_everybody_is_settled_and_it_is_not_alive(
    thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Clock):
        broken = False

        def __call__(self) -> float:
            if self.broken and threading.current_thread().name == thread:
                raise MemoryError
            return super().__call__()

    died = asyncio.Event()
    told = partial(asyncio.get_running_loop().call_soon_threadsafe, died.set)
    monkeypatch.setattr(threading, "excepthook", lambda _: told())
    worker, clock = Worker(), Broken()
    batcher, first = await occupied(worker, clock=clock)
    callers = await submitted(batcher, 1, 2)
    clock.broken = True
    worker.go_on()
    if thread == "batcher":
        await died.wait()
    else:
        callers += asked(batcher, 3)
        await died.wait()
    ends = await asyncio.gather(first, *callers, return_exceptions=True)
    assert {type(end) for end in ends} <= {int, BatcherClosed}
    assert type(ends[-1]) is BatcherClosed
    assert not batcher.alive()
    with pytest.raises(BatcherClosed):
        await batcher.submit(4)
    await batcher.close()


async def test_an_error_that_a_cancelled_caller_never_saw_is_not_reported_as_lost() -> None:
    class Cancelling:
        def batch_done(self, **_: Any) -> None:
            callers[0].cancel()  # after its error was set, before it woke up

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    batcher = await started(failing(ValueError()), observer=Cancelling())
    callers = asked(batcher, 1)
    assert [type(end) for end in await asyncio.gather(*callers, return_exceptions=True)] == [asyncio.CancelledError]
    callers.clear()
    gc.collect()
    assert reported == []
    await batcher.close()


class Preparation:
    """A `prepare` that stops at its entry until the test lets that item go on; negative items cannot be prepared."""

    def __init__(self) -> None:
        self.entered: asyncio.Queue[int] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._gates: dict[int, threading.Event] = defaultdict(threading.Event)

    def __call__(self, item: int) -> int:
        self._loop.call_soon_threadsafe(self.entered.put_nowait, item)
        assert self._gates[item].wait(60)
        if item < 0:
            raise LookupError(item)
        return 100 + item

    def go_on(self, *items: int) -> None:
        for item in items:
            self._gates[item].set()

    async def begun(self) -> int:
        return await asyncio.wait_for(self.entered.get(), 60)


async def preparing(prepare: Callable[[int], int], **options: Any) -> Batcher[int, int, int]:
    batcher: Batcher[int, int, int] = Batcher(
        prepare,
        lambda block, count: tenfold([block[index] for index in range(count)]),
        lambda: [0] * 4,
        max_batch_size=4,
        max_queue_size=8,
        **options,
    )
    await batcher.start()
    return batcher


async def test_what_cannot_be_prepared_is_its_own_callers_trouble() -> None:
    prepare = Preparation()
    batcher = await preparing(prepare, prepare_threads=3)
    callers = asked(batcher, 1, -2, 3)
    assert sorted([await prepare.begun() for _ in range(3)]) == [-2, 1, 3]  # several at a time
    prepare.go_on(1, -2, 3)
    good, bad, other = await asyncio.gather(*callers, return_exceptions=True)
    assert (good, other) == (1010, 1030)
    assert isinstance(bad, LookupError)
    await batcher.close()


async def test_what_failed_is_let_go_without_the_collector() -> None:
    class Picture:
        """Large, in a service."""

    def refuse(_: Picture) -> int:
        raise ValueError("not a picture")

    async def ask(picture: Picture) -> None:
        with pytest.raises(ValueError, match="not a picture"):
            await batcher.submit(picture)

    batcher: Batcher[Picture, int, int] = Batcher(
        refuse, lambda _, count: [0] * count, lambda: [0], max_batch_size=1, max_queue_size=8
    )
    await batcher.start()
    gc.disable()
    try:
        pictures = [Picture() for _ in range(8)]
        known = [weakref.ref(picture) for picture in pictures]
        await asyncio.gather(*map(ask, pictures))
        await batcher.close()
        for thread in batcher._threads:
            thread.join(60)
        del pictures
        assert [picture() for picture in known] == [None] * 8
    finally:
        gc.enable()


async def test_an_item_that_is_slow_to_prepare_holds_up_nobody() -> None:
    prepare = Preparation()
    batcher = await preparing(prepare, prepare_threads=2)
    slow, *others = asked(batcher, 1, 2, 3)
    prepare.go_on(2, 3)
    assert await asyncio.gather(*others) == [1020, 1030]
    assert not slow.done()
    prepare.go_on(1)
    assert await slow == 1010
    await batcher.close()


async def test_the_next_items_are_prepared_while_the_runner_computes() -> None:
    worker, prepare = Worker(), Preparation()
    batcher: Batcher[int, int, int] = Batcher(
        prepare, lambda block, _: worker([block[0]]), lambda: [0], max_batch_size=1, max_queue_size=4
    )
    await batcher.start()
    callers = asked(batcher, 1, 2)
    prepare.go_on(1)
    assert await worker.batch() == [101]
    assert [await prepare.begun(), await prepare.begun()] == [1, 2]
    prepare.go_on(2)
    worker.go_on()
    worker.go_on()
    assert await asyncio.gather(*callers) == [1010, 1020]
    await batcher.close()


async def test_who_left_before_the_preparation_is_not_prepared() -> None:
    prepare = Preparation()
    batcher = await preparing(prepare)
    first, leaving, third = asked(batcher, 1, 2, 3)
    assert await prepare.begun() == 1
    leaving.cancel()
    await idle()
    prepare.go_on(1, 3)
    assert [await first, await third] == [1010, 1030]
    assert await prepare.begun() == 3
    await batcher.close()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(1), asyncio.CancelledError()])
async def test_an_exit_during_the_preparation_ends_one_caller_only(error: BaseException) -> None:
    def prepare(item: int) -> int:
        if item == 1:
            raise error
        return item

    batcher = await preparing(prepare)
    failed, well = await asyncio.gather(*asked(batcher, 1, 2), return_exceptions=True)
    assert isinstance(failed, RunFailed)
    assert failed.__cause__ is error
    assert well == 20
    assert batcher.alive()
    await batcher.close()


async def test_an_item_that_does_not_fit_its_place_is_its_own_callers_trouble() -> None:
    batcher: Batcher[object, float, float] = Batcher(
        lambda item: item,  # type: ignore[arg-type, return-value]
        lambda block, count: [block[index] for index in range(count)],
        lambda: array("d", [0] * 4),
        max_batch_size=4,
        max_queue_size=4,
    )
    await batcher.start()
    wrong, well = await asyncio.gather(batcher.submit("no number"), batcher.submit(2.0), return_exceptions=True)
    assert isinstance(wrong, TypeError)
    assert well == 2.0
    await batcher.close()


def test_the_standard_library_is_all_it_needs() -> None:
    code = (
        "import sys; before = set(sys.modules); "
        "import service.inference.batching.batcher; print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    roots = {name.split(".")[0] for name in loaded}
    assert roots - set(sys.stdlib_module_names) == {"service"}


class Interleavings(RuleBasedStateMachine):
    """Any order of submitting, cancelling, time passing, calls ending well or badly, and closing, against a model.

    The model is a list: what waits, in order. The next call is given its beginning, without those who left or are too
    late, so that an item computed twice, computed after it left, shifted or forgotten is found at once.
    """

    MAX_BATCH = 3
    MAX_QUEUE = 6
    LIFE_S = 3600.0  # deadlines pass only on the model's clock

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.log = Log()
        self.tasks: list[asyncio.Task[int]] = []
        self.expected: dict[int, object] = {}  # item -> result, type of error, or "cancelled"
        self.queued: deque[tuple[int, float]] = deque()  # item, deadline
        self.running: list[int] = []
        self.closing: asyncio.Task[None] | None = None
        self.runner.run(self._start())

    async def _start(self) -> None:
        self.worker = Worker()
        self.batcher = await started(
            self.worker,
            max_batch_size=self.MAX_BATCH,
            max_queue_size=self.MAX_QUEUE,
            observer=self.log,
            clock=self.clock,
        )

    @rule(deadlines=st.lists(st.none() | st.integers(1, 3), min_size=1, max_size=8))
    def submit(self, deadlines: list[int | None]) -> None:
        self.runner.run(self._submit(deadlines))

    async def _submit(self, lives: list[int | None]) -> None:
        # One by one, so that an idle runner takes the first alone and the same choices make the same batches again.
        for life in lives:
            item = len(self.tasks)
            deadline = None if life is None else self.clock.now + life * self.LIFE_S
            if self.closing:
                self.expected[item] = BatcherClosed
            elif len(self.tasks) - len(self.expected) >= self.MAX_QUEUE or self._late(life):
                self.expected[item] = QueueFull
            else:
                self.queued.append((item, float("inf") if deadline is None else deadline))
            self.tasks.extend(asked(self.batcher, item, deadline=deadline))
            await self.batcher.places({item} - set(self.expected))
            await self._follow()

    def _late(self, life: int | None) -> bool:
        inside = len(self.tasks) - len(self.expected)
        late_s = LATENESS_MARGIN * self.batcher.drain_s(inside + 1)
        return life is not None and inside > 0 and late_s > life * self.LIFE_S

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item = data.draw(st.integers(0, len(self.tasks) - 1))
        self.runner.run(self._cancel(item))

    async def _cancel(self, item: int) -> None:
        if item not in self.expected:
            self.expected[item] = "cancelled"
            self.queued = deque(waiting for waiting in self.queued if waiting[0] != item)
        self.tasks[item].cancel()
        await self._follow()

    @rule(lives=st.integers(1, 3))
    def time_passes(self, lives: int) -> None:
        self.clock.now += lives * self.LIFE_S

    @precondition(lambda self: self.running)
    @rule(outcome=st.sampled_from(["well", "error", "exit", "too few", "too many"]))
    def call_ends(self, outcome: str) -> None:
        self.runner.run(self._call_ends(outcome))

    async def _call_ends(self, outcome: str) -> None:
        runs: dict[str, tuple[Outcome, type[Exception] | None]] = {
            "well": (tenfold, None),
            "error": (failing(ValueError()), RunFailed),
            "exit": (failing(SystemExit()), RunFailed),
            "too few": (lambda items: tenfold(items)[1:], WrongOutputCount),
            "too many": (lambda items: [*tenfold(items), 0], WrongOutputCount),
        }
        run, error = runs[outcome]
        self.worker.go_on(run)
        told = await asyncio.wait_for(self.log.batches.get(), 60)
        assert (len(told["queue_wait_s"]), told["failed"]) == (len(self.running), error is not None)
        for item in self.running:
            self.expected.setdefault(item, error or 10 * item)
        self.running = []
        await self._follow()

    @precondition(lambda self: not self.closing)
    @rule()
    def close_and_drain(self) -> None:
        self.runner.run(self._close(drain=True))

    @rule()
    def close_at_once(self) -> None:
        self.runner.run(self._close(drain=False))

    async def _close(self, *, drain: bool) -> None:
        self.closing = asyncio.create_task(self.batcher.close(drain=drain))
        if not drain:
            for item in range(len(self.tasks)):
                self.expected.setdefault(item, BatcherClosed)
            await asyncio.wait_for(self.closing, 60)
            if self.running:
                self.worker.go_on()
            self.running, self.queued = [], deque()
        await self._follow()

    async def _follow(self) -> None:
        """Wait for what the batcher must do now, and see that it does that."""
        await idle()
        if self.running or not self.queued:
            return
        if any(deadline > self.clock.now for _, deadline in self.queued):
            self.running = await self.worker.batch()
            assert 0 < len(self.running) <= self.MAX_BATCH
            computed = deque(self.running)
            while computed:
                item, deadline = self.queued.popleft()
                if deadline <= self.clock.now:
                    self.expected[item] = DeadlineExpired
                else:
                    assert item == computed.popleft()
        await idle()
        while self.queued and self.queued[0][1] <= self.clock.now:  # late ones behind the last that was computed
            if self.running and not self.tasks[self.queued[0][0]].done():
                break  # in a later batch, which is looked at when its turn comes
            item, _ = self.queued.popleft()
            await asyncio.wait([self.tasks[item]], timeout=60)
            self.expected[item] = DeadlineExpired

    @invariant()
    def settled_exactly_as_expected(self) -> None:
        assert self.worker.entered.empty()
        assert self.batcher.depth() == len(self.queued)
        for item, task in enumerate(self.tasks):
            assert task.done() == (item in self.expected), item
            if task.done():
                assert found(task) == self.expected[item], item

    def teardown(self) -> None:
        self.runner.run(self._close(drain=False))
        self.settled_exactly_as_expected()
        self.runner.close()


def found(task: asyncio.Task[int]) -> object:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return task.result() if error is None else type(error)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(deadline=None, max_examples=100, stateful_step_count=30)
