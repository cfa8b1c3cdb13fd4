"""Messages between the supervisor and a worker: JSON, one a line, over a socket pair."""

import asyncio
import json
import socket
from typing import Any, Self

Message = dict[str, Any]


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def of(cls, end: socket.socket) -> Self:
        """A channel over one end of a socket pair."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, kind: str, **content: Any) -> None:
        """Send a message. Nothing happens if the other process has ended."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"kind": kind, **content}).encode() + b"\n")

    async def receive(self) -> Message | None:
        """The next message; None once the other process has ended."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        found: Message | None = json.loads(line) if line.endswith(b"\n") else None
        return found

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
