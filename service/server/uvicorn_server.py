"""uvicorn around the app: which protocol code, what is logged, and a shutdown that answers what was accepted.

Knows signals and sockets. Does not know routes.
"""

import asyncio
import logging
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.api.state import AppState
from service.concurrency.supervisor import error_location
from service.concurrency.thread_pools import TELEMETRY, event_loop_pool
from service.config.settings import Settings
from service.inference.registry import ModelRegistry
from service.server import allocator
from service.server.connections import ConnectionLimiter, ConnectionSlot, Listener, connection_limit
from service.server.http_limits import HttpProtocol
from service.server.tls import Tls
from service.telemetry import logging as logs

log = logging.getLogger(__name__)

_CLOSE = (b"connection", b"close")
#: How long a thread that is ready waits for another one to hand over Python's lock. Python's own 5 ms are longer than a
#: picture takes: beside an event loop that has always something to do, as when it refuses, decoding would stand still.
SWITCH_INTERVAL_S = 0.001
#: A client that has connected sends at once; this long its first request is waited for before the connection is closed.
FIRST_REQUEST_S = 1.0
#: How often memory that is free goes back to the system, and how often it is asked whether the certificate was renewed.
_GIVE_BACK_S, _RENEW_S = 10.0, 1.0
#: Turns of the event loop, each of which takes all connections that wait; more only when clients never stop coming.
_MAX_TURNS = 1000


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM or SIGINT: not ready, but serving for `drain_delay_s`; then no new connections, and what
    was accepted is answered within `shutdown_timeout_s`. A second signal skips the delay.

    Meanwhile every answer ends its connection, so that clients go elsewhere before this process does. A request that
    has come as far as the kernel counts as accepted: it is read and answered, not cut off.

    When the model is broken, everybody who waits for it gets a problem, and the server stops and is `failed`, for a
    supervisor to start the process anew: a call that hangs cannot be taken back. SIGHUP reads the artefact anew.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        running: AppState,
        models: ModelRegistry,
        started: Callable[[], None],
        tls: Tls | None,
    ) -> None:
        super().__init__(config)
        self._tls = tls
        self._listener: Listener | None = None
        self._running = running
        self._models = models
        self._tell_started = started
        self._exit_at_s: float | None = None
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn; says so once connections are taken."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(event_loop_pool())
        loop.set_exception_handler(self._callback_failed)
        threading.excepthook = self._thread_failed
        await super().startup([])  # whose own servers would take connections without bound
        if self.started:
            self._listen(sockets or [])
            loop.add_signal_handler(signal.SIGHUP, self._models.schedule_reload)
            allocator.set_aside()
            self._running.background.every("memory", _GIVE_BACK_S, lambda: TELEMETRY.run(allocator.give_back))
            if self._tls is not None:
                self._running.background.every("certificate", _RENEW_S, self._tls.refresh)
            self._tell_started()

    def _listen(self, sockets: list[socket.socket]) -> None:
        settings = self._running.settings
        limit = connection_limit(settings.max_connections)
        if limit < settings.max_connections:
            log.warning("at most %d connections: the system allows no more open files (ulimit -n)", limit)
        connections = ConnectionLimiter(limit, self._running.metrics.connections)
        self._listener = Listener(connections, self._protocol, None if self._tls is None else self._tls.context)
        self._listener.listen(sockets, self.config.backlog)

    def _protocol(self, slot: ConnectionSlot) -> HttpProtocol:
        settings = self._running.settings
        return HttpProtocol(
            self.config,
            self.server_state,
            self.lifespan.state,
            slot=slot,
            head_timeout_s=settings.request_timeout_s,
            read_timeout_s=settings.request_timeout_s,
            linger_timeout_s=settings.request_timeout_s,
            linger_bytes=settings.max_body_bytes,
        )

    def _callback_failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a callback of the event loop raises reaches nobody else."""
        self._running.metrics.background.failed("event_loop")
        error: BaseException | None = context.get("exception")
        log.error("event loop: %s%s", context.get("message"), f", {error_location(error)}" if error else "")

    def _thread_failed(self, ended: threading.ExceptHookArgs) -> None:
        """Nobody waits for a thread; `on_tick` sees those that the model cannot do without."""
        self._running.metrics.background.failed("thread")
        name = "unknown" if ended.thread is None else ended.thread.name
        said = error_location(ended.exc_value) if ended.exc_value else ended.exc_type.__name__
        log.error("thread %s failed: %s", name, said)

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
        """Called by uvicorn every 0.1 s. Waits for nothing: no disk, no database and no thread may hold up the end."""
        if self._exit_at_s is not None and time.monotonic() >= self._exit_at_s:
            self.should_exit = True
        classifier = self._running.classifier
        if classifier is not None and classifier.broken():
            log.critical("the model hangs, fails time after time or lost a thread: the service stops")
            self.failed = self.should_exit = True
            await classifier.abort()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn, which by itself resets connections that wait in the kernel and requests not yet read."""
        self._running.begin_shutdown()
        if not (self.force_exit or self.failed):
            await self._take_what_waits(sockets or [])
            await self._read_what_came()
        if self._listener is not None:
            self._listener.close()
            self._listener.abandon()
        await super().shutdown(sockets)

    async def _take_what_waits(self, listeners: list[socket.socket]) -> None:
        with selectors.DefaultSelector() as waiting:
            for listener in listeners:
                waiting.register(listener, selectors.EVENT_READ)
            for _ in range(_MAX_TURNS):
                if not waiting.select(0):
                    break
                await asyncio.sleep(0)
            if self._listener is not None:
                self._listener.close()

    async def _read_what_came(self) -> None:
        until_s = time.monotonic() + FIRST_REQUEST_S
        while True:
            for _ in range(3):  # one to be told of the data, one to read it, one for what it starts
                await asyncio.sleep(0)
            silent = [each for each in self.server_state.connections if getattr(each, "cycle", None) is None]
            opening = self._listener is not None and self._listener.opening
            if not (silent or opening) or self.force_exit or time.monotonic() > until_s:
                return
            await asyncio.sleep(0.01)


def server(app: FastAPI, settings: Settings, *, access_log: bool, started: Callable[[], None]) -> DrainingServer:
    """A server that has not started yet; it calls `started` once it takes connections.

    Raises:
        TlsConfigError: TLS is set up, and a file of it cannot be used.
    """
    tls = None if settings.tls_cert is None else Tls(settings)
    logs.configure(settings.log_level, access_log=access_log, form=settings.log_format)
    allocator.bound_what_is_kept()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="auto",  # uvloop where there is one
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # believed from whomever MARROWLENS_TRUSTED_PROXIES names, not from all of this machine
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # for the event loop, which takes parts
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
    )
    return DrainingServer(config, app.state.app_state, app.state.models, started, tls)


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
