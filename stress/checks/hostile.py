"""Check `hostile`: thousands of hostile cases from one seed; no 5xx, no crash, nothing written, memory returned, other
clients unaffected.

Blocks of hostile cases, ordinary clients and pauses alternate, so that the well-behaved client's times are compared
on the same machine within minutes.
"""

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

from stress.attacks import bombs, odd, packed, slow, spoilt
from stress.attacks.case import CANARY, Case
from stress.clients.neighbour import Neighbour, Windows, neighbour, p99, table
from stress.clients.pictures import FORMATS, picture, zipped
from stress.clients.wire import Address, exchange, post
from stress.processes.memory import lowest_bytes, settled_bytes
from stress.processes.process import Process, serving
from stress.results import Result, Shown, Table

ROOT = Path(__file__).parents[2]
#: A slow client is borne no longer than this; in a long run 30 s each would only make it longer.
SETTINGS = {"request_timeout_s": "10", "max_body_bytes": str(32 * 2**20), "log_level": "info"}
HOSTILE_CLIENTS = 4
SLOW_CLIENTS = 100
BLOCK = 500
#: After each block: answers to the well-behaved client while it is alone, and requests of ordinary clients.
ALONE_ANSWERS, ORDINARY_REQUESTS = 100, 100
ALONE, SLOW, ORDINARY, HOSTILE = (
    "alone",
    "beside slow clients",
    "beside ordinary clients",
    "beside hostile and slow clients",
)
#: Sound pictures alone do not bring memory to where hostile ones keep it: every decoder's first failure, every thread's
#: first allocation takes its share once. With the tests' tiny model it was 122 MB after sound pictures, 136 MB after
#: 2,000 cases, 138 MB after 8,000. So growth is counted from here.
WARM_CASES = 2000
MAX_GROWTH = 1.1
MAX_SLOWER = 2.0


def _delivered(make: spoilt.Spoilt) -> Callable[[str, Random], Case]:
    return lambda family, chance: spoilt.delivered(family, chance, *make(chance))


#: family → its cases, and how many of a hundred are of it
FAMILIES: dict[str, tuple[Callable[[str, Random], Case], float]] = {
    "pictures cut off": (_delivered(spoilt.cut_off), 14),
    "pictures with bits flipped": (_delivered(spoilt.bits_flipped), 22),
    "two pictures spliced": (_delivered(spoilt.spliced), 5),
    "60,000 x 60,000 headers": (_delivered(spoilt.vast), 4),
    "several pictures in one": (_delivered(spoilt.several), 4),
    "polyglots and other files": (_delivered(spoilt.polyglot), 6),
    "bombs": (bombs.bomb, 2),
    "archives": (packed.archive, 13),
    "multipart forms": (packed.multipart, 7),
    "forms of 10,000 parts": (packed.many_parts, 0.05),
    "content types": (odd.content_type, 5),
    "paths and methods": (odd.path, 6),
    "head floods": (odd.flood, 2),
    "framing": (odd.framing, 3),
    "bodies without end": (slow.endless, 0.4),
    "slow clients": (slow.slow, 2.5),
    "clients that leave": (slow.leaving, 4),
}


@dataclass(slots=True)
class Tally:
    """Outcomes of one family of cases."""

    endings: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""

    def add(self, case: Case, ending: str, took_s: float) -> None:
        self.endings[ending] += 1
        if took_s > self.slowest_s:
            self.slowest_s, self.slowest = took_s, case.what


@dataclass(slots=True)
class Run:
    """State of the check."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {family: Tally() for family in FAMILIES})
    faults: list[str] = field(default_factory=list)
    windows: Windows = field(default_factory=lambda: {name: [] for name in (ALONE, SLOW, ORDINARY, HOSTILE)})
    #: Cases so far → resident bytes then; growth is counted from the last but one.
    resident: dict[int, int] = field(default_factory=dict)


def cases(count: int, seed: int) -> Iterator[Case]:
    """Cases, each derived from its number and the seed; at least one of every family."""
    names, shares = list(FAMILIES), [share for _, share in FAMILIES.values()]
    for number in range(count):
        chance = Random(f"{seed} {number}")
        family = names[number] if number < len(names) else chance.choices(names, shares)[0]
        yield FAMILIES[family][0](family, chance)


async def hostile(count: int, artefact: Path | None, shown: Shown, *, seed: int = 0) -> Result:
    """Run the check."""
    shown.total(count)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder), artefact, **SETTINGS) as process:
            await asyncio.to_thread(process.wait_listening)
            process.forbid_writing()
            watched = [Path(folder), ROOT / "service", ROOT / "model"]
            before = _listed(watched)
            await warm(process.address)
            run = Run(resident={0: process.resident_bytes()})
            with neighbour(process) as beside:
                await _attack(process, cases(count, seed), run, beside, shown)
            start_bytes = list(run.resident.values())[-1]
            run.resident[count] = await settled_bytes(process, MAX_GROWTH * start_bytes)
            run.faults += _after(process, beside) + _written(watched, before)
            run.faults += await _still_right(process)
    return _result(run, beside, count, seed, time.monotonic() - began_s)


async def warm(address: Address) -> None:
    """Send valid pictures of every format and size, single and in batches, concurrently."""
    large = [picture(seed, form, 3900, 3900) for seed, form in enumerate(("JPEG", "PNG", "WEBP", "JPEG"))]
    requests = [post("/classify", "image/*", picture(seed, form)) for seed in range(40) for form in FORMATS]
    requests += [post("/classify", "image/*", data) for data in large]
    batch = zipped([(f"{at}.jpg", picture(at)) for at in range(100)])
    requests += [post("/classify/batch?maps=evidence", "application/zip", batch)] * 4
    places = asyncio.Semaphore(2 * HOSTILE_CLIENTS)

    async def one(request: bytes) -> None:
        async with places:
            reply = await exchange(address, request)
            assert reply.status == 200, reply.body

    await asyncio.gather(*map(one, requests))


async def _attack(process: Process, hostile_cases: Iterator[Case], run: Run, beside: Neighbour, shown: Shown) -> None:
    done = 0
    await _alone(run, beside)
    while block := list(islice(hostile_cases, BLOCK)):
        await _block(process, block, run, shown)
        if not process.running():
            run.faults.append("the service ended: " + " / ".join(process.lines[-3:]))
            break
        await _ordinary(process, run, len(run.windows[HOSTILE]))
        await _alone(run, beside)
        if done < WARM_CASES <= (done := done + len(block)):
            run.resident[done] = await lowest_bytes(process)


async def _block(process: Process, block: list[Case], run: Run, shown: Shown) -> None:
    """Run a block: all slow clients at once, the others a few at a time."""
    queue = iter([case for case in block if not case.slow])
    places = asyncio.Semaphore(SLOW_CLIENTS)

    async def worker() -> None:
        for case in queue:
            await _one(process, case, run, shown)

    async def waiting(case: Case) -> None:
        async with places:
            await _one(process, case, run, shown)

    began_s = time.monotonic()
    slow_ones = [asyncio.create_task(waiting(case)) for case in block if case.slow]
    await asyncio.gather(*(worker() for _ in range(HOSTILE_CLIENTS)))
    busy_until_s = time.monotonic()
    await asyncio.gather(*slow_ones)
    run.windows[HOSTILE].append((began_s, busy_until_s))
    run.windows[SLOW].append((busy_until_s, time.monotonic()))


async def _one(process: Process, case: Case, run: Run, shown: Shown) -> None:
    began_s = time.monotonic()
    ending = await case.act(process.address) if process.running() else "refused"
    run.tallies[case.family].add(case, ending, time.monotonic() - began_s)
    if fault := case.fault(ending):
        run.faults.append(fault)
    shown.step()


async def _alone(run: Run, beside: Neighbour) -> None:
    """Pause: a number of answers to the well-behaved client without other load."""
    began_s, answers = time.monotonic(), len(beside.seen)
    while len(beside.seen) < answers + ALONE_ANSWERS and time.monotonic() < began_s + 60:  # noqa: ASYNC110 (not in this loop)
        await asyncio.sleep(0.05)
    run.windows[ALONE].append((began_s, time.monotonic()))


async def _ordinary(process: Process, run: Run, block: int) -> None:
    """Run the same number of ordinary clients with valid pictures instead of hostile ones."""
    chance = Random(f"ordinary {block}")
    asked = iter([spoilt.delivered("ordinary", chance, "sound", picture(at)) for at in range(ORDINARY_REQUESTS)])
    began_s = time.monotonic()

    async def client() -> None:
        for case in asked:
            if (ending := await case.act(process.address)) != "200":
                run.faults.append(f"an ordinary client was answered {ending}")

    await asyncio.gather(*(client() for _ in range(HOSTILE_CLIENTS)))
    run.windows[ORDINARY].append((began_s, time.monotonic()))


def _listed(folders: list[Path]) -> dict[str, int]:
    files = (path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path): path.lstat().st_mtime_ns for path in files if path.is_file()}


def _written(folders: list[Path], before: dict[str, int]) -> list[str]:
    after = _listed(folders)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    escaped = [folder / name for folder in _WITHIN_REACH for name in os.listdir(folder) if CANARY in name]
    return [f"a file was written or changed: {path}" for path in (*changed, *escaped)]


#: Where the members of archives ask to be put.
_WITHIN_REACH = (Path("/"), Path("/tmp"), Path.home(), Path.cwd(), Path.cwd().parent)


def _after(process: Process, beside: Neighbour) -> list[str]:
    faults = beside.faults()
    faults += [f"the log has: {line}" for line in process.lines if " ERROR " in line or " CRITICAL " in line][:5]
    faults += ["the log repeats what a client sent" for line in process.lines if CANARY in line][:1]
    return faults


async def _still_right(process: Process) -> list[str]:
    """Check that a picture still gets the same answer and that no work is left in the service."""
    if not process.running():
        return []
    metrics = (await exchange(process.address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")).body.decode()
    failed = [line for line in metrics.splitlines() if 'status="5' in line and "requests_total" in line]
    left = "" if "marrowlens_in_flight_pictures 0.0" in metrics else "pictures are left inside"
    return [f"the metrics count {line}" for line in failed if 'status="504"' not in line] + ([left] if left else [])


def _result(run: Run, beside: Neighbour, count: int, seed: int, seconds: float) -> Result:
    *_, start_bytes, end_bytes = run.resident.values()
    growth = end_bytes / start_bytes
    seen = {name: beside.within(windows) for name, windows in run.windows.items()}
    slower = p99(seen[HOSTILE]) / p99(seen[ORDINARY])
    if growth > MAX_GROWTH:
        run.faults.append(f"resident memory is {growth:.2f} times what it was")
    if slower > MAX_SLOWER:
        run.faults.append(f"the well-behaved client's p99 is {slower:.1f} times that beside ordinary clients")
    families = [
        [family, str(tally.endings.total()), _said(tally.endings), f"{tally.slowest_s:.1f}", tally.slowest[:70]]
        for family, tally in run.tallies.items()
    ]
    memory = [
        [f"after {cases} cases" if cases else "after sound pictures", f"{size / 1e6:.0f}"]
        for cases, size in run.resident.items()
    ]
    return Result(
        "hostile",
        "Hostile input",
        f"{count} cases, seed {seed}: {HOSTILE_CLIENTS} clients without pause, up to {SLOW_CLIENTS} slow ones "
        f"in addition, in blocks of {BLOCK}; one well-behaved client throughout. The process must not write to any "
        f"file. "
        f"Required: no 5xx except a documented 504, no crash, resident memory at the end at most {MAX_GROWTH:g} times "
        f"that after the first {WARM_CASES} (in a shorter run: after valid pictures), "
        f"the well-behaved client's p99 at most {MAX_SLOWER:g} times its value with the same number of clients "
        "that send valid pictures; its value without other clients is listed too.",
        [
            Table(["family", "cases", "endings", "slowest, s", "which"], families),
            table(seen, to=ALONE),
            Table(["resident memory", "MB"], [*memory, ["ratio of the last two", f"{growth:.2f}"]]),
        ],
        run.faults,
        seconds,
    )


def _said(endings: Counter[str]) -> str:
    return ", ".join(f"{ending} ×{count}" if count > 1 else ending for ending, count in sorted(endings.items()))
