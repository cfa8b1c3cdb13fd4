"""The heads of requests, bounded in bytes and in time, before any of the service's own code sees a request.

Knows uvicorn's protocol on httptools, through service.server.http_framing.
"""

import asyncio
from typing import Any

from starlette.exceptions import HTTPException

from service.server.http_framing import HttpFraming

#: Browsers send a few kilobytes; a proxy's identity headers may make it some ten.
MAX_HEAD_BYTES = 64 * 1024


class BoundedHeads(HttpFraming):
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
