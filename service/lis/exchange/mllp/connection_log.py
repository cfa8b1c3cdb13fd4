"""What is said of connections with orders: counted one by one, logged at most once a minute of each kind."""

import logging
import time
from collections import Counter
from typing import Final

from service.lis.exchange.orders import ConnectionEnd, ConnectionWatch

log = logging.getLogger(__name__)

#: Anybody who reaches the port can end connections in any of these ways, as often as it likes.
EVERY_S: Final = 60.0
#: These are how connections end; the others are worth a look.
_USUAL: Final = frozenset({"closed", "stopped"})


class ConnectionLog:
    """Counts connections and says how they ended, for one listener."""

    def __init__(self, watch: ConnectionWatch) -> None:
        self._watch = watch
        self._open = 0
        self._next_at_s: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def opened(self) -> None:
        """A connection was taken."""
        self._open += 1
        self._watch.open(self._open)

    def ended(self, how: ConnectionEnd, what: str) -> None:
        """A connection has ended, or was refused; `what` is the log's line."""
        if how != "refused":
            self._open -= 1
        self._watch.open(self._open)
        self._watch.ended(how)
        if how not in _USUAL:
            self.trouble(what, how)

    def trouble(self, what: str, kind: str = "error") -> None:
        """Log a line, unless one of its kind was logged within the last minute."""
        now_s = time.monotonic()
        if now_s < self._next_at_s.get(kind, 0.0):
            self._left_out[kind] += 1
            return
        self._next_at_s[kind] = now_s + EVERY_S
        others = self._left_out.pop(kind, 0)
        log.warning("orders: %s%s", what, f" ({others} more like it were not logged)" if others else "")
