"""Random interleavings of submit, cancel, expiry, failure and close, compared with a simple model of the batcher."""

import asyncio
from collections import deque

import hypothesis.strategies as st
from batcher_worker import Clock, Log, Outcome, Worker, asked, failing, idle, started, tenfold
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from examples import examples
from service.inference.batching.batcher import LATENESS_MARGIN
from service.inference.batching.errors import BatcherClosed, DeadlineExpired, QueueFull, RunFailed, WrongOutputCount


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
        assert self.batcher.queued() == len(self.queued)
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


TestInterleavings.settings = settings(deadline=None, max_examples=examples(100), stateful_step_count=30)
