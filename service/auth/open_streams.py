"""A stream that is open while its key is revoked or its token expires ends within seconds, with a line that says so."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError

log = logging.getLogger(__name__)

#: Between two looks at whether the caller may still be here.
LOOK_S = 1.0
#: For the last line, to a client that may have stopped reading.
_LAST_LINE_S = 5.0
_LINES = b"application/x-ndjson"

Refuse = Callable[[Request, Exception], Awaitable[Response]]


class OpenStream:
    """One request of a caller whose right may end: pure ASGI, between the guard and the routes.

    What ends is a body that is still being received, and an answer of lines that is still being sent. A request that
    was received whole, and whose answer is one document, is answered.

    Args:
        ended: why the caller may not be here any more; None while it may.
        refuse: the answer to an error.
    """

    def __init__(self, app: ASGIApp, ended: Callable[[], ServiceError | None], refuse: Refuse) -> None:
        self._app, self._ended, self._refuse = app, ended, refuse
        self._receives = self._received = self._started = self._lines = self._sent = False
        self._sent_lines, self._line_is_open = 0, False
        self._fault: ServiceError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None, "a request is answered in a task"

        def look() -> None:
            if self._is_stream() and (fault := self._ended()):
                self._fault = fault
                task.cancel()
            else:
                self._timer = loop.call_later(LOOK_S, look)

        self._timer = loop.call_later(LOOK_S, look)
        try:
            await self._app(scope, self._receiving(receive), self._sending(send))
        except asyncio.CancelledError:
            if self._fault is None or task.uncancel() > 0:
                raise
        finally:
            self._timer.cancel()
        if self._fault is not None and not self._sent:
            await self._end(self._fault, scope, receive, send)

    def _is_stream(self) -> bool:
        return (self._receives and not self._received) or (self._started and self._lines and not self._sent)

    def _receiving(self, receive: Receive) -> Receive:
        async def received() -> Message:
            self._receives = True
            try:
                message = await receive()
            finally:
                self._receives = False
            self._received = self._received or not message.get("more_body", False)
            return message

        return received

    def _sending(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                self._started = True
                self._lines = any(name == b"content-type" and _LINES in value for name, value in message["headers"])
            elif message["type"] == "http.response.body":
                self._count(message.get("body", b""))
                self._sent = not message.get("more_body", False)

        return sent

    def _count(self, body: bytes) -> None:
        if self._lines and body:
            self._sent_lines += body.count(b"\n")
            self._line_is_open = not body.endswith(b"\n")

    async def _end(self, fault: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the problem; where lines were sent already, as the item after the last of them."""
        log.warning("a stream was ended after %d lines: %s", self._sent_lines, fault)
        response = await self._refuse(Request(scope, receive, send), fault)
        async with asyncio.timeout(_LAST_LINE_S):
            if not self._started:
                await response(scope, receive, send)
                return
            line = b'%s{"index":%d,"problem":%s}\n'
            body = line % (b"\n" if self._line_is_open else b"", self._sent_lines, bytes(response.body))
            await send({"type": "http.response.body", "body": body, "more_body": False})
