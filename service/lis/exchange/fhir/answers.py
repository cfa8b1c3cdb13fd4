"""Answers over HTTP, bounded in bytes and uncompressed."""

import ssl
from typing import Any

import httpx
import orjson

from service.lis.exchange.transport import NoAnswer


async def read_bounded(answer: httpx.Response, limit_bytes: int, sender: str) -> str:
    """The body of a streamed answer.

    Raises:
        NoAnswer: it is compressed or too large.
    """
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise NoAnswer(f"{sender} sent a compressed answer despite Accept-Encoding: identity")
    found = bytearray()
    async for piece in answer.aiter_raw():
        found += piece
        if len(found) > limit_bytes:
            raise NoAnswer(f"{sender}'s answer is larger than {limit_bytes} bytes")
    return found.decode("utf-8", "replace")


def fault_of(error: BaseException) -> str:
    """The kind of a connection error; of an invalid certificate, the reason."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"its certificate is invalid: {found.verify_message}"
        found = found.__cause__ or found.__context__
    return type(error).__name__


def document(reply: str) -> dict[str, Any]:
    """A JSON object; empty if the reply is none."""
    try:
        found = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
