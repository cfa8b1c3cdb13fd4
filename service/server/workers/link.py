"""A worker's link to its supervisor: reports that it started and that it lives, and does what the supervisor says."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING

from fastapi import FastAPI

from service.api.state import AppState
from service.app import take_lead
from service.concurrency.supervisor import error_location
from service.errors import NotReady, ReloadRejected
from service.inference.registry import ModelRegistry
from service.server.workers.channel import Channel, Message
from service.server.workers.reload import describe, raise_described

if TYPE_CHECKING:  # imported only if a laboratory is configured
    from service.lis.laboratory import Laboratory

log = logging.getLogger(__name__)

#: Interval in s of the reports, and of the metrics that other workers read.
BEAT_S = 0.5


class SupervisorLink:
    """The worker's end of its channel. It is also the `Peers` of the worker's state.

    Before `open`, only `failed` can be called.
    """

    _app: FastAPI
    _channel: Channel
    _running: asyncio.Task[None]  # asyncio keeps only weak references to tasks

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._all_ready = False
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Message]] = {}  # reloads that this worker asked for

    def failed(self, message: str) -> None:
        """Report why this worker cannot start."""
        self._end.sendall(json.dumps({"kind": "failed", "message": message}).encode() + b"\n")

    async def open(self, app: FastAPI, lost: Callable[[], None]) -> None:
        """Exchange messages on this event loop.

        Args:
            lost: called when the supervisor has ended.
        """
        self._app = app
        self._state.peers = self
        if self._laboratory is not None:
            self._laboratory.on_report(lambda: self._channel.send("report"))
        self._channel = await Channel.of(self._end)
        self._running = asyncio.create_task(self._run(lost))

    @property
    def _state(self) -> AppState:
        state: AppState = self._app.state.app_state
        return state

    @property
    def _laboratory(self) -> "Laboratory | None":
        laboratory: Laboratory | None = self._app.state.laboratory
        return laboratory

    def started(self, lines: Sequence[str]) -> None:
        """Report that this worker accepts connections, its model, and the lines that describe it."""
        digest = self._state.current_classifier().manifest.digest
        self._channel.send("started", lines=list(lines), digest=digest)

    def ready(self) -> bool:
        """Whether all workers are ready, as the supervisor said last."""
        return self._all_ready

    async def reload(self, name: str | None) -> None:
        """Ask the supervisor to change the model of all workers; raises as `ModelRegistry.reload`."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send("reload", number=number, name=name)
        try:
            raise_described(await answer)
        finally:
            del self._asked[number]

    async def _run(self, lost: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as work:
                beating = work.create_task(self._beat())
                while (message := await self._channel.receive()) is not None:
                    work.create_task(self._handle(message))
                beating.cancel()
        except Exception as error:
            log.critical("link to the supervisor failed: %s", error_location(error))
        lost()

    async def _handle(self, message: Message) -> None:
        models: ModelRegistry = self._app.state.models
        match message:
            case {"kind": "all_ready", "ready": ready}:
                self._all_ready = ready
                self._report()
            case {"kind": "prepare", "name": name}:
                self._channel.send("answer", **await _prepared(models, name))
            case {"kind": "discard", "detail": reason, "reports": reports}:
                await models.discard()
                if reports:
                    models.report_rejected(reason)
            case {"kind": "commit", "reports": reports}:
                models.commit()
                if reports:
                    models.report_reloaded()
                self._channel.send("answer")
            case {"kind": "reloaded", "number": number} if number in self._asked:
                self._asked[number].set_result(message)
            case {"kind": "lead"}:
                take_lead(self._app)
            case {"kind": "report"} if self._laboratory is not None:
                self._laboratory.wake()

    async def _beat(self) -> None:
        while True:
            self._state.metrics.registry.refresh()
            self._report()
            await asyncio.sleep(BEAT_S)

    def _report(self) -> None:
        own = self._state.ready()
        self._channel.send("alive", ready=own, all_ready=own and self._all_ready)


async def _prepared(models: ModelRegistry, name: str | None) -> Message:
    """Prepare a model; the digest of its manifest, or the error."""
    try:
        return {"digest": (await models.prepare(name)).digest}
    except (ReloadRejected, NotReady) as error:
        return describe(error)
    except Exception as error:  # this worker serves on with its model
        return describe(ReloadRejected(f"unexpected error: {error_location(error)}"))
