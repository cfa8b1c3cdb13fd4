"""A worker's link to its supervisor: reports that it started and that it lives, and learns whether all are ready."""

import asyncio
import json
import socket
from collections.abc import Callable, Sequence

from service.api.state import AppState
from service.server.workers.channel import Channel, Message

#: Interval in s of the reports, and of the metrics that other workers read.
BEAT_S = 0.5


class SupervisorLink:
    """The worker's end of its channel. It is also the `Peers` of the worker's state."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._channel: Channel | None = None
        self._state: AppState | None = None
        self._all_ready = False
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio keeps only weak references to tasks

    def failed(self, message: str) -> None:
        """Report why this worker cannot start; before `open`."""
        self._end.sendall(json.dumps({"kind": "failed", "message": message}).encode() + b"\n")

    async def open(self, state: AppState, lost: Callable[[], None]) -> None:
        """Exchange messages on this event loop.

        Args:
            lost: called when the supervisor has ended.
        """
        self._state, state.peers = state, self
        self._channel = await Channel.of(self._end)
        for work in (self._listen(self._channel, lost), self._beat(self._channel, state)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def started(self, lines: Sequence[str]) -> None:
        """Report that this worker accepts connections, with the lines that describe it."""
        assert self._channel is not None, "the link is open once the server starts"
        self._channel.send("started", lines=list(lines))

    def ready(self) -> bool:
        """Whether all workers are ready, as the supervisor said last."""
        return self._all_ready

    async def _listen(self, channel: Channel, lost: Callable[[], None]) -> None:
        while (message := await channel.receive()) is not None:
            self._handle(channel, message)
        lost()

    def _handle(self, channel: Channel, message: Message) -> None:
        if message["kind"] == "all_ready":
            self._all_ready = message["ready"]
            self._report(channel)

    async def _beat(self, channel: Channel, state: AppState) -> None:
        while True:
            state.metrics.registry.refresh()
            self._report(channel)
            await asyncio.sleep(BEAT_S)

    def _report(self, channel: Channel) -> None:
        assert self._state is not None, "set by open"
        own = self._state.ready()
        channel.send("alive", ready=own, all_ready=own and self._all_ready)
