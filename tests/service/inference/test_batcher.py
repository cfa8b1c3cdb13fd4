"""Batching: which items share a call, who gets which result, deadlines, failures, refusals and the queue delay."""

import asyncio
from typing import Any

import pytest
from batcher_worker import HOUR_MS, Clock, Log, Worker, asked, failing, idle, occupied, started, submitted, tenfold

from service.inference.batching.batcher import LATENESS_MARGIN, Batcher
from service.inference.batching.errors import DeadlineExpired, QueueFull, RunFailed, WrongOutputCount


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
    assert batcher.queued() == len(staying)
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
    assert batcher.queued() == 0
    worker.go_on()
    assert await asyncio.gather(*blocking) == ([] if computing else [0])
    await batcher.close()


async def test_one_timer_keeps_deadlines_in_any_order() -> None:
    worker, loop = Worker(), asyncio.get_running_loop()
    batcher, first = await occupied(worker, clock=loop.time)
    now, expired = loop.time(), []

    async def wait_for(item: int, deadline: float) -> None:
        with pytest.raises(DeadlineExpired):
            await batcher.submit(item, deadline=deadline)
        expired.append(item)

    patient = await submitted(batcher, 9, deadline=now + 600)
    async with asyncio.timeout(60):
        await asyncio.gather(
            wait_for(3, now + 0.06), wait_for(1, now + 0.02), wait_for(2, now + 0.04), wait_for(0, now)
        )
    assert expired == [0, 1, 2, 3]
    worker.go_on()
    assert await worker.batch() == [9]
    worker.go_on()
    assert await asyncio.gather(first, *patient) == [0, 90]
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


async def test_an_idle_runner_waits_for_company_until_the_batch_is_full() -> None:
    worker, log = Worker(), Log()
    batcher = await started(worker, max_batch_size=2, max_queue_delay_ms=HOUR_MS, observer=log)
    first = await submitted(batcher, 1)
    assert batcher.queued() == 1
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
    assert batcher.queued() == 2
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
    assert batcher.queued() == 0
    await batcher.close()
    assert worker.entered.empty()
