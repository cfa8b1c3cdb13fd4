"""Delivery continues when a transport refuses, hangs or breaks, and when the database fails."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from lab import PLAIN, classified, manifest, open_request, sign_request, use_cases, user
from sqlalchemy.orm import Session

from service.lis.exchange.delivery import DeliveryWorker
from service.lis.exchange.transport import NoAnswer, Rejected
from service.lis.metrics import LisMetrics
from service.lis.storage.database import Database
from service.lis.storage.outbox import Retry
from service.lis.use_cases import UseCases
from service.telemetry.metric_registry import MetricRegistry

Answer = Callable[[str], Awaitable[str]]


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url) as opened:
        yield opened


class Scripted:
    """A transport with scripted answers; afterwards it accepts everything."""

    def __init__(self, *script: Answer) -> None:
        self._script = list(script)
        self.taken: list[str] = []
        self.tried: list[str] = []
        self.closed = False
        self.heard = asyncio.Condition()

    async def deliver(self, message: str, control_id: str) -> str:
        async with self.heard:
            self.tried.append(control_id)
            self.heard.notify_all()
        if self._script:
            await self._script.pop(0)(message)
        async with self.heard:
            self.taken.append(message)
            self.heard.notify_all()
        return "AA"

    async def close(self) -> None:
        self.closed = True

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self.heard:
            await self.heard.wait_for(holds)


def raising(error: Exception) -> Answer:
    async def answer(_: str) -> str:
        raise error

    return answer


async def never(_: str) -> str:
    await asyncio.Event().wait()
    raise AssertionError


def signed(front: UseCases, artefact: Path, number: str) -> str:
    opened = front.open(open_request(number), user("m.muster"))
    revision, *_ = front.add(opened.id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.sign(opened.id, sign_request(revision), user("dr.beispiel"))
    return opened.id


def worker(
    front: UseCases, wire: Scripted, *, time_limit_s: float = 30, registry: MetricRegistry | None = None
) -> DeliveryWorker:
    metrics = LisMetrics(registry or MetricRegistry())
    return DeliveryWorker(front.database, PLAIN.name, wire, Retry(0.001, 0.01), time_limit_s, metrics)


async def run_until(delivery: DeliveryWorker, wire: Scripted, holds: Callable[[], bool]) -> None:
    running = asyncio.create_task(delivery.run())
    try:
        await wire.until(holds)
    finally:
        delivery.stop()
        await running
        await delivery.close()


def states(front: UseCases, specimen: str) -> list[str]:
    return [message.state for version in front.get(specimen).versions for message in version.messages]


async def test_what_waits_is_delivered_and_the_wire_is_closed(front: UseCases, artefact: Path) -> None:
    ids = [signed(front, artefact, f"BM-{n}") for n in range(3)]
    wire = Scripted()
    await run_until(worker(front, wire), wire, lambda: len(wire.taken) == 3)
    assert [states(front, each) for each in ids] == [["delivered"]] * 3
    assert wire.closed


@pytest.mark.parametrize(
    "error", [NoAnswer("time-out"), RuntimeError("a fault of the wire's own: Muster"), OSError("gone")]
)
async def test_what_nobody_answers_is_sent_again_as_it_was(
    front: UseCases, artefact: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    specimen = signed(front, artefact, "BM-1")
    wire = Scripted(raising(error), raising(error))
    with caplog.at_level(logging.DEBUG):
        await run_until(worker(front, wire), wire, lambda: len(wire.taken) == 1)
    assert len(wire.tried) == 3 and len(set(wire.tried)) == 1
    assert states(front, specimen) == ["delivered"]
    assert "Muster" not in caplog.text, "an unexpected error's own words can be a patient's"


async def test_a_refusal_is_final_and_the_next_one_goes_on(front: UseCases, artefact: Path) -> None:
    refused, taken = signed(front, artefact, "BM-1"), signed(front, artefact, "BM-2")
    wire = Scripted(raising(Rejected("AR", "MSA|AR")))
    registry = MetricRegistry()
    await run_until(worker(front, wire, registry=registry), wire, lambda: len(wire.taken) == 1)
    assert (states(front, refused), states(front, taken)) == (["dead"], ["delivered"])
    labels = {"channel": "plain", "outcome": "rejected"}
    assert registry.get_sample_value("marrowlens_lis_delivery_attempts_total", labels) == 1


async def test_a_delivery_that_hangs_is_given_up_within_its_lease(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, "BM-1")
    wire = Scripted(never)
    await run_until(worker(front, wire, time_limit_s=0.05), wire, lambda: len(wire.taken) == 1)
    assert len(wire.tried) == 2
    assert states(front, specimen) == ["delivered"]


async def test_a_new_message_is_sent_when_the_worker_is_told(front: UseCases, artefact: Path) -> None:
    wire = Scripted()
    delivery = worker(front, wire)
    running = asyncio.create_task(delivery.run())
    await asyncio.to_thread(signed, front, artefact, "BM-1")
    delivery.wake()
    await wire.until(lambda: len(wire.taken) == 1)
    delivery.stop()
    await running


async def test_what_is_under_way_at_the_end_is_brought_to_its_end(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, "BM-1")
    go = asyncio.Event()

    async def slowly(_: str) -> str:
        await go.wait()
        return "AA"

    wire = Scripted(slowly)
    delivery = worker(front, wire)
    running = asyncio.create_task(delivery.run())
    await wire.until(lambda: len(wire.tried) == 1)
    delivery.stop()
    go.set()
    await running
    assert states(front, specimen) == ["delivered"]


async def test_a_worker_that_is_cut_off_leaves_its_message_to_the_next(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, "BM-1")
    wire = Scripted(never)
    running = asyncio.create_task(worker(front, wire, time_limit_s=30).run())
    await wire.until(lambda: len(wire.tried) == 1)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    # Nobody can know whether the receiver has it: it is sent again at once, not when its lease has ended.
    other = Scripted()
    await run_until(worker(front, other), other, lambda: len(other.taken) == 1)
    assert other.tried == wire.tried
    assert states(front, specimen) == ["delivered"]


class Gated(Database):
    """A database whose writers block while it is closed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.waits, self.open = threading.Event(), threading.Event()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        self.waits.set()
        assert self.open.wait(60)
        with super().writing() as session:
            yield session


async def test_a_worker_that_is_cut_off_while_it_claims_leaves_its_message_to_the_next(
    front: UseCases, artefact: Path, database_url: str
) -> None:
    specimen = signed(front, artefact, "BM-1")
    gated, wire = Gated(database_url), Scripted()
    retry, metrics = Retry(0.001, 0.01), LisMetrics(MetricRegistry())
    running = asyncio.create_task(DeliveryWorker(gated, PLAIN.name, wire, retry, 30, metrics).run())
    await asyncio.to_thread(gated.waits.wait, 60)
    running.cancel()
    await asyncio.sleep(0)  # the cancellation reaches the worker; its thread still stands at the door
    gated.open.set()
    with suppress(asyncio.CancelledError):
        await running
    gated.close()
    assert wire.tried == []
    other = Scripted()
    await run_until(worker(front, other), other, lambda: len(other.taken) == 1)
    assert states(front, specimen) == ["delivered"]
