"""A listener for orders as the tests meet it: a recorder that takes them, lines to it, and a log that is watched."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import hl7.mllp
from laboratory import OBR, ORC, PID, SECRETS, SPM, order
from receivers import Line

from service.config.lis import LisSettings
from service.lis.exchange.mllp.listener import OrderListener
from service.lis.exchange.orders import IncomingOrder, MessageIdentity, OrderAction, OrderRefused
from service.lis.metrics import ConnectionMetrics
from service.telemetry.metric_registry import MetricRegistry

GOOD = order(PID, SPM, ORC, OBR)
ENHANCED = order(PID, SPM, ORC, OBR, f15="AL", f16="AL")


class OrderRecorder:
    """A laboratory that records its orders; without specimens, it can cancel none."""

    def __init__(self) -> None:
        self.taken: list[tuple[MessageIdentity, Sequence[IncomingOrder]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()
        self.fails: Exception | None = None
        self.registry = MetricRegistry()
        self.metrics = ConnectionMetrics(self.registry)

    async def take(self, identity: MessageIdentity, orders: Sequence[IncomingOrder]) -> None:
        self.asked.set()
        await self.open.wait()
        if self.fails:
            raise self.fails
        if any(each.action is OrderAction.CANCEL for each in orders):
            raise OrderRefused("204", "no specimen of this number is known", "SPM^1^2")
        self.taken.append((identity, orders))


class _Lines(logging.Handler):
    """All log lines, with tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter("%(message)s").format(record))


@contextmanager
def quiet() -> Iterator[None]:
    """No log may hold patient data."""
    root, lines = logging.getLogger(), _Lines()
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(lines)
        root.setLevel(level)
    assert not [line for line in lines.lines for secret in SECRETS if secret in line]


@asynccontextmanager
async def listening(recorder: OrderRecorder, **settings: Any) -> AsyncIterator[OrderListener]:
    told = {"hl7_listen": "127.0.0.1:0", "hl7_timeout_s": 20, **settings}
    listener = OrderListener(LisSettings(**told), recorder.take, recorder.metrics)
    with quiet():
        listener.bind()
        serving = asyncio.create_task(listener.serve())
        try:
            yield listener
        finally:
            await listener.close()
            await asyncio.wait({serving})


@asynccontextmanager
async def line_to(listener: OrderListener, **tls: Any) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection(*listener.address, **tls)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def said(frame: bytes, name: str = "MSA") -> list[str]:
    return [str(field) for field in hl7.parse(frame.decode()).segment(name)][1:]


async def still_takes(listener: OrderListener) -> bool:
    """Whether a correct sender is answered."""
    async with line_to(listener) as line:
        await line.say(GOOD)
        return said(await line.frame())[0] == "AA"
