"""Load generator: closed loop (a client sends after its answer) and open loop (requests are sent by the clock).

Open-loop latency counts from the scheduled time, so delays of generator or server stay visible (coordinated omission).
Answers are recorded, not checked.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.traffic.wire import Address, Connection, Reply, connect

#: Sleeping is exact to a millisecond; the rest is spent turning the loop. The generator has a core of its own.
SPIN_S = 0.002


@dataclass(slots=True)
class Exchange:
    """One request: index, due, sent and end time (time.perf_counter), and its answer; None if it was cut off."""

    index: int
    due: float
    sent: float | None = None
    ended: float | None = None
    reply: Reply | None = None
    client: int = 0

    @property
    def latency_s(self) -> float:
        """Seconds from the scheduled time to the last byte."""
        assert self.ended is not None
        return self.ended - self.due


@dataclass(slots=True)
class Observed:
    """All exchanges of a load between two moments (time.perf_counter)."""

    begin: float
    end: float
    exchanges: list[Exchange] = field(default_factory=list)
    generator_share: float | None = None  # of its own core that the generator used; open loop spins and cannot say


async def closed_loop(
    address: Address, requests: Sequence[bytes], clients: int, warm_s: float, seconds: float, patience_s: float
) -> Observed:
    """Run clients that send the next request after the previous answer.

    Requests sent within the window are measured. The load continues until all of them are answered, so that the last
    requests meet the same load as the first.

    Args:
        warm_s: time before the window of `seconds`; not measured.
        patience_s: time after the window to wait for open requests.
    """
    begin = time.perf_counter() + warm_s
    seen = Observed(begin, begin + seconds)
    beyond = {client: asyncio.Event() for client in range(clients)}
    counted: set[int] = set()  # clients with a request in the window; each has one, however slow the server is
    over = asyncio.Event()
    turn = iter(range(1 << 60))

    async def client(number: int) -> None:
        connection: Connection | None = None
        try:
            while not over.is_set():
                if connection is None or not connection.open:
                    connection = await connect(address)
                index = next(turn) % len(requests)
                now = time.perf_counter()
                exchange = Exchange(index, now, now, client=number)
                if seen.begin <= now and (now < seen.end or number not in counted):
                    counted.add(number)
                    seen.exchanges.append(exchange)
                elif number in counted:
                    beyond[number].set()
                await _exchange(connection, requests[index], exchange)
        finally:
            if connection is not None:
                connection.close()

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.sleep(warm_s)
    began, used_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(max(0.0, seen.end - time.perf_counter()))
    seen.generator_share = (time.process_time() - used_s) / max(1e-9, time.perf_counter() - began)
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await asyncio.gather(*(event.wait() for event in beyond.values()))
            over.set()
            await asyncio.gather(*tasks, return_exceptions=True)  # leave no server with abandoned work
    await _stop(tasks)
    return seen


async def open_loop(
    address: Address,
    requests: Sequence[bytes],
    due_s: NDArray[np.float64],
    connections: int,
    window_s: tuple[float, float],
    patience_s: float,
) -> Observed:
    """Send requests at their scheduled times, independent of answers.

    Args:
        due_s: scheduled time of each request, in seconds from the start, ascending.
        connections: maximum of open connections. Other requests wait here, and the wait counts as latency.
        window_s: start and end of the measurement, in seconds from the start.
        patience_s: time after the last scheduled request to wait for open ones.
    """
    start = time.perf_counter() + 0.05
    seen = Observed(start + window_s[0], start + window_s[1])
    idle: list[Connection] = []
    places = asyncio.Semaphore(connections)

    async def one(exchange: Exchange) -> None:
        async with places:
            exchange.sent = time.perf_counter()
            try:
                connection = idle.pop() if idle else await connect(address)
            except OSError:
                exchange.ended = time.perf_counter()
                return
            try:
                await _exchange(connection, requests[exchange.index], exchange)
            finally:
                if connection.open and exchange.ended is not None:
                    idle.append(connection)
                else:
                    connection.close()

    under_way: set[asyncio.Task[None]] = set()
    for number, offset in enumerate(due_s.tolist()):
        exchange = Exchange(number % len(requests), start + offset)
        await _until(exchange.due)
        seen.exchanges.append(exchange)
        task = asyncio.create_task(one(exchange))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way and patience_s:
        await asyncio.wait(under_way, timeout=patience_s)
    await _stop(list(under_way))
    for connection in idle:
        connection.close()
    return seen


def poisson(rate_per_s: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Scheduled times of independent clients: exponential gaps, reproducible by seed."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate_per_s, int(rate_per_s * seconds * 1.5) + 50)
    due: NDArray[np.float64] = np.cumsum(gaps)
    return due[due < seconds]


async def _exchange(connection: Connection, request: bytes, exchange: Exchange) -> None:
    try:
        exchange.reply = await connection.send(request)
        exchange.ended = exchange.reply.at
    except ConnectionError:
        exchange.ended = time.perf_counter()


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.perf_counter() - SPIN_S))
    while time.perf_counter() < moment:  # noqa: ASYNC110 (a turn of the loop is finer than any timer)
        await asyncio.sleep(0)


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, OSError):
            raise result
