"""Check `idle`: resident memory, threads and open files of a ready service."""

import asyncio
import tempfile
import time
from pathlib import Path

from stress.processes.process import serving
from stress.results import Result, Shown, Table

LIMIT_BYTES = 250_000_000


async def idle(artefact: Path | None, shown: Shown) -> Result:
    """Run the check."""
    shown.total(1)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), artefact, provider="cpu") as process:
        await asyncio.to_thread(process.wait_listening)
        resident_bytes, threads, files = process.resident_bytes(), process.threads(), process.open_files()
    shown.step()
    megabytes = f"{resident_bytes / 1e6:.0f}"
    return Result(
        "idle",
        "Ready and idle",
        f"Resident memory when ready, before the first picture. Required: at most {LIMIT_BYTES / 1e6:.0f} MB.",
        [Table(["resident, MB", "threads", "open files"], [[megabytes, str(threads), str(files)]])],
        [f"{megabytes} MB resident"] if resident_bytes > LIMIT_BYTES else [],
        time.monotonic() - began_s,
    )
