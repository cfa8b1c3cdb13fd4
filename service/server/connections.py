"""Connections."""

import asyncio
import errno
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable, Sequence

from service.telemetry.metrics import ConnectionMetrics

#: Places beyond the limit, in which supervisors alone are answered.
SURPLUS_PLACES = 16
#: At most one line of the log in so many seconds says that connections run out.
LOG_EVERY_S = 10.0

log = logging.getLogger(__name__)


class ConnectionLimiter:
    """The places of all connections.

    When all are taken, the connection that has been idle for longest is ended for one that comes. When none is idle,
    the one that comes has a slot beyond the limit, a surplus one. When those are busy too, it is refused.
    """

    def __init__(self, limit: int, metrics: ConnectionMetrics) -> None:
        self.limit = limit
        self._metrics = metrics
        self._taken: set[ConnectionSlot] = set()
        self._idle: dict[ConnectionSlot, None] = {}  # in the order in which they became so
        self._silent_until_s = 0.0
        metrics.watch(lambda: len(self._taken), limit)

    def take(self, abort: Callable[[], object]) -> "ConnectionSlot | None":
        """A slot for a connection that `abort` ends; None where there is none."""
        if len(self._taken) >= self.limit and not self.end_idle():
            self._warn("all in use")
            if len(self._taken) >= self.limit + SURPLUS_PLACES:
                self._metrics.dropped("refused")
                return None
        slot = ConnectionSlot(self, abort, surplus=len(self._taken) >= self.limit)
        self._taken.add(slot)
        self._idle[slot] = None
        return slot

    def end_idle(self) -> bool:
        """Whether there was an idle connection; the one that has been so for longest is ended."""
        slot = next(iter(self._idle), None)
        if slot is None:
            return False
        self._warn("the one that has been idle for longest is closed")
        self._metrics.dropped("idle")
        slot.leave()
        slot.abort()
        return True

    def out_of_files(self, error: OSError) -> None:
        """The system gave no socket for one more connection."""
        self._metrics.dropped("files")
        self._warn(str(error.strerror))
        self.end_idle()

    def busy(self, slot: "ConnectionSlot") -> None:
        """A request is under way in this slot."""
        self._idle.pop(slot, None)

    def idle(self, slot: "ConnectionSlot") -> None:
        """No request is under way in this slot any more."""
        if slot in self._taken:
            self._idle.pop(slot, None)
            self._idle[slot] = None

    def leave(self, slot: "ConnectionSlot") -> None:
        """The connection of this slot is closed."""
        self._taken.discard(slot)
        self._idle.pop(slot, None)

    def _warn(self, why: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._silent_until_s:
            self._silent_until_s = now_s + LOG_EVERY_S
            counts = (len(self._taken), self.limit, len(self._idle), why)
            log.warning("%d connections are open, of %d at most, %d of them idle: %s", *counts)


class ConnectionSlot:
    """One connection's slot. `abort` ends the connection at once."""

    def __init__(self, connections: ConnectionLimiter, abort: Callable[[], object], *, surplus: bool) -> None:
        self._connections = connections
        self.abort = abort
        self.surplus = surplus
        self.limit = connections.limit

    def busy(self) -> None:
        """A request is under way."""
        self._connections.busy(self)

    def idle(self) -> None:
        """None is any more."""
        self._connections.idle(self)

    def leave(self) -> None:
        """The connection is closed."""
        self._connections.leave(self)


#: A client that has connected begins TLS at once, and ends it when the service does.
HANDSHAKE_TIMEOUT_S = 10.0
TLS_CLOSE_TIMEOUT_S = 2.0
#: Taken in one turn of the event loop, so that it comes to something else too.
_AT_ONCE = 100
#: Without a free file there is no connection to take; so long until that is tried again.
_PAUSE_S = 0.1
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: For everything else that a process has open: the model, the database, the laboratory's own connections.
_OTHER_FILES = 100


def connection_limit(wanted: int) -> int:
    """How many connections the limit of open files allows, of those that are wanted; it is raised as far as it may."""
    files = wanted + SURPLUS_PLACES + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SURPLUS_PLACES - _OTHER_FILES))


class Listener:
    """Takes connections and gives each the protocol that `protocol` makes for its slot."""

    def __init__(
        self,
        connections: ConnectionLimiter,
        protocol: Callable[[ConnectionSlot], asyncio.Protocol],
        context: ssl.SSLContext | None,
    ) -> None:
        self._connections = connections
        self._protocol = protocol
        self._context = context
        self._listening: list[socket.socket] = []
        self._opening: set[asyncio.Task[None]] = set()  # a task that nobody holds may vanish

    def listen(self, sockets: Sequence[socket.socket], backlog: int) -> None:
        """Take what comes to these sockets, from now on."""
        for each in sockets:
            each.setblocking(False)
            each.listen(backlog)
            self._listening.append(each)
            self._resume(each)

    def close(self) -> None:
        """Take no more."""
        for each in self._listening:
            asyncio.get_running_loop().remove_reader(each)
        self._listening.clear()

    @property
    def opening(self) -> bool:
        """Whether connections were taken that have no protocol yet."""
        return bool(self._opening)

    def abandon(self) -> None:
        """End the connections that have no protocol yet."""
        for each in self._opening:
            each.cancel()

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._take, listening)

    def _take(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    self._connections.out_of_files(error)
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(listening)
                    loop.call_later(_PAUSE_S, self._resume, listening)
                    return
                continue  # the client has left already
            self._open(accepted)

    def _open(self, accepted: socket.socket) -> None:
        slot = self._connections.take(accepted.close)
        if slot is None:
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opening = asyncio.create_task(self._opened(accepted, slot))
        slot.abort = opening.cancel
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _opened(self, accepted: socket.socket, slot: ConnectionSlot) -> None:
        secured = self._context is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(slot),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if secured else None,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT_S if secured else None,
            )
        except BaseException as error:
            slot.leave()
            accepted.close()
            if not isinstance(error, OSError | asyncio.CancelledError):  # no handshake, or its slot was taken
                raise
