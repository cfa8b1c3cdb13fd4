"""A worker's link to its supervisor: reports that it started and that it lives, and does what the supervisor says."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Sequence
from itertools import count

from service.api.state import AppState
from service.concurrency.supervisor import error_location
from service.errors import NotReady, ReloadRejected
from service.inference.registry import ModelRegistry
from service.server.workers.channel import Channel, Message
from service.server.workers.reload import describe, raise_described

log = logging.getLogger(__name__)

#: Interval in s of the reports, and of the metrics that other workers read.
BEAT_S = 0.5


class SupervisorLink:
    """The worker's end of its channel. It is also the `Peers` of the worker's state."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._channel: Channel | None = None
        self._state: AppState | None = None
        self._models: ModelRegistry | None = None
        self._all_ready = False
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Message]] = {}  # reloads that this worker asked for
        self._running: asyncio.Task[None] | None = None  # asyncio keeps only weak references to tasks

    def failed(self, message: str) -> None:
        """Report why this worker cannot start; before `open`."""
        self._end.sendall(json.dumps({"kind": "failed", "message": message}).encode() + b"\n")

    async def open(self, state: AppState, models: ModelRegistry, lost: Callable[[], None]) -> None:
        """Exchange messages on this event loop.

        Args:
            lost: called when the supervisor has ended.
        """
        self._state, self._models, state.peers = state, models, self
        self._channel = await Channel.of(self._end)
        self._running = asyncio.create_task(self._run(self._channel, lost))

    def started(self, lines: Sequence[str]) -> None:
        """Report that this worker accepts connections, its model, and the lines that describe it."""
        assert self._channel is not None and self._state is not None, "the link is open once the server starts"
        digest = self._state.current_classifier().manifest.digest
        self._channel.send("started", lines=list(lines), digest=digest)

    def ready(self) -> bool:
        """Whether all workers are ready, as the supervisor said last."""
        return self._all_ready

    async def reload(self, name: str | None) -> None:
        """Ask the supervisor to change the model of all workers; raises as `ModelRegistry.reload`."""
        assert self._channel is not None, "the link is open once the server starts"
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send("reload", number=number, name=name)
        try:
            raise_described(await answer)
        finally:
            del self._asked[number]

    async def _run(self, channel: Channel, lost: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as work:
                beating = work.create_task(self._beat(channel))
                while (message := await channel.receive()) is not None:
                    work.create_task(self._handle(channel, message))
                beating.cancel()
        except Exception as error:
            log.critical("link to the supervisor failed: %s", error_location(error))
        lost()

    async def _handle(self, channel: Channel, message: Message) -> None:
        models = self._models
        assert models is not None, "set by open"
        match message:
            case {"kind": "all_ready", "ready": ready}:
                self._all_ready = ready
                self._report(channel)
            case {"kind": "prepare", "name": name}:
                channel.send("answer", **await _prepared(models, name))
            case {"kind": "discard", "detail": reason, "reports": reports}:
                await models.discard()
                if reports:
                    models.report_rejected(reason)
            case {"kind": "commit", "reports": reports}:
                models.commit()
                if reports:
                    models.report_reloaded()
                channel.send("answer")
            case {"kind": "reloaded", "number": number} if number in self._asked:
                self._asked[number].set_result(message)

    async def _beat(self, channel: Channel) -> None:
        while True:
            assert self._state is not None, "set by open"
            self._state.metrics.registry.refresh()
            self._report(channel)
            await asyncio.sleep(BEAT_S)

    def _report(self, channel: Channel) -> None:
        assert self._state is not None, "set by open"
        own = self._state.ready()
        channel.send("alive", ready=own, all_ready=own and self._all_ready)


async def _prepared(models: ModelRegistry, name: str | None) -> Message:
    """Prepare a model; the digest of its manifest, or the error."""
    try:
        return {"digest": (await models.prepare(name)).digest}
    except (ReloadRejected, NotReady) as error:
        return describe(error)
