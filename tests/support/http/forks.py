"""`marrowlens` as a process of its own, forked from one that has imported it once: a start takes a tenth of the time.

What is forked is the command as pip installs it, with the environment, the folder and the streams that a test gives.
Tests of the start itself, and those that need another program before it (prlimit, setpriv), execute the command.
"""

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

PREFIX = 8  # bytes of a request's length, and the digits of a pid


class Forked:
    """A running command, with what `subprocess.Popen` has of pid, waiting, signals and standard output."""

    def __init__(self, pid: int, status: int, stdout: IO[str] | None = None) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._status, self._lock = status, threading.Lock()

    def poll(self) -> int | None:
        """The exit code, or None while it runs; minus the signal's number if one ended it."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("marrowlens", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._status], [], [], left)[0]:
                return None
            with self._lock:  # of two threads that wait, the second finds what the first has read
                if self.returncode is None:
                    self.returncode = int(os.read(self._status, 16) or b"-9")
                    os.close(self._status)
        return self.returncode


def start(words: Sequence[str], environment: Mapping[str, str]) -> Forked:
    """`marrowlens` with these words; `stdout` has both of its streams as text."""
    read, write = os.pipe()
    with open(os.devnull) as nothing:
        pid, status = _source().fork(words, environment, (nothing.fileno(), write, write))
    os.close(write)
    return Forked(pid, status, os.fdopen(read, encoding="utf-8"))


def run(
    words: Sequence[str], environment: Mapping[str, str], *, typed: str = "", timeout: float = 120
) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run` gives of `marrowlens` with these words and, on standard input, what was typed."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(typed)
        given.seek(0)
        process = Forked(*_source().fork(words, environment, (given.fileno(), out.fileno(), err.fileno())))
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(["marrowlens", *words], code, out.read(), err.read())


class _Source:
    """The process that has imported the command. It ends with this one."""

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MARROWLENS_")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()], env=clean, stdin=subprocess.DEVNULL
        )
        its.close()
        self._socket, self._lock = ours, threading.Lock()
        atexit.register(self._end)

    def fork(
        self, words: Sequence[str], environment: Mapping[str, str], streams: tuple[int, int, int]
    ) -> tuple[int, int]:
        """The pid of the command and a file descriptor from which its exit code can be read once it has ended."""
        request = json.dumps([list(words), dict(environment), os.getcwd()]).encode()
        status, told = os.pipe()
        with self._lock:
            socket.send_fds(self._socket, [len(request).to_bytes(PREFIX, "big")], [*streams, told])
            self._socket.sendall(request)
        os.close(told)
        return int(os.read(status, PREFIX)), status

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


_STARTED: list[_Source] = []
_STARTING = threading.Lock()


def _source() -> _Source:
    with _STARTING:
        if not _STARTED:
            _STARTED.append(_Source())
    return _STARTED[0]


def _fork_on_request(requests: socket.socket) -> None:
    """Fork for every request until the tests have ended. Only the command itself returns from here before that."""
    while True:
        prefix, fds, _, _ = socket.recv_fds(requests, PREFIX, 4, socket.MSG_WAITALL)
        if not prefix:
            os._exit(0)
        words, environment, folder = json.loads(requests.recv(int.from_bytes(prefix, "big"), socket.MSG_WAITALL))
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            *streams, told = fds
            if _is_command(told):
                _become(words, environment, folder, streams)
                return
        for fd in fds:
            os.close(fd)


def _is_command(told: int) -> bool:
    """True in the command. Its parent tells the pid, waits for the end of the command, tells the exit code and ends."""
    pid = os.fork()
    if pid == 0:
        os.close(told)
        return True
    os.write(told, str(pid).zfill(PREFIX).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(told, str(code).encode())
    os._exit(0)


def _become(words: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in set(streams):
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = ["marrowlens", *words]
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", buffering=1, closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)


if __name__ == "__main__":
    from service.cli.main import COMMANDS, GROUPS, app

    for module in {*COMMANDS.values(), *(module for module, *_ in GROUPS.values()), "service.cli.serving"}:
        importlib.import_module(module)  # a command is imported when it is called, and each fork would do it again
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a command ends by itself, and nobody asks how
    _fork_on_request(socket.socket(fileno=int(sys.argv[1])))
    app()
