"""How many connections may be open, and which of them ends when one more comes.

Counts places. Knows no sockets and no HTTP: a connection says when it is busy, and is ended by a function of its own.
"""

import logging
import time
from collections.abc import Callable

from service.telemetry.connection_metrics import ConnectionMetrics

#: Places beyond the limit, in which supervisors alone are answered.
SURPLUS_PLACES = 16
#: At most one line of the log in so many seconds says that connections run out.
LOG_EVERY_S = 10.0

log = logging.getLogger(__name__)


class Connections:
    """The places of all connections.

    When all are taken, the connection that has been idle for longest is ended for one that comes. When none is idle,
    the one that comes has a place beyond the limit, a surplus one. When those are busy too, it is refused.
    """

    def __init__(self, limit: int, metrics: ConnectionMetrics) -> None:
        self.limit = limit
        self._metrics = metrics
        self._taken: set[Place] = set()
        self._idle: dict[Place, None] = {}  # in the order in which they became so
        self._silent_until_s = 0.0
        metrics.watch(lambda: len(self._taken), limit)

    def take(self, abort: Callable[[], object]) -> "Place | None":
        """A place for a connection that `abort` ends; None where there is none."""
        if len(self._taken) >= self.limit and not self.end_idle():
            self._warn("all in use")
            if len(self._taken) >= self.limit + SURPLUS_PLACES:
                self._metrics.dropped("refused")
                return None
        place = Place(self, abort, surplus=len(self._taken) >= self.limit)
        self._taken.add(place)
        self._idle[place] = None
        return place

    def end_idle(self) -> bool:
        """Whether there was an idle connection; the one that has been so for longest is ended."""
        place = next(iter(self._idle), None)
        if place is None:
            return False
        self._warn("the one that has been idle for longest is closed")
        self._metrics.dropped("idle")
        place.leave()
        place.abort()
        return True

    def out_of_files(self, error: OSError) -> None:
        """The system gave no socket for one more connection."""
        self._metrics.dropped("files")
        self._warn(str(error.strerror))
        self.end_idle()

    def busy(self, place: "Place") -> None:
        """A request is under way in this place."""
        self._idle.pop(place, None)

    def idle(self, place: "Place") -> None:
        """No request is under way in this place any more."""
        if place in self._taken:
            self._idle.pop(place, None)
            self._idle[place] = None

    def leave(self, place: "Place") -> None:
        """The connection of this place is closed."""
        self._taken.discard(place)
        self._idle.pop(place, None)

    def _warn(self, why: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._silent_until_s:
            self._silent_until_s = now_s + LOG_EVERY_S
            counts = (len(self._taken), self.limit, len(self._idle), why)
            log.warning("%d connections are open, of %d at most, %d of them idle: %s", *counts)


class Place:
    """One connection's place. `abort` ends the connection at once."""

    def __init__(self, connections: Connections, abort: Callable[[], object], *, surplus: bool) -> None:
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
