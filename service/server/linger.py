"""Requests whose bodies are not read to their end: the connection is closed after the answer, but not on it.

A connection that is closed while its client still sends is reset, and the answer is lost with it. So what comes is
read and dropped for a while. Knows uvicorn's protocol, through service.server.unread_answers, and whose place a
connection takes.
"""

import asyncio
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import TooManyConnections
from service.server.connections import Place
from service.server.unread_answers import BoundedAnswers
from service.telemetry.request_context import REFUSED

#: A client that has its answer and says nothing more for so long is not waited for.
SILENCE_S = 2.0
#: What supervisors ask is answered on a connection beyond the limit, too.
SUPERVISED = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})


class Connection(BoundedAnswers):
    """The service's protocol. uvicorn's own waits for ever for the rest of a body that nobody reads.

    An answer to a request whose body has not come whole ends its connection. What the client still sends is dropped
    for at most `linger_timeout_s` and `linger_bytes`, and until it is silent for `SILENCE_S`.
    """

    def __init__(self, *args: Any, place: Place, linger_timeout_s: float, linger_bytes: int, **named: Any) -> None:
        super().__init__(*args, **named)
        self._place = place
        self._linger_timeout_s, self._linger_bytes = linger_timeout_s, linger_bytes
        self._linger_timer: asyncio.TimerHandle | None = None
        self._linger_until_s = 0.0
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._place.abort = transport.abort
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._place.leave()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        if self._answering is not None:  # uvicorn tells the last request alone, and others may have come behind it
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._linger_timer is None:
            super().data_received(data)
            return
        self._linger_bytes -= len(data)
        if self._linger_bytes < 0:
            self.close()
        else:
            self._wait()

    def begin_exchange(self) -> None:
        self._place.busy()
        super().begin_exchange()
        self.cycle.transport = _Outlet(self)  # type: ignore[assignment]
        if self._place.surplus:
            self.cycle.keep_alive = False
            if self.scope["path"] not in SUPERVISED:
                self.scope["state"].setdefault(REFUSED, TooManyConnections(self._place.limit))

    def on_response_complete(self) -> None:
        self._answering = None
        if not self.pipeline:
            self._place.idle()
            if self.cycle.more_body:
                self.linger()
        if self._linger_timer is None:
            super().on_response_complete()

    def shutdown(self) -> None:
        """Called when the server stops: a request under way is answered, and nothing else is waited for."""
        if self.cycle is None or self.cycle.response_complete:
            self.close()
        else:
            self.cycle.keep_alive = False

    def finish(self) -> None:
        """The last answer is sent: close, but for what is on its way from the client."""
        if self.ended or not self.pipeline and self.cycle.more_body:
            self.linger()
        else:
            self.close()

    def linger(self) -> None:
        """Say that nothing more will come, then drop what comes, for a while."""
        if self._linger_timer is not None or self.transport.is_closing():
            return
        self.ended = True
        self.pipeline.clear()
        self._linger_until_s = self.loop.time() + self._linger_timeout_s
        self.flow.resume_reading()
        if self.transport.can_write_eof():  # not by TLS: there the answer's length says where it ends
            self.transport.write_eof()
        self._wait()

    def _wait(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self._linger_timer = self.loop.call_at(min(self.loop.time() + SILENCE_S, self._linger_until_s), self.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, partial(self._answer, cycle, app))

    async def _answer(
        self, cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def receive_whole() -> Message:
            message = await receive()
            if self.fault is not None and cycle is self.cycle and message.get("more_body"):
                raise self.fault
            return message

        async def send_last(message: Message) -> None:
            # An answer of known length was made without the rest of the body; a stream may be reading it.
            if cycle.more_body and message["type"] == "http.response.start" and _sized(message):
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive_whole, send_last)


class _Outlet:
    """A connection as an answer knows it, which closes it after its last byte."""

    def __init__(self, connection: Connection) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.finish


def _sized(message: Message) -> bool:
    return any(name == b"content-length" for name, _ in message["headers"])
