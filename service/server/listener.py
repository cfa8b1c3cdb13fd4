"""Listening sockets: connections are taken as they come, secured where TLS is set up, and counted from then on.

Knows sockets and the event loop, whose own servers take connections without bound. Knows no HTTP.
"""

import asyncio
import errno
import resource
import socket
import ssl
from collections.abc import Callable, Sequence

from service.server.connections import SURPLUS_PLACES, Connections, Place

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
    """Takes connections and gives each the protocol that `protocol` makes for its place."""

    def __init__(
        self,
        connections: Connections,
        protocol: Callable[[Place], asyncio.Protocol],
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
        place = self._connections.take(accepted.close)
        if place is None:
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opening = asyncio.create_task(self._opened(accepted, place))
        place.abort = opening.cancel
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _opened(self, accepted: socket.socket, place: Place) -> None:
        secured = self._context is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(place),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if secured else None,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT_S if secured else None,
            )
        except BaseException as error:
            place.leave()
            accepted.close()
            if not isinstance(error, OSError | asyncio.CancelledError):  # no handshake, or its place was taken
                raise
