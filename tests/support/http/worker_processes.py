"""Several workers of one service, for tests: their processes and their metrics."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from serving import Served, served


@contextmanager
def workers(artefact: Path, *options: str, count: int = 2, **settings: str) -> Iterator[Served]:
    """`marrowlens serve` with several workers, all of them ready. Killed at the end, if it still runs."""
    with served(artefact, *options, workers=str(count), **settings) as started:
        try:
            started.wait_listening()
            yield started
        finally:
            if started.process.poll() is None:
                end(started)


def end(service: Served) -> None:
    """End a service at once: the second signal cuts the drain short."""
    service.process.send_signal(signal.SIGTERM)
    service.process.send_signal(signal.SIGTERM)
    service.wait_ended()


def pids(service: Served) -> list[int]:
    """The worker processes, oldest first."""
    pid = service.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(service: Served, pid: int) -> None:
    """Kill a worker, and return once its supervisor knows that all of its threads have ended."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in pids(service))


def until(holds: object, timeout_s: float = 60) -> None:
    """Return once a function returns something true."""
    assert callable(holds)
    ends_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_s, f"not within {timeout_s} s"


def ready(service: Served) -> bool:
    """Whether the service is ready, asked on a new connection."""
    return httpx.get(f"{service.url}/health/ready").status_code == 200


def metric(service: Served, series: str, headers: dict[str, str] | None = None) -> float:
    """The value of one series; 0 if it is not there."""
    text = httpx.get(f"{service.url}/metrics", headers=headers).text
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def artefacts(service: Served, headers: dict[str, str] | None = None, connections: int = 4) -> list[str]:
    """The names of the models that the workers serve: asked on several connections at once, shared by all workers."""
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=service.url, headers=headers)) for _ in range(connections)]
        return [client.get("/model").json()["name"] for client in clients]


def listeners(service: Served, port: int) -> list[int]:
    """The workers that listen on a TCP port of this machine."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    return [pid for pid in pids(service) if sockets & {_target(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed since
        return ""
