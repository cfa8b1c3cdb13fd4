"""Preparing items in threads before they join a batch."""

import asyncio
import gc
import threading
import weakref
from array import array
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from batcher_worker import Worker, asked, idle, tenfold

from service.inference.batching.batcher import Batcher
from service.inference.batching.errors import RunFailed


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
