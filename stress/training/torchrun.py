"""torchrun as on one machine: an agent that starts, watches and ends the processes of a training. Needs /proc."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = Path(sys.executable).with_name("torchrun")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Agent:
    """One torchrun; its output and that of its processes goes to `log`."""

    def __init__(self, options: list[str], module: str, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as said:
            self.popen = subprocess.Popen(
                [str(COMMAND), *options, "-m", module, *arguments],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=said,
            )

    def ranks(self) -> dict[int, int]:
        """Rank → process id of the living processes."""
        pid = self.popen.pid
        found: dict[int, int] = {}
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            ranks = [variable[5:] for variable in variables if variable.startswith(b"RANK=")]
            found |= {int(rank): int(child) for rank in ranks}
        return found

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait for a condition; the training must not end before."""
        while not happened():
            try:
                self.popen.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"ended too early: {self.said()}")

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def machines(
    count: int,
    processes: int,
    arguments: Callable[[int], list[str]],
    log: Callable[[int], Path],
    *options: str,
    module: str = "training.cli",
) -> Iterator[list[Agent]]:
    """Run a number of torchrun agents of one training on this machine; all are ended afterwards.

    Args:
        processes: on each machine.
        arguments: of marrowlens-train, by machine.
        log: by machine.
        options: of torchrun.
        module: what torchrun starts.
    """
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    sizes = ["--nnodes", str(count), "--nproc-per-node", str(processes)]
    agents = [Agent([*meet, *sizes, *options], module, arguments(at), log(at)) for at in range(count)]
    try:
        yield agents
    finally:
        for agent in agents:
            if agent.popen.poll() is None:
                agent.popen.send_signal(signal.SIGTERM)  # it passes the signal on to its processes
        for agent in agents:
            agent.popen.wait()
