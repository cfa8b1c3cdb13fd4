"""Listening sockets and the limit of open connections."""

import asyncio
import errno
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable, Sequence

from service.concurrency.shared_counts import Column, SharedCounts
from service.telemetry.metrics import ConnectionMetrics

#: Connections beyond the limit, on which only health probes and scrapes are answered.
SURPLUS_SLOTS = 16
#: Minimum interval in s between log lines about the connection limit.
LOG_EVERY_S = 10.0

log = logging.getLogger(__name__)


class ConnectionLimiter:
    """Limits the number of open connections.

    At the limit a new connection replaces the one idle for longest. If none is idle it gets one of `SURPLUS_SLOTS`
    surplus slots; if those are in use too, it is refused.

    Args:
        counts: of all workers that accept from the same socket; None: no other process does.
    """

    def __init__(self, limit: int, metrics: ConnectionMetrics, counts: SharedCounts | None = None) -> None:
        self.limit = limit
        self._counts = counts
        self._metrics = metrics
        self._taken: set[ConnectionSlot] = set()
        self._idle: dict[ConnectionSlot, None] = {}  # longest idle first
        self._next_log_s = 0.0
        metrics.watch(lambda: len(self._taken), limit)
        self._share()

    def take(self, abort: Callable[[], object]) -> "ConnectionSlot | None":
        """A slot for a new connection, which `abort` closes; None if it must be refused."""
        if len(self._taken) >= self.limit and not self.close_idle():
            self._warn("all are in use")
            if len(self._taken) >= self.limit + SURPLUS_SLOTS:
                self._metrics.dropped("refused")
                return None
        slot = ConnectionSlot(self, abort, surplus=len(self._taken) >= self.limit)
        self._taken.add(slot)
        self._share()
        self._idle[slot] = None
        return slot

    def close_idle(self) -> bool:
        """Close the connection idle for longest; false if none is idle."""
        slot = next(iter(self._idle), None)
        if slot is None:
            return False
        self._warn("closing the one idle for longest")
        self._metrics.dropped("idle")
        slot.release()
        slot.abort()
        return True

    def out_of_files(self, error: OSError) -> None:
        """Count a connection that could not be accepted for lack of file descriptors, and close an idle one."""
        self._metrics.dropped("files")
        self._warn(str(error.strerror))
        self.close_idle()

    def busy(self, slot: "ConnectionSlot") -> None:
        """Mark a slot as busy: a request is in progress."""
        self._idle.pop(slot, None)

    def idle(self, slot: "ConnectionSlot") -> None:
        """Mark a slot as idle, unless its connection is closed."""
        if slot in self._taken:
            self._idle.pop(slot, None)
            self._idle[slot] = None

    def release(self, slot: "ConnectionSlot") -> None:
        """Free a slot whose connection is closed."""
        self._taken.discard(slot)
        self._share()
        self._idle.pop(slot, None)

    @property
    def shared(self) -> bool:
        """Whether other workers accept from the same socket."""
        return self._counts is not None

    def above_least(self) -> bool:
        """Whether another worker has fewer connections."""
        return self._counts is not None and len(self._taken) > self._counts.least(Column.CONNECTIONS)

    def _share(self) -> None:
        if self._counts is not None:
            self._counts.set(Column.CONNECTIONS, len(self._taken))

    def _warn(self, why: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_log_s:
            self._next_log_s = now_s + LOG_EVERY_S
            counts = (len(self._taken), self.limit, len(self._idle), why)
            log.warning("%d connections are open (limit %d, %d idle): %s", *counts)


class ConnectionSlot:
    """The slot of one connection. `abort` closes the connection at once; `surplus` slots are beyond the limit."""

    def __init__(self, connections: ConnectionLimiter, abort: Callable[[], object], *, surplus: bool) -> None:
        self._connections = connections
        self.abort = abort
        self.surplus = surplus
        self.limit = connections.limit

    def busy(self) -> None:
        """A request is in progress."""
        self._connections.busy(self)

    def idle(self) -> None:
        """No request is in progress."""
        self._connections.idle(self)

    def release(self) -> None:
        """The connection is closed."""
        self._connections.release(self)


#: Timeouts in s of the TLS handshake and of TLS close.
HANDSHAKE_TIMEOUT_S = 10.0
TLS_CLOSE_TIMEOUT_S = 2.0
#: Maximum number of connections accepted in one turn of the event loop.
_AT_ONCE = 100
#: Time in s for which a worker leaves a new connection to those with fewer.
_YIELD_S = 0.005
#: Pause in s before accepting again, after the system had no file descriptor left.
_PAUSE_S = 0.1
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: File descriptors reserved for the model, the database and outgoing connections.
_OTHER_FILES = 100


def connection_limit(wanted: int) -> int:
    """The wanted number of connections, or fewer if the limit of open files is too low. Raises the soft limit first."""
    files = wanted + SURPLUS_SLOTS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SURPLUS_SLOTS - _OTHER_FILES))


class Listener:
    """Accepts connections within the limit, with TLS if `context` is given.

    `protocol` makes the protocol of a connection from its slot. Of several workers, the one with the fewest connections
    accepts: the kernel would wake all of them, and give most connections to one (docs/decisions/0032-workers.md).
    """

    def __init__(
        self,
        connections: ConnectionLimiter,
        protocol: Callable[[ConnectionSlot], asyncio.Protocol],
        context: ssl.SSLContext | None,
    ) -> None:
        self._connections = connections
        self._protocol = protocol
        self._context = context
        self._yields = connections.shared
        self._listening: list[socket.socket] = []
        self._opening: set[asyncio.Task[None]] = set()  # asyncio keeps only weak references to tasks

    def listen(self, sockets: Sequence[socket.socket], backlog: int) -> None:
        """Start accepting connections on these sockets."""
        for each in sockets:
            each.setblocking(False)
            each.listen(backlog)
            self._listening.append(each)
            self._resume(each)

    def close(self) -> None:
        """Stop accepting connections."""
        for each in self._listening:
            asyncio.get_running_loop().remove_reader(each)
        self._listening.clear()

    @property
    def opening(self) -> bool:
        """Whether accepted connections are still being opened, such as in a TLS handshake."""
        return bool(self._opening)

    def cancel_opening(self) -> None:
        """Close the connections that are still being opened."""
        for each in self._opening:
            each.cancel()

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._ready, listening)

    def accept_all(self) -> None:
        """Leave no connection to other workers any more."""
        self._yields = False

    def _ready(self, listening: socket.socket) -> None:
        if not self._yields:
            self._accept(listening, _AT_ONCE)
        elif not self._connections.above_least():
            self._accept(listening, 1)
        else:
            self._pause(listening, _YIELD_S, self._accept_one)

    def _accept_one(self, listening: socket.socket) -> None:
        """Accept a connection that no other worker has accepted."""
        self._resume(listening)
        if listening in self._listening:
            self._accept(listening, 1)

    def _pause(self, listening: socket.socket, pause_s: float, then: Callable[[socket.socket], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(pause_s, then, listening)

    def _accept(self, listening: socket.socket, most: int) -> None:
        for _ in range(most):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    self._connections.out_of_files(error)
                    self._pause(listening, _PAUSE_S, self._resume)
                    return
                continue  # the client has disconnected already
            self._open(accepted)

    def _open(self, accepted: socket.socket) -> None:
        slot = self._connections.take(accepted.close)
        if slot is None:
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opening = asyncio.create_task(self._connect(accepted, slot))
        slot.abort = opening.cancel
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _connect(self, accepted: socket.socket, slot: ConnectionSlot) -> None:
        tls = self._context is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(slot),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls else None,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT_S if tls else None,
            )
        except BaseException as error:
            slot.release()
            accepted.close()
            if not isinstance(error, OSError | asyncio.CancelledError):  # failed handshake, or its slot was given away
                raise
