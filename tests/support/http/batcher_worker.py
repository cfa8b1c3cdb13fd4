"""A batcher of numbers for tests: a runner that waits for the test, a clock and an observer that the test reads."""

import asyncio
import queue
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from service.inference.batching.batcher import Batcher

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
    """An observer that records all batches."""

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
    """A block that calls `written` for each item written into it."""

    def __init__(self, count: int, written: Callable[[int], None]) -> None:
        super().__init__([-1] * count)
        self._written = written

    def __setitem__(self, index: Any, item: Any) -> None:
        super().__setitem__(index, item)
        self._written(item)


class Watched(Batcher[int, int, int]):
    """A batcher of numbers without preparation; tests can wait until an item is in a batch."""

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
        """Wait until all items are in a batch."""
        while not self._having_places.issuperset(items):
            await asyncio.wait_for(self._one_more.wait(), 60)
            self._one_more.clear()


async def idle() -> None:
    """Run everything on the event loop that does not wait for threads."""
    for _ in range(20):
        await asyncio.sleep(0)


def asked(batcher: Batcher[int, int, int], *items: int, deadline: float | None = None) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item, deadline=deadline)) for item in items]


async def submitted(batcher: Watched, *items: int, deadline: float | None = None) -> list[asyncio.Task[int]]:
    """Tasks that submit items, once all items are in a batch."""
    callers = asked(batcher, *items, deadline=deadline)
    await batcher.places(items)
    return callers


async def started(run: Outcome, **options: Any) -> Watched:
    batcher = Watched(run, **options)
    await batcher.start()
    return batcher


async def occupied(worker: Worker, **options: Any) -> tuple[Watched, asyncio.Task[int]]:
    """A batcher with a runner that is busy with item 0, so later items form batches."""
    batcher = await started(worker, **options)
    (first,) = await submitted(batcher, 0)
    assert await worker.batch() == [0]
    return batcher, first
