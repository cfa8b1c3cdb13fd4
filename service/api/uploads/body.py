"""Reads request bodies into memory: one picture, a multipart form, an archive, JSON, or raw bytes.

Bytes are counted as they arrive, so a missing or false Content-Length changes nothing. Nothing is written to disk.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Send

from service.api.state import AppState
from service.api.uploads.archives import ArchiveLimits, ArchiveMemory, Upload, safe_text, tar_members, zip_members
from service.api.uploads.form import FormReader
from service.api.uploads.json_text import INLINE_PARSE_BYTES, read_json
from service.api.uploads.memory_budget import MemoryReservation, TransferTimeouts, UploadLimits
from service.api.uploads.multipart import PictureForm
from service.concurrency.eager import Started
from service.concurrency.thread_pools import BODIES
from service.errors import BodyTooLarge, ClientGone, MalformedBody, UnsupportedBody, UploadTooSlow

Result = TypeVar("Result")

#: Minimum rate of a body that is sent and of an answer that is read, averaged over `TransferTimeouts.max_pause_s`.
MIN_BYTES_PER_S = 16 * 1024
#: Boundaries, headers and small fields around the one picture of a form.
FORM_OVERHEAD_BYTES = 64 * 1024
#: An archive may unpack to this many times the largest body: pictures hardly compress, archive bombs do.
MAX_EXPANSION = 4
#: JSON bodies: 10,000 readings with a sentence each, of four members each.
MAX_JSON_BYTES, MAX_JSON_MEMBERS = 4 * 1024 * 1024, 50_000

_ARCHIVES: dict[str, Callable[[BytesIO, ArchiveLimits], Iterator[Upload]]] = {
    "application/zip": zip_members,
    "application/x-zip-compressed": zip_members,
    "application/x-tar": tar_members,
    "application/tar": tar_members,
}


@dataclass(slots=True)
class TransferTimer:
    """Enforces the timeouts and the minimum rate of one transfer. Only time spent waiting for the client counts.

    After a fast start, a transfer may pause for at most `max_pause_s`. Otherwise a client could send most of a body at
    once, then single bytes, and hold memory for hours.
    """

    timeouts: TransferTimeouts
    _left_s: float = field(init=False)
    _waited_s: float = 0.0

    def __post_init__(self) -> None:
        self._left_s = self.timeouts.max_pause_s

    def restart(self) -> None:
        """Restart the timeouts for the next line of a stream."""
        self._left_s, self._waited_s = self.timeouts.max_pause_s, 0.0

    async def receive(self, request: Request) -> Message:
        """The next message of the body.

        Raises:
            UploadTooSlow: a timeout passed.
            ClientGone: the client disconnected.
        """
        try:
            message, took_s = await self._in_time(request.receive())
        except TimeoutError as error:
            raise UploadTooSlow(self.timeouts.max_pause_s, MIN_BYTES_PER_S) from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._count(len(message.get("body", b"")), took_s)
        return message

    async def send(self, send: Send, piece: bytes) -> None:
        """Send the next piece of an answer.

        Raises:
            ClientGone: the client reads too slowly, or not at all.
        """
        message = {"type": "http.response.body", "body": piece, "more_body": True}
        try:
            _, took_s = await self._in_time(send(message))
        except TimeoutError as error:
            raise ClientGone from error
        self._count(len(piece), took_s)

    async def _in_time(self, transfer: Awaitable[Result]) -> tuple[Result, float]:
        """The result of a transfer and the seconds it waited. Most find the bytes there, and need no timer.

        Raises:
            TimeoutError: it waits too long.
        """
        started = Started(transfer)
        if not started.waits:
            return started.result, 0.0
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with asyncio.timeout(self._timeout_s):
            result = await started
        return result, loop.time() - began_s

    @property
    def _timeout_s(self) -> float:
        return min(self._left_s, self.timeouts.total_s - self._waited_s)

    def _count(self, count: int, took_s: float) -> None:
        self._waited_s += took_s
        self._left_s = min(self._left_s - took_s + count / MIN_BYTES_PER_S, self.timeouts.max_pause_s)


@dataclass(slots=True)
class BodyPieces:
    """The pieces of a body, as they arrive. `more` tells whether there is a next one."""

    request: Request
    timer: TransferTimer
    more: bool = True
    _started: bool = False

    async def next(self) -> bytes:
        """The next piece.

        Raises:
            UploadTooSlow: a timeout passed.
            ClientGone: the client disconnected.
        """
        if self._started:
            await asyncio.sleep(0)  # without it, pieces that are buffered already would block all other requests
        message = await self.timer.receive(self.request)
        self._started, self.more = True, message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads one body into memory, up to `limit_bytes`, and reserves the memory for it."""

    request: Request
    memory: MemoryReservation
    limit_bytes: int
    timeouts: TransferTimeouts

    async def write_to(self, write: Callable[[bytes], object]) -> None:
        """Pass the body to `write`, piece by piece.

        Raises:
            BodyTooLarge, UploadTooSlow, UploadMemoryExhausted, ClientGone, and what `write` raises.
        """
        declared = header(self.request, b"content-length")
        if declared.isdecimal() and int(declared) > self.limit_bytes:
            raise BodyTooLarge(self.limit_bytes)
        received, pieces = 0, BodyPieces(self.request, TransferTimer(self.timeouts))
        while pieces.more:
            piece = await pieces.next()
            received += len(piece)
            if received > self.limit_bytes:
                raise BodyTooLarge(self.limit_bytes)
            self.memory.add(len(piece))
            write(piece)

    async def read(self) -> BytesIO:
        """The whole body, from its start."""
        file = BytesIO()
        await self.write_to(file.write)
        file.seek(0)
        return file


async def one_picture(request: Request, memory: MemoryReservation, limits: UploadLimits) -> bytes:
    """The picture file of `POST /classify`: the form field `image`, or the body itself (`Content-Type: image/*`).

    Raises:
        BodyTooLarge, PictureTooLarge, UnsupportedBody, MalformedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    found = content_type(request)
    if found == "multipart/form-data":
        reader = BodyReader(request, memory, limits.max_picture_bytes + FORM_OVERHEAD_BYTES, limits.timeouts)
        uploads = await _form(reader, PictureForm("image", 16, limits.max_picture_bytes), one_file=True)
        if len(uploads) > 1:
            raise MalformedBody(f"{len(uploads)} form fields image; send several pictures to /classify/batch")
        if not isinstance(uploads[0].content, bytes):
            raise uploads[0].content
        return uploads[0].content
    if found.startswith("image/"):
        return (await BodyReader(request, memory, limits.max_picture_bytes, limits.timeouts).read()).getvalue()
    raise UnsupportedBody(found, "the form field image (multipart/form-data), or the picture itself (image/*)")


async def many_pictures(request: Request, memory: MemoryReservation, limits: UploadLimits) -> AsyncIterator[Upload]:
    """The pictures of `POST /classify/batch`, after the whole body has arrived: form fields `images`, a ZIP or a tar.

    Raises:
        BodyTooLarge, TooManyPictures, UnsupportedBody, MalformedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    found = content_type(request)
    reader = BodyReader(request, memory, limits.max_body_bytes, limits.timeouts)
    if found == "multipart/form-data":
        form = PictureForm("images", limits.max_pictures, limits.max_picture_bytes)
        return _form_pictures(await _form(reader, form), memory)
    members = _ARCHIVES.get(found)
    if members is None:
        expected = (
            f"form fields images (multipart/form-data), application/x-ndjson, or one of {', '.join(sorted(_ARCHIVES))}"
        )
        raise UnsupportedBody(found, expected)
    archive_limits = ArchiveLimits(limits.max_pictures, limits.max_picture_bytes, MAX_EXPANSION * limits.max_body_bytes)
    uploads = await BODIES.run(members, await reader.read(), archive_limits)
    archive_memory = ArchiveMemory(memory, limits.max_picture_bytes)
    first = await BODIES.run(next, uploads, None)
    if first is None:
        raise MalformedBody("the archive holds no files")
    return _archive_pictures(first, uploads, archive_memory)


async def raw_body(request: Request, memory: MemoryReservation, limits: UploadLimits) -> memoryview:
    """The body of `POST /v2/models/…/infer`, of any Content-Type: its clients often send none.

    Raises:
        BodyTooLarge, UnsupportedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    content_type(request)
    return (await BodyReader(request, memory, limits.max_body_bytes, limits.timeouts).read()).getbuffer()


def content_type(request: Request) -> str:
    """The media type of the body, lower-case and without parameters.

    Raises:
        UnsupportedBody: the body is compressed.
    """
    encoding = header(request, b"content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedBody(f"Content-Encoding {safe_text(encoding)}", "the body uncompressed")
    return safe_text(header(request, b"content-type").partition(";")[0].strip().lower())


def header(request: Request, name: bytes, default: str = "") -> str:
    """The first header of this name, which is in lower case. Starlette's look-up takes three times as long."""
    for each, value in request.scope["headers"]:
        if each == name:
            return str(value, "latin-1")
    return default


class JsonRoute(APIRoute):
    """A route that limits its JSON body while it is read and parsed. FastAPI alone has no such limits.

    Problems: 413 for a body that is too large, 408 for one that is too slow, 429 without upload memory, 422 for
    ambiguous JSON (`read_json`).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler; the body is read and parsed before it runs."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def read_first(request: Request) -> Response:
            state: AppState = request.app.state.app_state
            with state.reserve_memory(request) as memory:
                reader = BodyReader(request, memory, MAX_JSON_BYTES, state.limits.timeouts)
                body = (await reader.read()).getvalue()
                request._body = body  # the attributes in which Starlette caches the body and its JSON
                if body and _is_json(content_type(request)):
                    request._json = await _parse_json(body)
                return await handle(request)

        return read_first


async def _parse_json(body: bytes) -> Any:
    if len(body) < INLINE_PARSE_BYTES:
        return _read_json(body)
    return await BODIES.run(_read_json, body)


def _read_json(body: bytes) -> Any:
    try:
        return read_json(body, max_members=MAX_JSON_MEMBERS)
    except MalformedBody as error:
        cause = error.__cause__
        if isinstance(cause, json.JSONDecodeError):  # the same problem type as FastAPI's own JSON errors
            fault = {"loc": ("body", cause.pos), "type": "json_invalid", "msg": cause.msg}
            raise RequestValidationError([fault]) from error
        raise


def _is_json(media_type: str) -> bool:
    """Whether FastAPI parses a body of this type as JSON."""
    kind, _, subtype = media_type.partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


async def _form(reader: BodyReader, form: PictureForm, *, one_file: bool = False) -> list[Upload]:
    read = FormReader(header(reader.request, b"content-type"), form, one_file=one_file)
    await reader.write_to(read.write)
    return await read.pictures()


async def _form_pictures(uploads: list[Upload], memory: MemoryReservation) -> AsyncIterator[Upload]:
    uploads.reverse()
    while uploads:  # popped, not iterated: a picture's bytes are freed once it is answered
        yield _with_release(uploads.pop(), memory)


def _with_release(upload: Upload, memory: MemoryReservation) -> Upload:
    return replace(upload, release=partial(memory.add, -upload.size_bytes))


async def _archive_pictures(first: Upload, rest: Iterator[Upload], memory: ArchiveMemory) -> AsyncIterator[Upload]:
    upload: Upload | None = first
    while upload is not None:
        yield memory.hold(upload)
        del upload
        await memory.wait_for_room()
        upload = await BODIES.run(next, rest, None)
