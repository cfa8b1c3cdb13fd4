"""The heads of requests, bounded in bytes and in time, before any of the service's own code sees a request.

Knows uvicorn's protocol on httptools. What is refused here gets a problem document like everything else.
"""

import asyncio
from http import HTTPStatus
from random import getrandbits
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.problems import MEDIA_TYPE, problem

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
