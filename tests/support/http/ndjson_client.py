"""An NDJSON request written by hand, line by line."""

import asyncio
import json
from base64 import b64encode
from typing import Any


def line(data: bytes, name: str | None = None) -> bytes:
    sent = {"image": b64encode(data).decode()} | ({} if name is None else {"name": name})
    return json.dumps(sent).encode() + b"\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def next_document(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next line of the body that is a document; chunk sizes and headers are passed over."""
    while not (text := await reader.readline()).startswith(b'{"'):
        assert text, "the connection has ended"
    found: dict[str, Any] = json.loads(text)
    return found
