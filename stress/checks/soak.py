"""Check `soak`: tens of thousands of requests of every kind; constant memory, threads and files, correct counts."""

import asyncio
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from stress.clients.pictures import FORMATS, form, form_type, picture, zipped
from stress.clients.wire import Connection, Cut, Reply, connect, exchange, head, post
from stress.processes.process import Process, serving
from stress.results import Result, Shown, Table

CLIENTS = 8
#: Requests after which everything is as large as it will be; a fiftieth of them all in a long run.
SETTLED_AFTER = 1000
MAX_GROWTH = 1.1
MAX_BATCH = 12
_LINES = [("Accept", "application/x-ndjson")]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and its expected answer."""

    kind: str
    request: bytes
    pictures: int = 0  # sound ones
    spoilt: int = 0
    leaves_after: int | None = None  # bytes


@dataclass(slots=True)
class Counts:
    """Requests sent and answers received by the clients."""

    kinds: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    spoilt: int = 0
    left: int = 0  # pictures of disconnected clients: outcome unknown
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Size:
    """Memory, threads and open files of the idle process, and of its workers."""

    resident_bytes: int
    threads: int
    open_files: int


async def soak(count: int, artefact: Path | None, shown: Shown, *, seed: int = 0, workers: int = 1) -> Result:
    """Run the check."""
    shown.total(count)
    began_s, counts = time.monotonic(), Counts()
    chance = Random(seed)
    first = min(SETTLED_AFTER, count // 2)
    settings = {"provider": "cpu", "workers": str(workers)}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), artefact, **settings) as process:
        await asyncio.to_thread(process.wait_listening)
        # asyncio's own pool fills as it is needed.
        pool = process.threads() + workers * min(32, (os.cpu_count() or 1) + 4)
        await _ask(process, chance, first, counts, shown)
        early = await _quiet(process)
        await _ask(process, chance, count - first, counts, shown)
        late = await _quiet(process)
        said = await _metrics(process)
        status = process.running()
        errors = [line for line in process.lines if " ERROR " in line or " CRITICAL " in line]
    faults = [*counts.faults, *_grown(early, late, pool), *_disagreeing(counts, said), *errors[:3]]
    faults += [] if status else ["the service ended"]
    return _result(count, first, seed, counts, (early, late), said, faults, time.monotonic() - began_s)


def _asked(chance: Random) -> Asked:
    """One request: of ten, five single pictures, two batches, one NDJSON, one broken picture, one disconnect."""
    kind = chance.choice(("single", "single", "single", "form", "form", "batch", "batch", "lines", "spoilt", "leaving"))
    maps = chance.choice(("none", "none", "attention", "evidence", "attention,evidence"))
    some = [
        (f"{n}.x", picture(n, chance.choice(FORMATS))) for n in chance.sample(range(60), chance.randint(2, MAX_BATCH))
    ]
    single = some[0][1]
    if kind == "form":
        return Asked(kind, post(f"/classify?maps={maps}", form_type(), form("image", some[:1])), 1)
    if kind == "batch":
        spoilt = [("cut.jpg", single[: len(single) // 3])] * chance.randint(0, 2)
        body = form("images", [*some, *spoilt])
        return Asked(kind, post(f"/classify/batch?maps={maps}", form_type(), body), len(some), len(spoilt))
    if kind == "lines":
        request = post(f"/classify/batch?maps={maps}", "application/zip", zipped(some), _LINES)
        return Asked(kind, request, len(some))
    if kind == "spoilt":
        return Asked(kind, post("/classify", "image/*", single[: chance.randrange(1, 20)]), 0, 1)
    request = post(f"/classify?maps={maps}", "image/*", single)
    if kind == "leaving":
        batch = chance.random() < 0.5
        request = post("/classify/batch", "application/zip", zipped(some)) if batch else request
        whole = chance.random() < 0.5
        at = len(request) if whole else chance.randrange(len(request))
        return Asked(kind, request, len(some) if batch else 1, leaves_after=at)
    return Asked(kind, request, 1)


async def _ask(process: Process, chance: Random, count: int, counts: Counts, shown: Shown) -> None:
    """Send a number of requests from several clients with keep-alive connections."""
    left = iter(range(count))

    async def client() -> None:
        connection: Connection | None = None
        for _ in left:
            asked = _asked(chance)
            counts.kinds[asked.kind] += 1
            if asked.leaves_after is not None:
                counts.left += asked.pictures
                await _leave(process, asked, asked.leaves_after)
            else:
                connection = connection or await connect(process.address)
                connection = await _answered(connection, asked, counts)
            shown.step()
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def _answered(connection: Connection, asked: Asked, counts: Counts) -> Connection | None:
    try:
        await connection.send(asked.request)
        reply = await connection.answer()
    except (Cut, ConnectionError) as error:
        counts.faults.append(f"{asked.kind}: {error}")
        connection.close()
        return None
    if wrong := _wrong(reply, asked):
        counts.faults.append(wrong)
    counts.pictures += asked.pictures
    counts.spoilt += asked.spoilt
    if not reply.closes:
        return connection
    connection.close()
    return None


def _wrong(reply: Reply, asked: Asked) -> str:
    if asked.kind == "spoilt":
        return "" if reply.status in (415, 422) else f"a spoilt picture was answered {reply.status}"
    if reply.status != 200:
        return f"{asked.kind} was answered {reply.status}"
    count = f'"pictures":{asked.pictures + asked.spoilt},"problems":{asked.spoilt},'.encode()
    if asked.kind in ("batch", "lines") and count not in reply.body:
        return f"a batch does not say {count.decode()}"
    return ""


async def _leave(process: Process, asked: Asked, at: int) -> None:
    connection = await connect(process.address)
    try:
        await connection.send(asked.request[:at])
    except ConnectionError:
        pass
    finally:
        connection.reset()


async def _quiet(process: Process) -> Size:
    """Size of the process after all work is done and connections are closed."""
    for _ in range(600):
        if "marrowlens_in_flight_pictures 0.0" in await _text(process):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    return Size(process.resident_bytes(), process.threads(), process.open_files())


async def _text(process: Process) -> str:
    asked = head("GET", "/metrics", [("Connection", "close")])
    return (await exchange(process.address, asked)).body.decode()


async def _metrics(process: Process) -> dict[str, int]:
    """Picture counts by outcome, from the service's metrics."""
    found = {}
    for line in (await _text(process)).splitlines():
        if line.startswith("marrowlens_pictures_total{"):
            found[line.split('"')[1]] = int(float(line.split()[-1]))
    return found


def _grown(early: Size, late: Size, max_threads: int) -> list[str]:
    growth = late.resident_bytes / early.resident_bytes
    faults = [f"resident memory grew {growth:.2f} times"] if growth > MAX_GROWTH else []
    faults += [f"{late.threads} threads, {max_threads} at most"] if late.threads > max_threads else []
    faults += [f"{late.open_files} open files after {early.open_files}"] if late.open_files > early.open_files else []
    return faults


def _disagreeing(counts: Counts, said: dict[str, int]) -> list[str]:
    """Differences between the clients' counts and the service's; disconnects may have any outcome."""
    spoilt = sum(said.get(outcome, 0) for outcome in ("undecodable", "unsupported", "too_large"))
    faults = []
    if not counts.pictures <= said.get("answered", 0) <= counts.pictures + counts.left:
        faults.append(f"the service counts {said.get('answered', 0)} answered, its clients {counts.pictures}")
    if spoilt != counts.spoilt:
        faults.append(f"the service counts {spoilt} spoilt pictures, its clients {counts.spoilt}")
    others = set(said) - {"answered", "undecodable", "unsupported", "too_large", "cancelled"}
    return faults + [f"the service counts {said[name]} {name}" for name in sorted(others) if said[name]]


def _result(
    count: int,
    first: int,
    seed: int,
    counts: Counts,
    sizes: tuple[Size, Size],
    said: dict[str, int],
    faults: list[str],
    seconds: float,
) -> Result:
    rows = [
        [f"after {asked}", f"{size.resident_bytes / 1e6:.0f}", str(size.threads), str(size.open_files)]
        for asked, size in zip((first, count), sizes, strict=True)
    ]
    growth = sizes[1].resident_bytes / sizes[0].resident_bytes
    kinds = [[kind, str(number)] for kind, number in counts.kinds.most_common()]
    heard = [
        ["sound pictures of clients that stayed", str(counts.pictures), f"answered: {said.get('answered', 0)}"],
        [
            "spoilt pictures",
            str(counts.spoilt),
            f"undecodable: {said.get('undecodable', 0)}, unsupported: {said.get('unsupported', 0)}",
        ],
        [
            "pictures of clients that left",
            str(counts.left),
            f"answered or cancelled: {said.get('cancelled', 0)} cancelled",
        ],
    ]
    return Result(
        "soak",
        "Soak",
        f"{count} requests of {CLIENTS} clients, seed {seed}; sizes while idle. Required: resident memory at the "
        f"end at most {MAX_GROWTH:g} times that after {first}, no more open files than then, no more threads than "
        "at the start with a full asyncio pool, and every picture counted once.",
        [
            Table(["requests", "resident, MB", "threads", "open files"], [*rows, ["ratio", f"{growth:.2f}", "", ""]]),
            Table(["kind", "requests"], kinds),
            Table(["clients know of", "pictures", "the service counts"], heard),
        ],
        faults,
        seconds,
    )
