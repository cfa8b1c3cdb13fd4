"""Requests end when the client disconnects: its work is cancelled, its stream is closed, its memory is released."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import ExitStack, aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.openapi import NDJSON
from service.api.uploads.body import TransferTimer
from service.api.uploads.memory_budget import TransferTimeouts
from service.concurrency.eager import Started
from service.errors import ClientGone

Result = TypeVar("Result")

#: Answers with data of patients are stored nowhere on the way.
NO_STORE = {"Cache-Control": "no-store"}
_PIECE_BYTES = 64 * 1024


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client disconnects.

    Call it after the body was read: it reads all further messages of the connection.

    Raises:
        ClientGone: the client disconnected first.
    """
    task = asyncio.current_task()
    assert task is not None, "a request is answered in a task"
    watcher = _DisconnectWatcher(request, task)
    try:
        return await work
    except asyncio.CancelledError:
        if watcher.disconnected and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watcher.close()


class _DisconnectWatcher:
    """Cancels a task when the client disconnects. It is a task itself only once the connection has a message."""

    def __init__(self, request: Request, task: "asyncio.Task[Any]") -> None:
        self.disconnected = False
        self._request, self._task = request, task
        self._receiving = Started(request.receive())
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        if (awaited := self._receiving.future) is not None:
            awaited.add_done_callback(self._watch)
        else:
            self._watch()

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        else:
            self._receiving.close()

    def _watch(self, _: object = None) -> None:
        if not self._closed:
            self._watching = asyncio.create_task(self._cancel_on_disconnect())

    async def _cancel_on_disconnect(self) -> None:
        message = await self._receiving
        while message["type"] != "http.disconnect":
            message = await self._request.receive()
        self.disconnected = True
        self._task.cancel()


class BufferedResponse(Response):
    """A body that is complete in reserved memory and sent in small pieces, so the connection buffers little of it.

    Args:
        chunks: together the body.
        resources: closed when the body was sent or the client is gone.
    """

    def __init__(
        self,
        chunks: Sequence[bytes | memoryview],
        resources: ExitStack,
        *,
        media_type: str,
        timeouts: TransferTimeouts,
        headers: dict[str, str],
    ) -> None:
        self._chunks, self._resources, self._timeouts = chunks, resources, timeouts
        length = {"Content-Length": str(sum(map(len, chunks)))}
        super().__init__(None, media_type=media_type, headers=headers | length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (signature is ASGI's)
        """Send the response.

        Raises:
            ClientGone: the client reads too slowly, or not at all.
        """
        with self._resources:
            timer = TransferTimer(self._timeouts)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for piece in _pieces(self._chunks):
                await timer.send(send, piece)
            await send({"type": "http.response.body", "body": b""})


def _pieces(chunks: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    gathered = bytearray()
    for chunk in chunks:
        for at in range(0, len(chunk), _PIECE_BYTES):
            gathered += chunk[at : at + _PIECE_BYTES]
            if len(gathered) >= _PIECE_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


class NdjsonResponse(StreamingResponse):
    """A stream of lines. When the client disconnects, its source and its resources are closed at once."""

    media_type = NDJSON

    def __init__(self, lines: AsyncGenerator[bytes, None], resources: ExitStack) -> None:
        super().__init__(lines, headers=NO_STORE)
        self._lines = lines
        self._resources = resources

    async def stream_response(self, send: Send) -> None:
        with self._resources:
            async with aclosing(self._lines):
                await super().stream_response(send)


class DuplexNdjsonResponse(NdjsonResponse):
    """Sends lines while the body is still being read. Nothing else may call `receive` during that time."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (signature is ASGI's)
        await self.stream_response(send)
