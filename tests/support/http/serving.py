"""The service for tests: in this process with all middleware, or `marrowlens serve` in another process."""

import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import forks
import httpx
import numpy as np
from forks import Forked
from numpy.typing import NDArray
from starlette.testclient import TestClient

from service.api.schemas import Problem
from service.app import create_app
from service.concurrency.worker import Worker
from service.config.settings import Settings
from service.runtime.session import Outputs, Session, open_session
from stress.clients.pictures import tarred as tarred  # for tests, beside `zipped`

#: Where pip puts the command of the environment that runs the tests.
COMMAND = Path(sys.executable).with_name("marrowlens")
Named = Sequence[tuple[str, bytes]]


@contextmanager
def client(
    artefact: Path, *, session: Session | None = None, worker: Worker | None = None, **settings: Any
) -> Iterator[TestClient]:
    """A client of a started app; exceptions in the app fail the test."""
    app = create_app(Settings(artefact=artefact, **settings), session or open_session(artefact), worker=worker)
    with TestClient(app, base_url="http://localhost") as started:
        yield started


@asynccontextmanager
async def async_client(
    artefact: Path, *, session: Session | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The same for tests that have several requests in flight."""
    app = create_app(Settings(artefact=artefact, **settings), session or open_session(artefact))
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as started:
            yield started


class Held:
    """A session over another one that answers only while its gate is open; it says when it was called."""

    def __init__(self, artefact: Path) -> None:
        self._session = open_session(artefact)
        self.manifest = self._session.manifest
        self.provider, self.precision = self._session.provider, self._session.precision
        self.gate, self.called = threading.Event(), threading.Event()
        self.gate.set()

    def hold(self) -> None:
        """From now on calls wait."""
        self.gate.clear()
        self.called.clear()

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        self.called.set()
        assert self.gate.wait(60)
        return self._session.run(images)


class Served:
    """One `marrowlens serve`. `lines` is all it said so far, both streams."""

    def __init__(self, process: "subprocess.Popen[str] | Forked") -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._listening = threading.Event()
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line.rstrip())
                self._said.notify_all()
            if "listens on" in line:
                self.url = line.split("listens on ")[1].split()[0]
                self._listening.set()
        self._listening.set()

    def wait_listening(self) -> None:
        assert self._listening.wait(60), "the service said nothing for a minute"
        assert self.url, "\n".join(self.lines)

    def wait_said(self, text: str, after: int = 0) -> None:
        """Return once a line has the text, of those after the first so many."""
        with self._said:
            said = self._said.wait_for(lambda: any(text in line for line in self.lines[after:]), 60)
        assert said, "\n".join(self.lines)

    def stop(self) -> int:
        """Ask it to stop and wait until it has, as a supervisor does; a kill could fall on a message being sent."""
        self.process.terminate()
        return self.wait_ended()

    def wait_ended(self) -> int:
        status = self.process.wait(60)
        self._reader.join(60)
        return status


def refused(answer: Any, status: int, name: str) -> Problem:
    """The problem document of a refused request, which must be one and agree with its headers."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(answer.json())
    assert problem.status == status
    assert problem.type == f"urn:problem-type:marrowlens:{name}"
    assert problem.request_id == answer.headers["x-request-id"]
    return problem


@contextmanager
def served(artefact: Path, *options: str, through: Sequence[str] = (), **settings: str) -> Iterator[Served]:
    """`marrowlens serve` on a free port of loopback, with `MARROWLENS_*` settings in its environment.

    Args:
        through: the words of a program that executes it, as `prlimit --nofile=160`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARROWLENS_")}
    environment |= {f"MARROWLENS_{name.upper()}": value for name, value in settings.items()}
    words = ["serve", "--port", "0", "--artefact", str(artefact), *options]
    process = _executed([*through, str(COMMAND), *words], environment) if through else forks.start(words, environment)
    started = Served(process)
    try:
        yield started
    finally:
        if process.poll() is None:
            process.kill()
        started.wait_ended()
        assert process.stdout is not None
        process.stdout.close()


def _executed(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )


def zipped(members: Named, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP of named members, in order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()
