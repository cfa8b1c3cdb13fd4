"""Start one server on its cores, wait for a correct answer, and end it with all its processes."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.peers.names import HOST
from bench.plan.servers import Server
from bench.setup.environments import environment
from bench.setup.machine import ROOT, Cores, listed
from bench.traffic.wire import Address, connect

#: A lone request that this project's service answers with 200 once all its workers are ready.
READY = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
START_S = 120.0
STOP_S = 10.0


class NoAnswer(Exception):
    """The server did not start or does not answer; holds its name and last output lines."""

    def __init__(self, name: str, reason: str, log: Path) -> None:
        said = log.read_text(errors="replace").strip().splitlines()[-5:] if log.exists() else []
        super().__init__(f"{name} {reason}; it said: {' / '.join(said) or 'nothing'}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Job:
    """Artefact, port, threads and deadline of a server."""

    artefact: Path
    cores: Cores
    deadline_s: float
    logs: Path

    def variables(self) -> dict[str, str]:
        """Environment variables of every server and engine."""
        threads = str(len(self.cores.server))
        return {
            "BENCH_ARTEFACT": str(self.artefact.resolve()),
            "BENCH_THREADS": threads,
            "BENCH_DEADLINE_S": f"{self.deadline_s:g}",
            "OMP_NUM_THREADS": threads,
        }


@asynccontextmanager
async def started(server: Server, python: Path, job: Job, probe: bytes) -> AsyncIterator[Address]:
    """Start a server and wait until it answers `probe` with 200.

    Raises:
        NoAnswer: it ended, or did not answer within START_S.
    """
    job.logs.mkdir(parents=True, exist_ok=True)
    log = job.logs / f"{server.name}.log"
    address = Address(HOST, free_port())
    scratch = Path(tempfile.mkdtemp(prefix="bench-"))
    process = _begun(server, python, job, address, scratch, log)
    try:
        await _answering(server, process, address, probe, log)
        yield address
    finally:
        await asyncio.to_thread(_end, process)
        shutil.rmtree(scratch, ignore_errors=True)


def _begun(
    server: Server, python: Path, job: Job, address: Address, scratch: Path, log: Path
) -> "subprocess.Popen[bytes]":
    with log.open("w") as said:
        return subprocess.Popen(
            ["taskset", "--cpu-list", listed(job.cores.server), *_command(server, python, job, address)],
            cwd=ROOT,
            env=_variables(server, job, address, scratch),
            stdout=said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def _filling(job: Job, address: Address, python: Path) -> Mapping[str, str]:
    return {
        "python": str(python),
        "bin": str(python.parent),
        "port": str(address.port),
        "artefact": str(job.artefact.resolve()),
        "deadline_s": f"{job.deadline_s:g}",
    }


def _command(server: Server, python: Path, job: Job, address: Address) -> list[str]:
    return [part.format_map(_filling(job, address, python)) for part in server.command]


def _variables(server: Server, job: Job, address: Address, scratch: Path) -> dict[str, str]:
    filling = {**_filling(job, address, Path()), "folder": str(scratch)}
    own = {name: value.format_map(filling) for name, value in server.variables.items()}
    ports = {"BENCH_PORT": str(address.port), "BENCH_SECOND_PORT": str(free_port())}
    folders = {"BENCH_FOLDER": str(scratch), "TMPDIR": str(scratch)}
    return environment() | job.variables() | ports | folders | {"BENCH_DECODER": server.decoder} | own


async def _answering(
    server: Server, process: "subprocess.Popen[bytes]", address: Address, probe: bytes, log: Path
) -> None:
    reason = f"did not answer within {START_S:.0f} s"
    with suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while True:
                if process.poll() is not None:
                    raise NoAnswer(server.name, f"ended with status {process.returncode}", log)
                status = await _asked(address, probe)
                if status == 200:
                    return
                reason = f"answered {status}" if status else reason
                await asyncio.sleep(0.1)
    raise NoAnswer(server.name, reason, log)


async def answers_ready(process: "subprocess.Popen[bytes]", address: Address) -> None:
    """Wait until a service of this project is ready.

    Raises:
        SystemExit: it has ended.
    """
    while await _asked(address, READY) != 200:
        if process.poll() is not None:
            raise SystemExit(f"the service ended with status {process.returncode}")
        await asyncio.sleep(0.1)


async def _asked(address: Address, probe: bytes) -> int | None:
    try:
        connection = await connect(address)
        try:
            return (await connection.send(probe)).status
        finally:
            connection.close()
    except OSError:
        return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Terminate the process, then kill its remaining descendants."""
    begun = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    if process.poll() is None:
        process.kill()
        process.wait(STOP_S)
    for pid, began in begun.items():
        if _began(pid) == began:  # the same process, not another one under its number
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> dict[int, str]:
    """All descendant processes with their start times."""
    found: dict[int, str] = {}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found |= {child: _began(child)} | descendants(child)
    return found


def _began(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # proc(5): field 22, starttime
    except OSError:
        return ""
