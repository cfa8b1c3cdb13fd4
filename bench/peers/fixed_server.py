"""Server that answers every request with the same bytes, to find the load generator's maximum rate.

It reads each request's length and ignores its content. The answer is as long as one of marrowlens.
"""

import asyncio
import re
from typing import cast

import uvloop

from bench.peers.names import HOST, PORT

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_BODY = b'{"filler": "' + b"0" * 5000 + b'"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY


class Fixed(asyncio.Protocol):
    """Counts the bytes of one request at a time."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none of asyncio's classes

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if not self._left:
            self._head += data
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            length = _LENGTH.search(head)
            self._left = (int(length[1]) if length else 0) - len(body)
            self._head = b""
        else:
            self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            self._transport.write(ANSWER)


async def serve() -> None:
    """Serve until the process is terminated."""
    server = await asyncio.get_running_loop().create_server(Fixed, HOST, PORT)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
