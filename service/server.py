"""uvicorn around the app: which protocol code, what is logged, and a shutdown that answers what was accepted.

Knows signals, sockets and the heads of requests. Does not know routes.
"""

import asyncio
import logging
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from random import getrandbits
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import memory
from service.problems import MEDIA_TYPE, problem
from service.running import Running
from service.settings import Settings

log = logging.getLogger(__name__)

_CLOSE = (b"connection", b"close")
#: A client that has connected sends at once; this long its first request is waited for before the connection is closed.
FIRST_REQUEST_S = 1.0
#: How often memory that is free goes back to the system; ticks are tenths of a second.
_GIVE_BACK_TICKS = 100
#: Turns of the event loop, each of which takes all connections that wait; more only when clients never stop coming.
_MAX_TURNS = 1000


#: Browsers send a few kilobytes; a proxy's identity headers may make it some ten.
MAX_HEAD_BYTES = 64 * 1024


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which by itself takes heads of any size and waits for them for ever.

    A head is a request line with its headers: at most `MAX_HEAD_BYTES`, and there within `head_timeout_s`.
    """

    def __init__(self, *args: Any, head_timeout_s: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_timeout_s = head_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._awaits_head = self._begun = False
        self._head_bytes = self._fields = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._awaits_head = True
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        awaited, fields = self._awaits_head, self._fields
        super().data_received(data)
        silent = awaited and self._awaits_head and fields == self._fields  # a field that is longer than this piece
        if silent:
            self._head_bytes += len(data)
        if self._awaits_head and (self._begun or silent) and not self.transport.is_closing():
            self._start_timer()
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)

    def on_message_begin(self) -> None:
        self._begun, self._head_bytes = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._awaits_head = self._begun = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._awaits_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (signature is uvicorn's)
        """Called by uvicorn when its parser gives up, also because `_count` made it."""
        self._refuse(431 if self._head_bytes > MAX_HEAD_BYTES else 400)

    def _count(self, length: int) -> None:
        self._fields += 1
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")  # the parser makes its own error of it

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout_s, self._refuse, 408)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int) -> None:
        if self._awaits_head and self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the answer under way to an earlier request comes first, and is the last
            self.flow.pause_reading()
            return
        body = problem(HTTPException(status), f"{getrandbits(128):032x}").json_bytes()
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "connection: close",
        )
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM or SIGINT: not ready, but serving for `drain_delay_s`; then no new connections, and what
    was accepted is answered within `shutdown_timeout_s`. A second signal skips the delay.

    Meanwhile every answer ends its connection, so that clients go elsewhere before this process does. A request that
    has come as far as the kernel counts as accepted: it is read and answered, not cut off.

    When the model is broken, everybody who waits for it gets a problem, and the server stops and is `failed`, for a
    supervisor to start the process anew: a call that hangs cannot be taken back.
    """

    def __init__(self, config: uvicorn.Config, running: Running, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._running = running
        self._tell_started = started
        self._exit_at_s: float | None = None
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn; says so once connections are taken."""
        await super().startup(sockets)
        if self.started:
            self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signature is the signal module's)
        # Signals are not passed on to uvicorn's own list: it would raise them again after a clean shutdown, and the
        # process would end by signal instead of with status 0.
        if self._exit_at_s is not None:
            self.force_exit, self.should_exit = self.should_exit, True
            return
        self._running.draining = True
        self.config.encoded_headers.append(_CLOSE)  # for what uvicorn makes of them every second,
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]  # and until then
        self._exit_at_s = time.monotonic() + self._running.settings.drain_delay_s

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn every 0.1 s."""
        if self._exit_at_s is not None and time.monotonic() >= self._exit_at_s:
            self.should_exit = True
        if counter % _GIVE_BACK_TICKS == _GIVE_BACK_TICKS - 1:
            await asyncio.to_thread(memory.give_back)
        classifier = self._running.classifier
        if classifier is not None and classifier.broken():
            log.critical("the model hangs, fails time after time or lost a thread: the service stops")
            self.failed = self.should_exit = True
            await classifier.abandon()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn, which by itself resets connections that wait in the kernel and requests not yet read."""
        if not (self.force_exit or self.failed):
            await self._take_what_waits(sockets or [])
            await self._read_what_came()
        await super().shutdown(sockets)

    async def _take_what_waits(self, listeners: list[socket.socket]) -> None:
        with selectors.DefaultSelector() as waiting:
            for listener in listeners:
                waiting.register(listener, selectors.EVENT_READ)
            for _ in range(_MAX_TURNS):
                if not waiting.select(0):
                    break
                await asyncio.sleep(0)
            for listening in self.servers:
                listening.close()

    async def _read_what_came(self) -> None:
        until_s = time.monotonic() + FIRST_REQUEST_S
        while True:
            for _ in range(3):  # one to be told of the data, one to read it, one for what it starts
                await asyncio.sleep(0)
            silent = [each for each in self.server_state.connections if getattr(each, "cycle", None) is None]
            if not silent or self.force_exit or time.monotonic() > until_s:
                return
            await asyncio.sleep(0.01)


def server(app: FastAPI, settings: Settings, *, access_log: bool, started: Callable[[], None]) -> DrainingServer:
    """A server that has not started yet; it calls `started` once it takes connections."""
    _configure_logging(settings.log_level.upper(), access_log=access_log)
    memory.bound_what_is_kept()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=partial(BoundedHeads, head_timeout_s=settings.request_timeout_s),  # type: ignore[arg-type]
        loop="auto",  # uvloop where there is one
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
    )
    return DrainingServer(config, app.state.running, started)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that holds its port but takes no connections yet, so that a busy port is found before a slow start.

    Raises:
        OSError: the port is in use or not allowed, or the host has no address here.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _configure_logging(level: str, *, access_log: bool) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # uvicorn's own lines say what `marrowlens serve` has said already.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # A client's malformed form or picture is the client's news: it gets a problem, the log does not.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger("service.access").setLevel(logging.INFO if access_log else logging.CRITICAL)
