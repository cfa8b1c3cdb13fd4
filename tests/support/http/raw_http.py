"""HTTP byte for byte, for what no client library would send: requests in pieces, and all that comes back."""

import json
import re
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import httpx
from serving import Served

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True)
class Answered:
    """One answer: its status, the id that it carries, its headers and body as they came."""

    status: int
    request_id: str
    text: str

    def document(self) -> Any:
        """The JSON of its body."""
        return json.loads(self.text.partition("\r\n\r\n")[2])


def connected(service: Served, context: ssl.SSLContext | None = None) -> socket.socket:
    """A connection to the service."""
    url = httpx.URL(service.url)
    plain = socket.create_connection((url.host, url.port or 80), timeout=60)
    return plain if context is None else context.wrap_socket(plain, server_hostname=url.host)


def head(target: str, *fields: str, method: str = "POST", request_id: str = "first") -> bytes:
    """A request's head."""
    lines = (f"{method} {target} HTTP/1.1", "Host: localhost", f"X-Request-ID: {request_id}", *fields)
    return "\r\n".join((*lines, "", "")).encode()


def chunked(*pieces: bytes, trailers: str = "") -> bytes:
    """A body in chunks, one a piece."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + f"0\r\n{trailers}\r\n".encode()


def all_that_comes(connection: socket.socket) -> bytes:
    """What the service sends until it closes the connection, which may be a reset."""
    heard = b""
    try:
        while data := connection.recv(65536):
            heard += data
    except ConnectionResetError:
        pass
    return heard


def answers(heard: bytes) -> list[Answered]:
    """The answers in what came, in their order."""
    starts = [*_STATUS.finditer(heard)]
    ends = [*(each.start() for each in starts), len(heard)][1:]
    found = []
    for start, end in zip(starts, ends, strict=True):
        text = heard[start.end() : end].decode("latin-1")
        named = re.search(r"^x-request-id: (\S+)", text, re.MULTILINE | re.IGNORECASE)
        found.append(Answered(int(start[1]), named[1] if named else "", text))
    return found


def raw_answer(service: Served, *pieces: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """All bytes received until the service closes the connection, which may happen before all pieces are sent."""
    with connected(service, context) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except ConnectionError:
                break
        return all_that_comes(connection)


def said(service: Served, *pieces: bytes, context: ssl.SSLContext | None = None) -> list[Answered]:
    """The answers in `raw_answer`."""
    return answers(raw_answer(service, *pieces, context=context))


def said_after_continue(service: Served, first: bytes, *rest: bytes) -> list[Answered]:
    """The same for a head with `Expect: 100-continue`: what follows is sent once the service reads the body."""
    with connected(service) as connection:
        connection.sendall(first)
        heard = connection.recv(65536)
        assert heard == CONTINUE, heard
        for piece in rest:
            connection.sendall(piece)
        return answers(all_that_comes(connection))
