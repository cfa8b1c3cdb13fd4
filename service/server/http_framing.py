"""Where one request ends and the next begins: uvicorn's protocol, with what its parser leaves to whoever calls it.

Two readings of one byte stream are request smuggling, so whatever a proxy could read in another way is refused.
"""

import asyncio
from collections.abc import Callable, Sized
from typing import Any, NoReturn

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import MalformedRequest
from service.telemetry.request_context import CONNECTION_ERROR

_OF_CONNECTIONS = frozenset({b"connection", b"proxy-connection"})
_VERSIONS = frozenset({"1.0", "1.1"})
#: What a client sends that speaks HTTP/2 without having asked (RFC 9113, 3.4), as the parser complains of it.
_HTTP_2 = "PRI/Upgrade"


class HttpFraming(HttpToolsProtocol):
    """uvicorn's protocol, which by itself drops the body of a request that offers an upgrade, and takes trailers for
    headers.

    An offered upgrade is passed over (RFC 9110, 7.8), trailers are dropped (RFC 9110, 6.5.1), CONNECT and HTTP/2 are
    refused. What cannot be read as HTTP/1.1 is answered with a problem, after all requests before it, by the app: it
    finds the error in the state of the request. Nothing that follows is read as a request.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.awaits_head = True  # between two requests, and in a head; else in a body
        self.ended = False  # no request is read any more
        self.fault: Exception | None = None  # why the body under way ends in the middle
        self._offers_upgrade = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline, self.reading_resumed)

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        try:
            while (end := self._end_of_offer(rest)) is not None:
                rest = rest[end:]
                self._read_head_again()
        except HttpParserError as error:
            self._fail(error)

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.keep_alive:
            self.ended = True
            raise ValueError("what follows a request that closes the connection is nobody's")
        self._offers_upgrade = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.awaits_head:
            super().on_header(name, value)
        elif name.lower() in _OF_CONNECTIONS:  # the parser heeds a trailer, too, and may read no further
            self.cycle.keep_alive = False

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self.stop(MalformedRequest("CONNECT opens tunnels, and there are none here"))
        if self.parser.should_upgrade():
            self._offers_upgrade = True  # the parser skips the body and stops here: `_read_head_again` goes on
            return
        self._check_head()
        self.awaits_head = False
        self.begin_exchange()

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self.awaits_head = True
        super().on_message_complete()

    def reading_resumed(self) -> None:
        """What the client sends is read again, after it was not for a while."""

    def begin_exchange(self) -> None:
        """The head is complete: its request is answered, once those before it are."""
        super().on_headers_complete()

    def refuse(self, error: Exception) -> None:
        """Answer with this what came instead of a request, or of the rest of one, and read no further."""
        if self.ended or self.transport.is_closing():
            return
        self.ended = True
        if not self.awaits_head:
            self.fault = error
            self.cycle.message_event.set()
            return
        if self.scope is None or self.cycle is not None and self.cycle.scope is self.scope:
            HttpToolsProtocol.on_message_begin(self)  # nothing of it can be read
        read = bool(self.url)
        self.url = b"/"
        self.scope["state"][CONNECTION_ERROR] = error
        self.begin_exchange()
        self.cycle.keep_alive = False
        if not read:
            self.scope["method"] = "-"

    def _end_of_offer(self, data: memoryview) -> int | None:
        """Parse the data; where a head that offers an upgrade ends in it, at which the parser has stopped."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            end: int = offer.args[0]
            return end
        return None

    def _read_head_again(self) -> None:
        """Parse the request of this head as if it offered nothing: by a new parser, which then reads its body."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        head += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = _parser(self)
        self.parser.feed_data(b"\r\n".join((*head, b"", b"")))

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            self.stop(MalformedRequest(f"HTTP/{version} is not spoken here; send HTTP/1.1"))
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (version == "1.0" or [each.lower() for each in codings] != [b"chunked"]):
            self.stop(MalformedRequest("the only Transfer-Encoding that is read here is chunked, in HTTP/1.1"))
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):  # RFC 9112, 3.2
            self.stop(MalformedRequest(f"{hosts} Host fields; send one"))

    def stop(self, error: Exception) -> NoReturn:
        """Refuse, from inside the parser: it makes its own error of this one, and is not asked any more."""
        self.refuse(error)
        raise ValueError

    def _fail(self, error: HttpParserError) -> None:
        if _HTTP_2 in str(error):
            self.refuse(MalformedRequest("HTTP/2 is not spoken here; send HTTP/1.1"))
        else:
            self.refuse(MalformedRequest(f"not a valid HTTP/1.1 request: {error}"))


class _Flow(FlowControl):
    """Reads no more while requests wait for the answers before theirs. uvicorn's own reads on with every answer, so
    that more and more requests are in memory."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized, resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._waiting = waiting
        self._resumed = resumed

    def resume_reading(self) -> None:
        if self.read_paused and not self._waiting:
            super().resume_reading()
            self._resumed()


def _parser(protocol: HttpFraming) -> HttpRequestParser:
    parser = HttpRequestParser(protocol)
    # As uvicorn does: what follows a request that closes the connection is passed over, and no error.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
