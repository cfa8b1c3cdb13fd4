"""Clients that do not read their answers, bounded in time, so that none holds memory or a connection for ever.

Knows uvicorn's protocol, through service.server.request_heads, and its transport. Knows no routes: an answer is bytes
that wait.
"""

import asyncio
import logging
from typing import Any

from service.server.request_heads import BoundedHeads

#: An answer that is read more slowly than this on the whole, its first `read_timeout_s` apart, is given up.
MIN_DOWNLOAD_BYTES_PER_S = 16 * 1024

log = logging.getLogger(__name__)


class BoundedAnswers(BoundedHeads):
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
