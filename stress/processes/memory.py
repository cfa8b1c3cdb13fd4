"""Resident memory of a service that returns free memory to the system every ten seconds."""

import asyncio
import time

from stress.processes.process import Process

GIVEN_BACK_S = 12.0


async def settled_bytes(process: Process, wanted: float) -> int:
    """Resident memory when it is low enough, or after thirty seconds."""
    for _ in range(60):
        if process.resident_bytes() <= wanted:
            break
        await asyncio.sleep(0.5)
    return process.resident_bytes()


async def lowest_bytes(process: Process) -> int:
    """Lowest resident memory over slightly more than the release interval."""
    seen, until_s = [process.resident_bytes()], time.monotonic() + GIVEN_BACK_S
    while time.monotonic() < until_s:
        await asyncio.sleep(0.5)
        seen.append(process.resident_bytes())
    return min(seen)
