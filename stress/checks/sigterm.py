"""Check `sigterm`: SIGTERM under full load; every accepted request is answered and the process ends in time.

A request is accepted if the access log names it. A connection that is closed before the service read from it is not
accepted, and a client may repeat it (RFC 9110, 9.2.2); those are counted, because they should be few.
"""

import asyncio
import random
import re
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from stress.clients.pictures import form, form_type, picture, zipped
from stress.clients.wire import Connection, Cut, Reply, connect, exchange, head, post
from stress.processes.process import Process, serving
from stress.results import Result, Shown, Table

DRAIN_DELAY_S = 1.0
GRACE_S = 20.0
#: Additional seconds for the end of the interpreter.
END_S = 10.0
KEPT, FRESH, BATCHES, BATCH_PICTURES = 8, 12, 4, 40
_LOGGED = re.compile(r"service\.requests: \S+ \S+ (\d+) [\d.]+ ms (\S+)$")


@dataclass(slots=True)
class Fate:
    """One request: send time and outcome; no status if it was cut off."""

    sent_s: float
    status: int | None = None
    begun: bool = False
    fault: str = ""


@dataclass(slots=True)
class Round:
    """Observations of the clients of one round, by request id."""

    fates: dict[str, Fate] = field(default_factory=dict)
    ready: list[tuple[float, int]] = field(default_factory=list)
    refused_s: float | None = None  # when the first connection was refused
    sigterm_s: float | None = None
    answered: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: int = 0

    def over(self) -> bool:
        return self.refused_s is not None

    def count(self) -> None:
        self.answered += 1
        if self.answered >= self.wanted:
            self.enough.set()

    def refuse(self) -> None:
        if self.refused_s is None:
            self.refused_s = time.monotonic()
        self.enough.set()  # or a service that died by itself would be waited for


async def sigterm(rounds: int, artefact: Path | None, shown: Shown, *, seed: int = 0, workers: int = 1) -> Result:
    """Run the check."""
    shown.total(rounds)
    began_s, chance = time.monotonic(), random.Random(seed)
    faults: list[str] = []
    rows: list[list[str]] = []
    for number in range(1, rounds + 1):
        found, row = await _round(artefact, workers, after=chance.randint(30, 150))
        faults += [f"round {number}: {fault}" for fault in found]
        rows.append([str(number), *row])
        shown.step()
    heads = ["round", "accepted", "answered 200", "refused 503", "lost", "closed unread", "ended after, s", "status"]
    return Result(
        "sigterm",
        "SIGTERM under full load",
        f"{rounds} times. {KEPT} clients on keep-alive connections, {FRESH} on a new one for each request and "
        f"{BATCHES} with "
        f"batches of {BATCH_PICTURES} continue until they are refused. `drain_delay_s` {DRAIN_DELAY_S:g}, "
        f"`shutdown_timeout_s` {GRACE_S:g}. Accepted: named in the access log. Closed unread: the connection was "
        "closed before the service read the request, so it can be sent again.",
        [Table(heads, [*rows, _sum(rows)])],
        faults,
        time.monotonic() - began_s,
    )


async def _round(artefact: Path | None, workers: int, after: int) -> tuple[list[str], list[str]]:
    settings = {"drain_delay_s": str(DRAIN_DELAY_S), "shutdown_timeout_s": str(GRACE_S), "workers": str(workers)}
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder), artefact, "--access-log", **settings) as process:
            await asyncio.to_thread(process.wait_listening)
            seen = Round(wanted=after)
            clients = [
                *(asyncio.create_task(_kept(process, seen, n)) for n in range(KEPT)),
                *(asyncio.create_task(_fresh(process, seen, n)) for n in range(FRESH)),
                *(asyncio.create_task(_batches(process, seen, n)) for n in range(BATCHES)),
                asyncio.create_task(_probe(process, seen)),
            ]
            await seen.enough.wait()
            seen.sigterm_s = time.monotonic()
            process.signal(signal.SIGTERM)
            status = await asyncio.to_thread(process.wait_ended)
            took_s = time.monotonic() - seen.sigterm_s
            seen.refuse()
            await asyncio.gather(*clients)
            return _judged(seen, process, status, took_s)


def _judged(seen: Round, process: Process, status: int, took_s: float) -> tuple[list[str], list[str]]:
    logged = {match[2]: int(match[1]) for line in process.lines if (match := _LOGGED.search(line))}
    fates = {name: fate for name, fate in seen.fates.items() if not name.startswith("probe")}
    cut = {name: fate for name, fate in fates.items() if fate.status is None}
    lost = [name for name, fate in cut.items() if name in logged or fate.begun]
    faults = [f"{name} was accepted and not answered (log: {logged.get(name)})" for name in lost]
    faults += [f"{name}: {fate.fault}" for name, fate in fates.items() if fate.fault]
    faults += _order(seen, fates)
    if status != 0:
        faults.append(f"exit status {status}")
    if took_s > DRAIN_DELAY_S + GRACE_S + END_S:
        faults.append(f"it took {took_s:.1f} s to end")
    answered = [fate.status for fate in fates.values()]
    counts = [sum(name in logged for name in fates), answered.count(200), answered.count(503), len(lost)]
    return faults, [*map(str, counts), str(len(cut) - len(lost)), f"{took_s:.1f}", str(status)]


def _order(seen: Round, fates: dict[str, Fate]) -> list[str]:
    """Check the order: readiness fails, then connections are refused; in between pictures are answered."""
    assert seen.sigterm_s is not None
    unready = [at for at, status in seen.ready if status == 503]
    if not unready:
        return ["readiness never failed"]
    faults = []
    if unready[0] < seen.sigterm_s:
        faults.append("readiness failed before the signal")
    if seen.refused_s is not None and seen.refused_s < unready[0]:
        faults.append("connections were refused before readiness failed")
    if not any(fate.sent_s > unready[0] and fate.status == 200 for fate in fates.values()):
        faults.append("no picture sent after readiness failed was answered")
    return faults


def _sum(rows: list[list[str]]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    sums = [str(sum(map(int, column))) for column in columns[1:6]]
    return ["all", *sums, max(columns[6], key=float), "/".join(sorted(set(columns[7])))]


async def _kept(process: Process, seen: Round, number: int) -> None:
    connection: Connection | None = None
    count = 0
    while not seen.over():
        count += 1
        name = f"kept-{number}-{count}"
        request = post("/classify?maps=none", "image/jpeg", picture(number), [("X-Request-ID", name)])
        try:
            connection = connection or await connect(process.address)
        except OSError:
            seen.refuse()
            break
        reply = await _sent(connection, request, seen, name)
        if reply is None or reply.closes:
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


async def _fresh(process: Process, seen: Round, number: int) -> None:
    body = form("image", [("cell.png", picture(number, "PNG"))])
    await _each(process, seen, f"fresh-{number}", "/classify?maps=attention", form_type(), body)


async def _batches(process: Process, seen: Round, number: int) -> None:
    body = zipped([(f"{at}.jpg", picture(at)) for at in range(BATCH_PICTURES)])
    await _each(process, seen, f"batch-{number}", "/classify/batch?maps=none", "application/zip", body)


async def _each(process: Process, seen: Round, kind: str, target: str, content_type: str, body: bytes) -> None:
    """Send one request after the other, each on a new connection."""
    count = 0
    while not seen.over():
        count += 1
        name = f"{kind}-{count}"
        own = [("X-Request-ID", name), ("Accept", "application/x-ndjson, application/json")]
        try:
            async with await connect(process.address) as connection:
                await _sent(connection, post(target, content_type, body, own), seen, name)
        except OSError:
            seen.refuse()


async def _sent(connection: Connection, request: bytes, seen: Round, name: str) -> Reply | None:
    fate = seen.fates[name] = Fate(time.monotonic())
    try:
        await connection.send(request)
    except ConnectionError:
        pass  # the access log shows whether it was read nevertheless
    try:
        reply = await connection.answer()
    except Cut as cut:
        fate.begun = cut.begun
        return None
    fate.status = reply.status
    fate.fault = _wrong(reply, name)
    seen.count()
    return reply


def _wrong(reply: Reply, name: str) -> str:
    if reply.status == 503:
        return "" if reply.closes else "a 503 without Connection: close"
    if reply.status != 200:
        return f"status {reply.status}"
    whole = f'"pictures":{BATCH_PICTURES},"problems":0'.encode()
    return "an incomplete batch" if name.startswith("batch") and whole not in reply.body else ""


async def _probe(process: Process, seen: Round) -> None:
    while not seen.over():
        try:
            reply = await exchange(process.address, head("GET", "/health/ready", [("Connection", "close")]))
            seen.ready.append((time.monotonic(), reply.status))
        except Cut:
            pass  # as above: it may be asked again
        except OSError:
            seen.refuse()
