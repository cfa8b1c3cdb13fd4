"""Starting, closing, observing and health of a batcher."""

import asyncio
import gc
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import pytest
from batcher_worker import Clock, Log, Watched, Worker, asked, failing, idle, occupied, started, submitted, tenfold

from service.inference.batching.errors import BatcherClosed


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


async def test_a_draining_close_waits_for_a_call_that_nobody_waits_for() -> None:
    worker = Worker()
    batcher, first = await occupied(worker)
    first.cancel()
    closing = asyncio.create_task(batcher.close())
    await idle()
    assert batcher.in_flight() == 0
    assert not closing.done()
    worker.go_on()
    await closing


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
    worker.go_on()  # the batch that was under way
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


def test_the_standard_library_is_all_it_needs() -> None:
    code = (
        "import sys; before = set(sys.modules); "
        "import service.inference.batching.batcher; print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    roots = {name.split(".")[0] for name in loaded}
    assert roots - set(sys.stdlib_module_names) == {"service"}
