"""Strict HTTP/1.1 framing on top of uvicorn's httptools protocol, against request smuggling.

Messages that a proxy could frame in a different way are refused.
"""

import asyncio
from collections.abc import Callable, Sized
from typing import Any, NoReturn

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import MalformedRequest
from service.telemetry.request_context import CONNECTION_ERROR

_CONNECTION_FIELDS = frozenset({b"connection", b"proxy-connection"})
_VERSIONS = frozenset({"1.0", "1.1"})
#: Part of the parser's error for the HTTP/2 connection preface (RFC 9113, 3.4).
_HTTP_2 = "PRI/Upgrade"


class HttpFraming(HttpToolsProtocol):
    """uvicorn's protocol with strict framing.

    Upgrade offers are ignored (RFC 9110, 7.8), trailers are dropped (RFC 9110, 6.5.1), CONNECT and HTTP/2 are
    refused. uvicorn alone drops the body of a request with an upgrade offer and takes trailers for headers.

    Malformed input is answered with a problem, after the requests before it: the app finds the error in the ASGI
    state. Nothing after it is parsed as a request.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.awaits_head = True  # between requests or inside a head, not inside a body
        self.ended = False  # no further request is read
        self.fault: Exception | None = None  # error that ends the body in progress
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
            while (end := self._feed(rest)) is not None:
                rest = rest[end:]
                self._parse_head_again()
        except HttpParserError as error:
            self._fail(error)

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.keep_alive:
            self.ended = True
            raise ValueError("data after a request that closes the connection")
        self._offers_upgrade = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.awaits_head:
            super().on_header(name, value)
        elif name.lower() in _CONNECTION_FIELDS:  # the parser obeys this trailer and may stop reading
            self.cycle.keep_alive = False

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self.stop(MalformedRequest("CONNECT is not supported: this server is not a proxy"))
        if self.parser.should_upgrade():
            self._offers_upgrade = True  # the parser skips the body and stops: see `_parse_head_again`
            return
        self._check_head()
        self.awaits_head = False
        self.begin_request()

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self.awaits_head = True
        super().on_message_complete()

    def reading_resumed(self) -> None:
        """Called when reading from the client resumes after a pause."""

    def begin_request(self) -> None:
        """The head is complete: start the request, or queue it behind earlier ones."""
        super().on_headers_complete()

    def refuse(self, error: Exception) -> None:
        """Answer the malformed request or the rest of its body with this error, and stop reading."""
        if self.ended or self.transport.is_closing():
            return
        self.ended = True
        if not self.awaits_head:
            self.fault = error
            self.cycle.message_event.set()
            return
        if self.scope is None or self.cycle is not None and self.cycle.scope is self.scope:
            HttpToolsProtocol.on_message_begin(self)  # nothing of it was parsed
        parsed = bool(self.url)
        self.url = b"/"
        self.scope["state"][CONNECTION_ERROR] = error
        self.begin_request()
        self.cycle.keep_alive = False
        if not parsed:
            self.scope["method"] = "-"

    def _feed(self, data: memoryview) -> int | None:
        """Parse data. Returns the offset at which the parser stopped, after a head with an upgrade offer; else None."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            end: int = offer.args[0]
            return end
        return None

    def _parse_head_again(self) -> None:
        """Parse the head again without its Upgrade field, by a new parser that also reads the body."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        head += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = _parser(self)
        self.parser.feed_data(b"\r\n".join((*head, b"", b"")))

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            self.stop(MalformedRequest(f"HTTP/{version} is not supported; send HTTP/1.1"))
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (version == "1.0" or [each.lower() for each in codings] != [b"chunked"]):
            self.stop(MalformedRequest("unsupported Transfer-Encoding; send chunked alone, in HTTP/1.1"))
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):  # RFC 9112, 3.2
            self.stop(MalformedRequest(f"{hosts} Host headers; send exactly one"))

    def stop(self, error: Exception) -> NoReturn:
        """Refuse from inside a parser callback. The parser turns the ValueError into its own error and stops."""
        self.refuse(error)
        raise ValueError

    def _fail(self, error: HttpParserError) -> None:
        if _HTTP_2 in str(error):
            self.refuse(MalformedRequest("HTTP/2 is not supported; send HTTP/1.1"))
        else:
            self.refuse(MalformedRequest(f"invalid HTTP/1.1 request: {error}"))


class _Flow(FlowControl):
    """Pauses reading while pipelined requests wait. uvicorn's own flow control resumes after each answer, and queued
    requests would fill the memory."""

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
    # As uvicorn does: data after a request that closes the connection is ignored.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
