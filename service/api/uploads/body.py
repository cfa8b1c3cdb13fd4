"""Request bodies to pictures: one raw picture, a multipart form, a ZIP or a tar, held in memory and bounded on the way.

Knows HTTP bodies and their limits; the count of bytes is taken on the stream, so a missing or false Content-Length
changes nothing. Does not decode pictures. Nothing is written to disk.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.api.uploads.archive_memory import ArchiveMemory
from service.api.uploads.archives import Bounds, Upload, printable, tar_members, zip_members
from service.api.uploads.memory_budget import Lease
from service.api.uploads.multipart import Form
from service.api.uploads.multipart_errors import FormEnds, why_unfinished, why_unreadable
from service.api.uploads.transfer_pace import Pace, Patience
from service.concurrency.thread_pools import BODIES
from service.errors import BodyTooLarge, MalformedBody, UnsupportedBody

#: Boundaries, headers and small fields around the one picture of a form.
FORM_OVERHEAD_BYTES = 64 * 1024
#: An archive may grow to this many times the largest body: pictures hardly shrink, bombs do.
MAX_EXPANSION = 4

_ARCHIVES: dict[str, Callable[[BytesIO, Bounds], Iterator[Upload]]] = {
    "application/zip": zip_members,
    "application/x-zip-compressed": zip_members,
    "application/x-tar": tar_members,
    "application/tar": tar_members,
}


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How much of a request's body is read, and how long it is waited for."""

    max_body_bytes: int
    max_picture_bytes: int
    max_pictures: int
    patience: Patience


@dataclass(frozen=True, slots=True)
class Intake:
    """One request's body on its way in: where from, how much of it, and how long to wait for it."""

    request: Request
    lease: Lease
    limit_bytes: int
    patience: Patience

    async def into(self, write: Callable[[bytes], object]) -> None:
        """Hand over the body piece by piece, as it comes.

        Raises:
            BodyTooLarge, UploadTooSlow, UploadMemoryExhausted, ClientGone, and what `write` raises.
        """
        declared = self.request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.limit_bytes:
            raise BodyTooLarge(self.limit_bytes)
        pace, received, more = Pace(self.patience), 0, True
        while more:
            message = await pace.message(self.request)
            received += len(piece := message.get("body", b""))
            if received > self.limit_bytes:
                raise BodyTooLarge(self.limit_bytes)
            self.lease.take(len(piece))
            write(piece)
            more = message.get("more_body", False)
            if more:
                await asyncio.sleep(0)  # pieces that are here already would be read in one go, and others would wait

    async def whole(self) -> BytesIO:
        """The body in one piece."""
        file = BytesIO()
        await self.into(file.write)
        file.seek(0)
        return file


async def one_picture(request: Request, lease: Lease, limits: UploadLimits) -> bytes:
    """The picture of `POST /classify`: the form field `image`, or the body itself under `Content-Type: image/*`.

    Raises:
        BodyTooLarge, PictureTooLarge, UnsupportedBody, MalformedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    found = content_type(request)
    if found == "multipart/form-data":
        intake = Intake(request, lease, limits.max_picture_bytes + FORM_OVERHEAD_BYTES, limits.patience)
        uploads = await _form(intake, Form("image", max_pictures=16, max_picture_bytes=limits.max_picture_bytes))
        if len(uploads) > 1:
            raise MalformedBody("the form field image came more than once; several pictures go to /classify/batch")
        if not isinstance(uploads[0].content, bytes):
            raise uploads[0].content
        return uploads[0].content
    if found.startswith("image/"):
        return (await Intake(request, lease, limits.max_picture_bytes, limits.patience).whole()).getvalue()
    raise UnsupportedBody(found, "the form field image (multipart/form-data), or the picture itself as image/*")


async def many_pictures(request: Request, lease: Lease, limits: UploadLimits) -> AsyncIterator[Upload]:
    """The pictures of `POST /classify/batch`, once the whole body is there: form fields `images`, a ZIP or a tar.

    Raises:
        BodyTooLarge, TooManyPictures, UnsupportedBody, MalformedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    found = content_type(request)
    intake = Intake(request, lease, limits.max_body_bytes, limits.patience)
    if found == "multipart/form-data":
        return _given(await _form(intake, Form("images", limits.max_pictures, limits.max_picture_bytes)), lease)
    members = _ARCHIVES.get(found)
    if members is None:
        expected = (
            f"form fields images (multipart/form-data), application/x-ndjson, or one of {', '.join(sorted(_ARCHIVES))}"
        )
        raise UnsupportedBody(found, expected)
    bounds = Bounds(limits.max_pictures, limits.max_picture_bytes, MAX_EXPANSION * limits.max_body_bytes)
    uploads = await BODIES.run(members, await intake.whole(), bounds)
    memory = ArchiveMemory(lease, limits.max_picture_bytes)
    first = await BODIES.run(next, uploads, None)
    if first is None:
        raise MalformedBody("the archive holds no files")
    return _read_in_thread(first, uploads, memory)


async def whole_body(request: Request, lease: Lease, limits: UploadLimits) -> memoryview:
    """A body of whatever type, as it is: what `POST /v2/models/…/infer` reads, whose clients name no Content-Type.

    Raises:
        BodyTooLarge, UnsupportedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    content_type(request)
    return (await Intake(request, lease, limits.max_body_bytes, limits.patience).whole()).getbuffer()


async def _form(intake: Intake, form: Form) -> list[Upload]:
    _, options = parse_options_header(intake.request.headers["content-type"])
    boundary, ends = options.get(b"boundary", b""), FormEnds()
    if not boundary:
        raise _unreadable(why_unreadable(ends, boundary))
    try:
        parser = form.parser(boundary)

        def write(piece: bytes) -> None:
            ends.add(piece)
            parser.write(piece)

        await intake.into(write)
    except FormParserError as error:
        raise _unreadable(why_unreadable(ends, boundary)) from error
    if not form.complete:
        raise _unreadable(why_unfinished(ends, boundary))
    return form.pictures()


def _unreadable(why: str) -> MalformedBody:
    return MalformedBody(f"the multipart form cannot be read: {why}")


async def _given(uploads: list[Upload], lease: Lease) -> AsyncIterator[Upload]:
    # Popped, not iterated: a picture's bytes are free once it was answered.
    uploads.reverse()
    while uploads:
        yield _leased(uploads.pop(), lease)


def _leased(upload: Upload, lease: Lease) -> Upload:
    size_bytes = len(upload.content) if isinstance(upload.content, bytes) else 0
    return replace(upload, settled=partial(lease.take, -size_bytes))


async def _read_in_thread(first: Upload, rest: Iterator[Upload], memory: ArchiveMemory) -> AsyncIterator[Upload]:
    upload: Upload | None = first
    while upload is not None:
        yield memory.hold(upload)
        del upload
        await memory.room()
        upload = await BODIES.run(next, rest, None)


def content_type(request: Request) -> str:
    """The media type of the body, lower-case and without its parameters.

    Raises:
        UnsupportedBody: the body is compressed.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedBody(f"Content-Encoding {printable(encoding)}", "the body as it is")
    return printable(request.headers.get("content-type", "").split(";")[0].strip().lower())
