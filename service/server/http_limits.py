"""HTTP limits."""

import asyncio
import logging
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import TooManyConnections
from service.server.connections import ConnectionSlot
from service.server.http_framing import HttpFraming
from service.telemetry.request_context import CONNECTION_ERROR

#: Browsers send a few kilobytes; a proxy's identity headers may make it some ten.
MAX_HEAD_BYTES = 64 * 1024


class HeadLimits(HttpFraming):
    """uvicorn's protocol, which by itself takes heads of any size and waits for them for ever.

    A head is a request line with its headers: at most `MAX_HEAD_BYTES`, and there within `head_timeout_s`. Trailers
    are bounded as a head is.
    """

    def __init__(self, *args: Any, head_timeout_s: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_timeout_s = head_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._begun = False
        self._head_bytes = self._fields = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        awaited, fields = self.awaits_head, self._fields
        super().data_received(data)
        silent = awaited and self.awaits_head and fields == self._fields  # a field that is longer than this piece
        if silent:
            self._head_bytes += len(data)
        if self.awaits_head and (self._begun or silent) and not self.ended:
            self._start_timer()
            if self._head_bytes > MAX_HEAD_BYTES:
                self.refuse(_too_long())

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
        if self._head_timer is not None:  # until now it was not the client who kept the rest waiting
            self._stop_timer()
            self._start_timer()

    def begin_exchange(self) -> None:
        self._begun = False
        self._stop_timer()
        super().begin_exchange()

    def _count(self, length: int) -> None:
        self._fields += 1
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            self.stop(_too_long())

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout_s, self._time_out)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_out(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:
            self._start_timer()
        else:
            self.refuse(HTTPException(408, f"no whole request came within {self._head_timeout_s:g} s"))


def _too_long() -> HTTPException:
    return HTTPException(431, f"the request line and headers are longer than {MAX_HEAD_BYTES} bytes")


#: An answer that is read more slowly than this on the whole, its first `read_timeout_s` apart, is given up.
MIN_DOWNLOAD_BYTES_PER_S = 16 * 1024

log = logging.getLogger(__name__)


class SlowReaderLimits(HeadLimits):
    """uvicorn's protocol, which by itself waits for ever until a client reads what was sent to it.

    What waits to be read, once it is more than the connection's buffers hold (64 KiB besides the kernel's), must be
    read but for 16 KiB within `read_timeout_s` and the time that its bytes take at `MIN_DOWNLOAD_BYTES_PER_S`. Else the
    connection is reset, and the request ends as if the client had left. A connection that is closed has as long for
    the last of it, however little that is.
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
        """End the connection once what was sent is read."""
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
        patience_s = self._read_timeout_s + self.transport.get_write_buffer_size() / MIN_DOWNLOAD_BYTES_PER_S
        self._read_timer = self.loop.call_later(patience_s, self._give_up)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _give_up(self) -> None:
        if waiting := self.transport.get_write_buffer_size():
            log.warning("a client does not read its answer: %d bytes wait", waiting)
        self.transport.abort()


#: A client that has its answer and says nothing more for so long is not waited for.
SILENCE_S = 2.0
#: What supervisors ask is answered on a connection beyond the limit, too.
SUPERVISED = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})


class HttpProtocol(SlowReaderLimits):
    """The service's protocol. uvicorn's own waits for ever for the rest of a body that nobody reads.

    An answer to a request whose body has not come whole ends its connection. What the client still sends is dropped
    for at most `linger_timeout_s` and `linger_bytes`, and until it is silent for `SILENCE_S`.
    """

    def __init__(
        self, *args: Any, slot: ConnectionSlot, linger_timeout_s: float, linger_bytes: int, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._slot = slot
        self._linger_timeout_s, self._linger_bytes = linger_timeout_s, linger_bytes
        self._linger_timer: asyncio.TimerHandle | None = None
        self._linger_until_s = 0.0
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._slot.abort = transport.abort
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._slot.leave()
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
        self._slot.busy()
        super().begin_exchange()
        self.cycle.transport = _Outlet(self)  # type: ignore[assignment]
        if self._slot.surplus:
            self.cycle.keep_alive = False
            if self.scope["path"] not in SUPERVISED:
                self.scope["state"].setdefault(CONNECTION_ERROR, TooManyConnections(self._slot.limit))

    def on_response_complete(self) -> None:
        self._answering = None
        if not self.pipeline:
            self._slot.idle()
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

    def __init__(self, connection: HttpProtocol) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.finish


def _sized(message: Message) -> bool:
    return any(name == b"content-length" for name, _ in message["headers"])
