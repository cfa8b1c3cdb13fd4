"""The uvicorn server: protocol, signals, graceful shutdown and periodic work of the process."""

import asyncio
import gc
import logging
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.api.state import AppState
from service.concurrency.shared_counts import SharedCounts
from service.concurrency.supervisor import error_location
from service.concurrency.thread_pools import event_loop_pool
from service.concurrency.worker import Worker
from service.config.settings import Settings
from service.inference.registry import ModelRegistry
from service.server.connections import ConnectionLimiter, ConnectionSlot, Listener, connection_limit
from service.server.http_limits import HttpProtocol
from service.server.tls import Tls
from service.server.workers.link import SupervisorLink
from service.telemetry import logging as logs

log = logging.getLogger(__name__)

_CLOSE = (b"connection", b"close")
#: Interval in s after which a running thread must release the GIL. With Python's default of 5 ms, longer than the
#: decoding of a picture, a busy event loop starves the decoding threads.
SWITCH_INTERVAL_S = 0.001
#: New objects, less those that were freed, after which the youngest generation is searched for reference cycles.
GC_THRESHOLD = 5_000
#: Time in s that a shutdown waits for the first request on a connection that is already open.
FIRST_REQUEST_S = 1.0
#: Interval in s of the check for a renewed certificate.
_RENEW_S = 1.0
#: Maximum number of event-loop turns that a shutdown spends on accepting connections from the backlog.
_MAX_TURNS = 1000


class DrainingServer(uvicorn.Server):
    """uvicorn.Server with a graceful shutdown.

    On SIGTERM or SIGINT the service reports not ready but serves for `drain_delay_s` more. Then it accepts no new
    connections and answers accepted requests within `shutdown_timeout_s`. A second signal skips the delay. While
    draining, each answer closes its connection, so that clients reconnect elsewhere. Requests that wait in the
    kernel's buffers count as accepted.

    If the model hangs or keeps failing, its waiting clients get a problem and the server stops with `failed` set, to
    be restarted by its supervisor. SIGHUP reloads the artefact.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        started: Callable[[], None],
        tls: Tls | None,
        link: SupervisorLink | None,
    ) -> None:
        super().__init__(config)
        self._link = link
        self._tls = tls
        self._listener: Listener | None = None
        self._app = app
        self._app_state: AppState = app.state.app_state
        self._models: ModelRegistry = app.state.models
        self._started_callback = started
        self._exit_at_s: float | None = None
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn. Starts listening and periodic tasks, then calls `started`."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(event_loop_pool())
        loop.set_exception_handler(self._callback_failed)
        threading.excepthook = self._thread_failed
        await super().startup([])  # no sockets: uvicorn's own listeners have no connection limit
        if self.started:
            self._listen(sockets or [])
            loop.add_signal_handler(signal.SIGHUP, self._models.schedule_reload)
            freeze_startup_objects()
            if self._link is not None:
                await self._link.open(self._app, partial(self.handle_exit, signal.SIGTERM, None))
            if self._tls is not None:
                self._app_state.background.every("certificate", _RENEW_S, self._tls.refresh)
            self._started_callback()

    def _listen(self, sockets: list[socket.socket]) -> None:
        settings = self._app_state.settings
        limit = connection_limit(settings.max_connections)
        if limit < settings.max_connections:
            log.warning(
                "MARROWLENS_MAX_CONNECTIONS=%d lowered to %d by the limit of open files; raise it with ulimit -n",
                settings.max_connections,
                limit,
            )
        worker = self._app_state.worker
        counts = None if worker is None else SharedCounts.of(worker)
        connections = ConnectionLimiter(limit, self._app_state.metrics.connections, counts)
        self._listener = Listener(connections, self._protocol, None if self._tls is None else self._tls.context)
        self._listener.listen(sockets, self.config.backlog)

    def _protocol(self, slot: ConnectionSlot) -> HttpProtocol:
        settings = self._app_state.settings
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
        """Count and log an exception in a callback of the event loop."""
        self._app_state.metrics.background.failed("event_loop")
        error: BaseException | None = context.get("exception")
        log.error("event loop: %s%s", context.get("message"), f": {error_location(error)}" if error else "")

    def _thread_failed(self, ended: threading.ExceptHookArgs) -> None:
        """Count and log an exception that ended a thread. `on_tick` checks the threads of the model."""
        self._app_state.metrics.background.failed("thread")
        name = "unknown" if ended.thread is None else ended.thread.name
        error = error_location(ended.exc_value) if ended.exc_value else ended.exc_type.__name__
        log.error("thread %s failed: %s", name, error)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signature is the signal module's)
        # Not passed to uvicorn's own handler: it raises signals again after shutdown, and the exit status would not
        # be 0.
        if self._exit_at_s is not None:
            self.force_exit, self.should_exit = self.should_exit, True
            return
        self._app_state.draining = True
        self.config.encoded_headers.append(_CLOSE)  # uvicorn builds default_headers from these once a second
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        self._exit_at_s = time.monotonic() + self._app_state.settings.drain_delay_s

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn every 0.1 s: whether to exit. Never waits for disk, database or threads."""
        if self._exit_at_s is not None and time.monotonic() >= self._exit_at_s:
            self.should_exit = True
        classifier = self._app_state.classifier
        if classifier is not None and classifier.broken():
            log.critical("the model hangs, fails repeatedly or lost a thread: stopping the service")
            self.failed = self.should_exit = True
            await classifier.abort()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn. First accepts and reads what is in the kernel's buffers; uvicorn would reset it."""
        self._app_state.begin_shutdown()
        if self._listener is not None:
            self._listener.accept_all()
        if not (self.force_exit or self.failed):
            await self._accept_backlog(sockets or [])
            await self._read_first_requests()
        if self._listener is not None:
            self._listener.close()
            self._listener.cancel_opening()
        await super().shutdown(sockets)

    async def _accept_backlog(self, listeners: list[socket.socket]) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in listeners:
                selector.register(listener, selectors.EVENT_READ)
            for _ in range(_MAX_TURNS):
                if not selector.select(0):
                    break
                await asyncio.sleep(0)
            if self._listener is not None:
                self._listener.close()

    async def _read_first_requests(self) -> None:
        until_s = time.monotonic() + FIRST_REQUEST_S
        while True:
            for _ in range(3):  # turns: readiness, reading, the tasks it starts
                await asyncio.sleep(0)
            silent = [each for each in self.server_state.connections if getattr(each, "cycle", None) is None]
            opening = self._listener is not None and self._listener.opening
            if not (silent or opening) or self.force_exit or time.monotonic() > until_s:
                return
            await asyncio.sleep(0.01)


def freeze_startup_objects() -> None:
    """Exclude all present objects from garbage collection: a full collection over them takes 0.1 s.

    Requests in progress hold a few thousand objects. With Python's threshold of 700 they would be searched for garbage
    once a request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])


def create_server(
    app: FastAPI,
    settings: Settings,
    *,
    access_log: bool,
    started: Callable[[], None],
    link: SupervisorLink | None = None,
) -> DrainingServer:
    """A configured server, not started. It calls `started` once it accepts connections.

    Args:
        link: to the supervisor of this worker; None: the process serves alone.

    Raises:
        TlsConfigError: a TLS file cannot be used.
    """
    tls = None if settings.tls_cert is None else Tls(settings)
    worker: Worker | None = app.state.app_state.worker
    index = None if worker is None else worker.index
    logs.configure(settings.log_level, access_log=access_log, log_format=settings.log_format, worker=index)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="auto",  # uvloop if installed
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # service.api.forwarded accepts them from MARROWLENS_TRUSTED_PROXIES only
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # fractions work too
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
    )
    return DrainingServer(config, app, started, tls, link)
