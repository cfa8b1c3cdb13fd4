"""The HTTP protocol with limits in bytes and time: request heads, slow readers and unread bodies.

Each class adds one limit to uvicorn's protocol, which has none of them.
"""

import asyncio
import logging
from functools import partial
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import TooManyConnections
from service.server.connections import ConnectionSlot
from service.server.http_framing import HttpFraming
from service.telemetry.request_context import CONNECTION_ERROR

#: Browsers send a few kilobytes, identity headers of a proxy add some ten.
MAX_HEAD_BYTES = 64 * 1024


class HeadLimits(HttpFraming):
    """Limits a request head to `MAX_HEAD_BYTES` and `head_timeout_s`.

    A head is the request line and the headers. Trailers have the same limit. Exceeding it gives 431 or 408.
    """

    def __init__(self, *args: Any, head_timeout_s: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_timeout_s = head_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._begun = False
        self._head_bytes = self._fields = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        awaited, fields = self.awaits_head, self._fields
        super().data_received(data)
        silent = awaited and self.awaits_head and fields == self._fields  # the piece ends inside a field
        if silent:
            self._head_bytes += len(data)
        if self.awaits_head and (self._begun or silent) and not self.ended:
            self._start_head_timer()
            if self._head_bytes > MAX_HEAD_BYTES:
                self.refuse(_head_too_large())

    def on_message_begin(self) -> None:
        self._begun, self._head_bytes = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def reading_resumed(self) -> None:
        if self._head_timer is not None:  # the time without reading does not count against the client
            self._stop_head_timer()
            self._start_head_timer()

    def begin_request(self) -> None:
        self._begun = False
        self._stop_head_timer()
        super().begin_request()

    def _count(self, length: int) -> None:
        self._fields += 1
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            self.stop(_head_too_large())

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout_s, self._time_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_out(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:
            self._start_head_timer()
        else:
            self.refuse(HTTPException(408, f"the request head was not complete within {self._head_timeout_s:g} s"))


def _head_too_large() -> HTTPException:
    return HTTPException(
        431, f"the request line and headers exceed {MAX_HEAD_BYTES} bytes; send fewer or shorter headers"
    )


#: Minimum average speed at which a client must read an answer, after its first `read_timeout_s`.
MIN_DOWNLOAD_BYTES_PER_S = 16 * 1024

log = logging.getLogger(__name__)


class SlowReaderLimits(HeadLimits):
    """Resets the connection of a client that does not read its answer fast enough.

    The timer starts when more than 64 KiB wait in the write buffer and stops when 16 KiB are left. The client has
    `read_timeout_s`, plus the time of the waiting bytes at `MIN_DOWNLOAD_BYTES_PER_S`. After a reset the request ends
    as at a disconnect. A closing connection has the same time for its last bytes.
    """

    def __init__(self, *args: Any, read_timeout_s: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._read_timeout_s = read_timeout_s
        self._read_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_read_timer()

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self._stop_read_timer()
        super().resume_writing()

    def close(self) -> None:
        """Close the connection after the client has read what was sent, within the time limit."""
        self.transport.close()
        if self._read_timer is None:
            self._start_read_timer()

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_read_timer()
        super().connection_lost(exc)

    def _start_read_timer(self) -> None:
        self._stop_read_timer()
        timeout_s = self._read_timeout_s + self.transport.get_write_buffer_size() / MIN_DOWNLOAD_BYTES_PER_S
        self._read_timer = self.loop.call_later(timeout_s, self._reset)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _reset(self) -> None:
        if waiting := self.transport.get_write_buffer_size():
            log.warning("connection reset: the client does not read its answer, %d bytes are waiting", waiting)
        self.transport.abort()


#: A lingering connection is closed after this silence of the client.
SILENCE_S = 2.0
#: Paths that are answered on surplus connections, beyond the limit.
PROBE_PATHS = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})


class HttpProtocol(SlowReaderLimits):
    """The protocol of the service: head limits, slow readers, and a lingering close after unread bodies.

    An answer sent before the whole body was received closes its connection. A close with unread data resets the
    connection, and the client could lose the answer. So further data is read and dropped, for at most
    `linger_timeout_s` and `linger_bytes`, and until the client is silent for `SILENCE_S`.
    """

    def __init__(
        self, *args: Any, slot: ConnectionSlot, linger_timeout_s: float, linger_bytes: int, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._slot = slot
        self._linger_timeout_s, self._linger_bytes = linger_timeout_s, linger_bytes
        self._linger_timer: asyncio.TimerHandle | None = None
        self._linger_until_s = 0.0
        self._active_cycle: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._slot.abort = transport.abort
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._slot.release()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        if self._active_cycle is not None:  # uvicorn marks only the last pipelined request
            self._active_cycle.disconnected = True
            self._active_cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._linger_timer is None:
            super().data_received(data)
            return
        self._linger_bytes -= len(data)
        if self._linger_bytes < 0:
            self.close()
        else:
            self._restart_linger_timer()

    def begin_request(self) -> None:
        self._slot.busy()
        super().begin_request()
        self.cycle.transport = _ResponseTransport(self)  # type: ignore[assignment]
        if self._slot.surplus:
            self.cycle.keep_alive = False
            if self.scope["path"] not in PROBE_PATHS:
                self.scope["state"].setdefault(CONNECTION_ERROR, TooManyConnections(self._slot.limit))

    def on_response_complete(self) -> None:
        self._active_cycle = None
        if not self.pipeline:
            self._slot.idle()
            if self.cycle.more_body:
                self.linger()
        if self._linger_timer is None:
            super().on_response_complete()

    def shutdown(self) -> None:
        """Called when the server stops: answer the request in progress, then close."""
        if self.cycle is None or self.cycle.response_complete:
            self.close()
        else:
            self.cycle.keep_alive = False

    def finish(self) -> None:
        """Close after the last answer, lingering if the client may still be sending."""
        if self.ended or not self.pipeline and self.cycle.more_body:
            self.linger()
        else:
            self.close()

    def linger(self) -> None:
        """Half-close the connection and drop further data until a limit is reached."""
        if self._linger_timer is not None or self.transport.is_closing():
            return
        self.ended = True
        self.pipeline.clear()
        self._linger_until_s = self.loop.time() + self._linger_timeout_s
        self.flow.resume_reading()
        if self.transport.can_write_eof():  # TLS cannot half-close; there the answer's length marks its end
            self.transport.write_eof()
        self._restart_linger_timer()

    def _restart_linger_timer(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self._linger_timer = self.loop.call_at(min(self.loop.time() + SILENCE_S, self._linger_until_s), self.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active_cycle = cycle
        super()._start_asgi_task(cycle, partial(self._answer, cycle, app))

    async def _answer(
        self, cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        transport = cast(_ResponseTransport, cycle.transport)

        async def receive_or_fail() -> Message:
            message = await receive()
            if self.fault is not None and cycle is self.cycle and message.get("more_body"):
                raise self.fault
            return message

        async def send_and_close(message: Message) -> None:
            # A streamed answer may still be reading the body; one with a length is complete.
            if message["type"] == "http.response.start" and _has_length(message):
                if scope["method"] != "HEAD":  # whose body is not written
                    transport.hold_head()
                if cycle.more_body:
                    cycle.keep_alive = False
            await send(message)

        await app(scope, receive_or_fail, send_and_close)


class _ResponseTransport:
    """The transport that uvicorn's response cycle sees: it can send head and body together, and its `close` lingers."""

    def __init__(self, connection: HttpProtocol) -> None:
        self.is_closing = connection.transport.is_closing
        self._connection = connection
        self._holds_head = False
        self._head = b""

    def hold_head(self) -> None:
        """Keep the next bytes, the head, until the body follows: one system call and one packet fewer."""
        self._holds_head = True

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them if they are a head to hold."""
        if self._holds_head:
            self._head, self._holds_head = data, False
        elif self._head:
            self._connection.transport.writelines([self._head, data] if data else [self._head])
            self._head = b""
        else:
            self._connection.transport.write(data)

    def close(self) -> None:
        """Close the connection after the last byte."""
        if self._head:
            self.write(b"")
        self._connection.finish()


def _has_length(message: Message) -> bool:
    return any(name == b"content-length" for name, _ in message["headers"])
