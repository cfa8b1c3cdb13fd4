"""HTTP/1.1 on bare sockets: send any bytes, well-formed or not, and read the answer if there is one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httptools

Address = tuple[str, int]
Headers = Sequence[tuple[str, str]]
_CHUNK_BYTES = 65536


@dataclass(slots=True)
class Reply:
    """One answer; header names in lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Cut(Exception):
    """The connection ended before the answer: received bytes, and whether any arrived."""

    def __init__(self, begun: bool) -> None:
        super().__init__("cut off in the middle of an answer" if begun else "closed without an answer")
        self.begun = begun


class Connection:
    """One connection: `send` bytes, then read an `answer`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError when the other side closed the connection."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, *, bodiless: bool = False) -> Reply:
        """The next final answer; `bodiless` for an answer to HEAD.

        Raises:
            Cut: the connection ended first.
            httptools.HttpParserError: what came is not HTTP.
        """
        reading = _Reading(bodiless)
        while not reading.reply.complete:
            try:
                data = await self._reader.read(_CHUNK_BYTES)
            except ConnectionError as error:
                raise Cut(reading.begun) from error
            if not data:
                raise Cut(reading.begun)
            reading.feed(data)
        return reading.reply

    async def some(self) -> bytes:
        """The next bytes; none if the other side has closed."""
        return await self._reader.read(100)

    def close(self) -> None:
        """Close at once, without waiting."""
        self._writer.close()

    def reset(self) -> None:
        """Reset the connection (RST), as the system does for a killed client."""
        self._writer.transport.abort()


async def connect(address: Address) -> Connection:
    """Open a connection. Raises OSError if it is refused."""
    return Connection(*await asyncio.open_connection(*address))


class _Reading:
    """Callbacks of httptools while an answer is parsed; 1xx answers are skipped."""

    def __init__(self, bodiless: bool) -> None:
        self.reply = Reply()
        self.begun = False
        self._bodiless = bodiless
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self.begun = True
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.reply = Reply()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.reply.status = self._parser.get_status_code()
        self.reply.complete = self._bodiless and self.reply.status >= 200

    def on_body(self, body: bytes) -> None:
        self.reply.body += body

    def on_message_complete(self) -> None:
        self.reply.complete = self.reply.status >= 200


def head(method: str, target: str, headers: Headers = ()) -> bytes:
    """A request without body. Nothing is escaped or checked."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def post(target: str, content_type: str, body: bytes, headers: Headers = ()) -> bytes:
    """A whole POST with its Content-Length."""
    own = (("Content-Type", content_type), ("Content-Length", str(len(body))))
    return head("POST", target, (*own, *headers)) + body


async def exchange(address: Address, request: bytes) -> Reply:
    """Send one request on a new connection and return the answer.

    Raises:
        Cut: no whole answer came.
        OSError: no server listens there.
    """
    async with await connect(address) as connection:
        try:
            await connection.send(request)
        except ConnectionError:
            pass  # closed while we were sending: an answer may lie there all the same
        return await connection.answer()
