"""Request bodies to pictures: one raw picture, a multipart form, a ZIP or a tar, held in memory and bounded on the way.

Knows HTTP bodies and their limits; the count of bytes is taken on the stream, so a missing or false Content-Length
changes nothing. Does not decode pictures. Nothing is written to disk.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from model.image import PictureTooLarge
from service.archives import Bounds, Upload, printable, tar_members, zip_members
from service.errors import (
    BodyTooLarge,
    ClientGone,
    MalformedBody,
    TooManyPictures,
    UnsupportedBody,
    UploadTooSlow,
)
from service.lease import Lease
from service.thread_pools import BODIES

#: Boundaries and headers around the one picture of a form.
FORM_OVERHEAD_BYTES = 64 * 1024
#: A body that is slower than this on the whole, its first `timeout_s` apart, holds memory for nothing.
MIN_UPLOAD_BYTES_PER_S = 16 * 1024
#: An archive may grow to this many times the largest body: pictures hardly shrink, bombs do.
MAX_EXPANSION = 4

_ARCHIVES: dict[str, Callable[[BytesIO, Bounds], Iterator[Upload]]] = {
    "application/zip": zip_members,
    "application/x-zip-compressed": zip_members,
    "application/x-tar": tar_members,
    "application/tar": tar_members,
}


@dataclass(frozen=True, slots=True)
class Intake:
    """One request's body on its way in: where from, how much of it, and how long to wait for it.

    `timeout_s` is for each next piece, and for the whole in addition to its bytes at `MIN_UPLOAD_BYTES_PER_S`.
    """

    request: Request
    lease: Lease
    limit_bytes: int
    timeout_s: float

    async def into(self, write: Callable[[bytes], object]) -> None:
        """Hand over the body piece by piece, as it comes.

        Raises:
            BodyTooLarge, UploadTooSlow, UploadMemoryExhausted, ClientGone, and what `write` raises.
        """
        declared = self.request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.limit_bytes:
            raise BodyTooLarge(self.limit_bytes)
        try:
            async with asyncio.timeout(self.timeout_s) as patience:
                await self._receive(write, patience)
        except TimeoutError as error:
            raise UploadTooSlow(self.timeout_s) from error

    async def _receive(self, write: Callable[[bytes], object], patience: asyncio.Timeout) -> None:
        clock = asyncio.get_running_loop().time
        received, began_s = 0, clock()
        while True:
            message = await self.request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            received += len(piece := message.get("body", b""))
            if received > self.limit_bytes:
                raise BodyTooLarge(self.limit_bytes)
            self.lease.take(len(piece))
            write(piece)
            if not message.get("more_body", False):
                return
            due_s = began_s + received / MIN_UPLOAD_BYTES_PER_S
            patience.reschedule(min(clock(), due_s) + self.timeout_s)
            await asyncio.sleep(0)  # pieces that are here already would be read in one go, and all others would wait

    async def whole(self) -> BytesIO:
        """The body in one piece."""
        file = BytesIO()
        await self.into(file.write)
        file.seek(0)
        return file


async def one_picture(request: Request, lease: Lease, *, max_image_bytes: int, timeout_s: float) -> bytes:
    """The picture of `POST /classify`: the form field `image`, or the body itself under `Content-Type: image/*`.

    Raises:
        BodyTooLarge, PictureTooLarge, UnsupportedBody, MalformedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    found = content_type(request)
    if found == "multipart/form-data":
        intake = Intake(request, lease, max_image_bytes + FORM_OVERHEAD_BYTES, timeout_s)
        uploads = await _form(intake, Form("image", max_pictures=16, max_picture_bytes=max_image_bytes))
        if len(uploads) > 1:
            raise MalformedBody("the form field image came more than once; several pictures go to /classify/batch")
        if not isinstance(uploads[0].content, bytes):
            raise uploads[0].content
        return uploads[0].content
    if found.startswith("image/"):
        return (await Intake(request, lease, max_image_bytes, timeout_s).whole()).getvalue()
    raise UnsupportedBody(found, "the form field image (multipart/form-data), or the picture itself as image/*")


async def many_pictures(
    request: Request, lease: Lease, *, max_body_bytes: int, max_picture_bytes: int, max_pictures: int, timeout_s: float
) -> AsyncIterator[Upload]:
    """The pictures of `POST /classify/batch`, once the whole body is there: form fields `images`, a ZIP or a tar.

    Raises:
        BodyTooLarge, TooManyPictures, UnsupportedBody, MalformedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    found = content_type(request)
    intake = Intake(request, lease, max_body_bytes, timeout_s)
    if found == "multipart/form-data":
        return _given(await _form(intake, Form("images", max_pictures, max_picture_bytes)))
    members = _ARCHIVES.get(found)
    if members is None:
        expected = (
            f"form fields images (multipart/form-data), application/x-ndjson, or one of {', '.join(sorted(_ARCHIVES))}"
        )
        raise UnsupportedBody(found, expected)
    bounds = Bounds(max_pictures, max_picture_bytes, MAX_EXPANSION * max_body_bytes)
    uploads = await BODIES.run(members, await intake.whole(), bounds)
    first = await BODIES.run(next, uploads, None)
    if first is None:
        raise MalformedBody("the archive holds no files")
    return _read_in_thread(first, uploads)


async def whole_body(request: Request, lease: Lease, *, max_body_bytes: int, timeout_s: float) -> memoryview:
    """A body of whatever type, as it is: what `POST /v2/models/…/infer` reads, whose clients name no Content-Type.

    Raises:
        BodyTooLarge, UnsupportedBody, UploadTooSlow, UploadMemoryExhausted, ClientGone.
    """
    content_type(request)
    return (await Intake(request, lease, max_body_bytes, timeout_s).whole()).getbuffer()


@dataclass(slots=True)
class Form:
    """The parts of one multipart form (RFC 7578), all of which must be pictures under one field name."""

    field_name: str
    max_pictures: int
    max_picture_bytes: int
    uploads: list[Upload] = field(default_factory=list)
    complete: bool = False
    _name: str | None = None
    _data: bytearray = field(default_factory=bytearray)
    _size_bytes: int = 0
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _typed: bool = False

    def parser(self, boundary: bytes) -> MultipartParser:
        """A push parser that fills this form."""
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._identify,
                "on_part_data": self._grow,
                "on_part_end": self._end,
                "on_end": self._complete,
            },
        )

    def _begin(self) -> None:
        if len(self.uploads) >= self.max_pictures:
            raise TooManyPictures(self.max_pictures)
        self._name, self._data, self._size_bytes, self._disposition, self._typed = None, bytearray(), 0, b"", False

    def _end_header(self) -> None:
        name = bytes(self._header).lower()
        if name == b"content-disposition":
            self._disposition = bytes(self._value)
        self._typed = self._typed or name == b"content-type"
        self._header.clear()
        self._value.clear()

    def _identify(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name", b"").decode("utf-8", "replace") != self.field_name:
            raise MalformedBody(f"a form field has another name than {self.field_name}, the only one read here")
        if b"filename" not in options and not self._typed:
            raise MalformedBody(f"{self.field_name} came as text, not as a file (with curl: {self.field_name}=@FILE)")
        if b"filename" in options:
            self._name = printable(options[b"filename"].decode("utf-8", "replace"))

    def _grow(self, data: bytes, start: int, end: int) -> None:
        self._size_bytes += end - start
        if self._size_bytes > self.max_picture_bytes:
            self._data.clear()
        else:
            self._data += data[start:end]

    def _end(self) -> None:
        if self._size_bytes > self.max_picture_bytes:
            too_large = PictureTooLarge(f"{self._size_bytes} bytes; {self.max_picture_bytes} are allowed")
            self.uploads.append(Upload(self._name, too_large))
        else:
            self.uploads.append(Upload(self._name, bytes(self._data)))

    def _complete(self) -> None:
        self.complete = True


async def _form(intake: Intake, form: Form) -> list[Upload]:
    _, options = parse_options_header(intake.request.headers["content-type"])
    try:
        parser = form.parser(options.get(b"boundary", b""))
        await intake.into(parser.write)
    except FormParserError as error:
        raise MalformedBody("the multipart form cannot be read; is its boundary right?") from error
    if not form.complete:
        raise MalformedBody("the multipart form ends before its closing boundary")
    if not form.uploads:
        raise MalformedBody(f"the form field {form.field_name} is missing")
    return form.uploads


async def _given(uploads: list[Upload]) -> AsyncIterator[Upload]:
    # Popped, not iterated: a picture's bytes are free once it was read.
    uploads.reverse()
    while uploads:
        yield uploads.pop()


async def _read_in_thread(first: Upload, rest: Iterator[Upload]) -> AsyncIterator[Upload]:
    upload: Upload | None = first
    while upload is not None:
        yield upload
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
