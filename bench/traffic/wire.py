"""HTTP/1.1 for a load generator: prepared requests, and a connection that sends and times them."""

import asyncio
import base64
import json
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httptools

BOUNDARY = b"----bench-of-marrowlens-7f3a"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the time of its last byte (time.perf_counter)."""

    status: int
    body: bytes
    retry_after: str | None
    at: float


def form(path: str, field: str, pictures: Sequence[bytes]) -> bytes:
    """A POST of JPEGs as files of one multipart form, all under one field name."""
    parts = []
    for number, picture in enumerate(pictures):
        parts.append(
            b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="%d.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
            % (BOUNDARY, field.encode(), number)
        )
        parts.append(picture + b"\r\n")
    body = b"".join(parts) + b"--%s--\r\n" % BOUNDARY
    return post(path, body, b"Content-Type: multipart/form-data; boundary=%s" % BOUNDARY)


def infer(path: str, tensor: str, pictures: Sequence[bytes]) -> bytes:
    """A POST of JPEGs as one BYTES tensor (N, 1), for all outputs as JSON: Open Inference Protocol v2 with Triton's
    binary extension."""
    data = b"".join(struct.pack("<I", len(picture)) + picture for picture in pictures)
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": tensor,
                    "shape": [len(pictures), 1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
        }
    ).encode()
    length = b"Inference-Header-Content-Length: %d" % len(header)
    return post(path, header + data, b"Content-Type: application/octet-stream", length)


def infer_json(path: str, tensor: str, pictures: Sequence[bytes]) -> bytes:
    """A POST of JPEGs as base64 in one BYTES tensor (N, 1): Open Inference Protocol v2 as JSON."""
    body = {
        "inputs": [
            {
                "name": tensor,
                "shape": [len(pictures), 1],
                "datatype": "BYTES",
                "data": [base64.b64encode(picture).decode() for picture in pictures],
            }
        ]
    }
    return post(path, json.dumps(body).encode(), b"Content-Type: application/json")


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    """A whole POST request."""
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"Host: 127.0.0.1", b"Accept: */*", *headers]
    return b"\r\n".join(lines) + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time on it."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._fresh()

    def _fresh(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._retry_after: str | None = None

    def send(self, request: bytes) -> "asyncio.Future[Reply]":
        """Write a request; the future is its reply, or a ConnectionError."""
        assert self._transport is not None and self._waiting is None, "one request at a time"
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """Drop the connection, answered or not."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        # uvloop's own kind of transport is none of asyncio's classes.
        self._transport, self.open = cast(asyncio.Transport, transport), True

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self.open = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(ConnectionError(f"closed before the answer was there: {exc}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools."""
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by httptools."""
        reply = Reply(self._parser.get_status_code(), b"".join(self._body), self._retry_after, time.perf_counter())
        if not self._parser.should_keep_alive():
            self.open = False
            self.close()
        self._fresh()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)


async def connect(address: Address) -> Connection:
    """Open a connection.

    Raises:
        OSError: no server listens.
    """
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address.host, address.port)
    return connection
