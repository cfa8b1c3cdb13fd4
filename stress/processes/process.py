"""One `marrowlens serve`, with its workers, in its own folder: start, observe, signal. Needs Linux (/proc)."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Where pip puts the command of the environment that runs the checks.
COMMAND = Path(sys.executable).with_name("marrowlens")
#: As in docker/service.Dockerfile: glibc returns large blocks to the system.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
START_S = 120.0  # for a machine with much else to do
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process:
    """`lines` is all output so far (both streams); host and port are known after it listens."""

    def __init__(self, popen: "subprocess.Popen[str]") -> None:
        self.pid = popen.pid
        self.lines: list[str] = []
        self.host, self.port = "", 0
        self._popen = popen
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as said:
            for line in said:
                self.lines.append(line.rstrip())
                if "listens on http://" in line:
                    host, _, port = line.split("listens on http://")[1].split()[0].rpartition(":")
                    self.host, self.port = host, int(port)
                    self._listening.set()
        self._listening.set()

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def wait_listening(self) -> None:
        """Return when it accepts connections.

        Raises:
            RuntimeError: it ended before, or printed nothing for two minutes.
        """
        if not self._listening.wait(START_S) or not self.port:
            raise RuntimeError("the service did not start: " + " / ".join(self.lines[-5:]))

    def running(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait_ended(self, timeout_s: float = 120.0) -> int:
        """Its exit status, after all output was read.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        status = self._popen.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def end(self) -> None:
        """Kill it if it is running."""
        if self.running():
            self._popen.kill()
        self.wait_ended()

    def resident_bytes(self) -> int:
        return sum(int((each / "statm").read_text().split()[1]) * _PAGE_BYTES for each in self._processes())

    def threads(self) -> int:
        return sum(len(os.listdir(each / "task")) for each in self._processes())

    def open_files(self) -> int:
        return sum(len(os.listdir(each / "fd")) for each in self._processes())

    def cpu_s(self) -> float:
        """Processor time of its own threads and of its busiest worker's so far: workers start side by side."""
        return _cpu_s(self.pid) + max(map(_cpu_s, self.workers()), default=0.0)

    def workers(self) -> list[int]:
        """Process ids of its workers; empty if it serves alone."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def _processes(self) -> list[Path]:
        return [Path(f"/proc/{pid}") for pid in (self.pid, *self.workers())]

    def forbid_writing(self) -> None:
        """Forbid all writes to files from now on (a write fails inside the process); pipes still work."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, 0))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@contextmanager
def serving(folder: Path, artefact: Path | None = None, *options: str, **settings: str) -> Iterator[Process]:
    """Run `marrowlens serve` on loopback with only the given MARROWLENS_* settings.

    Args:
        folder: becomes its working directory, its home and its place for temporary files.
        artefact: the bundled one where none is named.
    """
    process = start(folder, artefact, *options, **settings)
    try:
        yield process
    finally:
        process.end()


def start(folder: Path, artefact: Path | None = None, *options: str, **settings: str) -> Process:
    """Start it without waiting."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARROWLENS_")}
    environment |= {f"MARROWLENS_{name.upper()}": value for name, value in settings.items()}
    environment |= {"HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"} | MALLOC
    chosen = [] if artefact is None else ["--artefact", str(artefact.absolute())]
    port = [] if "--port" in options else ["--port", "0"]
    return Process(
        subprocess.Popen(
            [str(COMMAND), "serve", *port, *chosen, *options],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
    )
