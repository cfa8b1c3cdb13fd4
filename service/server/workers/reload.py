"""Reload of the model by all workers or none: all open, check and warm up the new one, then all switch to it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from service.errors import NotReady, ReloadInProgress, ReloadRejected
from service.server.workers.channel import Message

log = logging.getLogger(__name__)

#: Errors of a reload by their names in messages.
ERRORS: dict[str, Callable[[str], Exception]] = {
    "rejected": ReloadRejected,
    "not_ready": NotReady,
    "in_progress": lambda _: ReloadInProgress(),
}
ReloadError = ReloadRejected | NotReady | ReloadInProgress


def describe(error: ReloadError) -> Message:
    """An error as members of a message."""
    kinds = {ReloadRejected: "rejected", NotReady: "not_ready", ReloadInProgress: "in_progress"}
    return {"error": kinds[type(error)], "detail": str(error)}


def raise_described(message: Message) -> None:
    """Raise the error of a message, if it has one."""
    if found := message.get("error"):
        raise ERRORS[found](message["detail"])


class Worker(Protocol):
    """A worker that serves."""

    ended: bool
    digest: str

    async def ask(self, kind: str, **content: object) -> Message:
        """Send a message and return the answer; an error of kind `rejected` if the worker ends before."""

    def tell(self, kind: str, **content: object) -> None:
        """Send a message."""

    def restart(self) -> None:
        """Let it drain and end, so that it starts again."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model of all workers.

    Attributes:
        name: a file in the folder of the configured artefact; None: the configured artefact.
        digest: of its manifest, which names the hash of the graph; None before the first worker has started.
    """

    name: str | None = None
    digest: str | None = None


class ReloadCoordinator:
    """Changes the model of all workers or of none.

    Args:
        workers: those that serve now. Others start with `served`.
    """

    def __init__(self, workers: Callable[[], Sequence[Worker]]) -> None:
        self._workers = workers
        self.served = ServedModel()
        self._waits = False  # a reload by SIGHUP, for the one in progress
        self._idle = asyncio.Event()
        self._idle.set()

    async def reload_configured(self) -> None:
        """Reload the configured artefact; during a reload, once more after it, because that may have read old files."""
        if self._waits:
            return
        if not self._idle.is_set():
            log.warning("A reload is in progress; the artefact is reloaded once more when it ends")
        self._waits = True
        while not self._idle.is_set():
            await self._idle.wait()
        self._waits = False
        with suppress(ReloadRejected, NotReady):  # logged by a worker
            await self.reload(None)

    async def reload(self, name: str | None) -> None:
        """Let all workers serve with another model.

        Raises:
            ReloadRejected: a worker cannot use it, or ended meanwhile; all keep the current model.
            ReloadInProgress: another reload is in progress.
            NotReady: no worker serves, or the service is stopping.
        """
        if not self._idle.is_set():
            raise ReloadInProgress
        self._idle.clear()
        try:
            await self._reload(name)
        finally:
            self._idle.set()

    async def _reload(self, name: str | None) -> None:
        workers = self._workers()
        if not workers:
            raise NotReady("no worker is ready; retry later")
        answers = await asyncio.gather(*(worker.ask("prepare", name=name) for worker in workers))
        serving = [worker for worker in workers if not worker.ended]  # the first one counts and logs the reload
        error = _first_error(answers)
        if error is not None:
            for worker in serving:
                worker.tell("discard", **error, reports=worker is serving[0])
            raise_described(error)
        self.served = ServedModel(name, answers[0]["digest"])
        # A worker that ends now starts again with the new model; one that started meanwhile has the old one.
        await asyncio.gather(*(worker.ask("commit", reports=worker is serving[0]) for worker in serving))
        for late in self._workers():
            if late not in serving and late.digest != self.served.digest:
                late.restart()


def _first_error(answers: Sequence[Message]) -> Message | None:
    for answer in answers:
        if "error" in answer:
            return {"error": answer["error"], "detail": answer["detail"]}
    if len({answer["digest"] for answer in answers}) > 1:
        return describe(ReloadRejected("the files changed while the workers read them; reload again"))
    return None
