"""Bodies of ordinary and hostile clients: limits apply while streaming, and nothing is written to disk."""

import asyncio
import zipfile
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Named, tarred, zipped
from starlette.requests import Request
from starlette.types import Message

from model.image import PictureTooLarge
from service.api.uploads.archives import Upload
from service.api.uploads.body import FORM_OVERHEAD_BYTES, many_pictures, one_picture
from service.api.uploads.memory_budget import MemoryBudget, TransferTimeouts, UploadLimits
from service.errors import (
    BodyTooLarge,
    ClientGone,
    MalformedBody,
    TooManyPictures,
    UnsupportedBody,
    UploadMemoryExhausted,
    UploadTooSlow,
)

BOUNDARY = "cell"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def request(content_type: str, *chunks: bytes, headers: dict[str, str] | None = None, ends: str = "body") -> Request:
    """A POST whose body comes in these chunks; it `ends` with the body, with a "disconnect" or in "silence"."""
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if ends == "body":
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    if ends == "disconnect":
        messages.append({"type": "http.disconnect"})
    waiting = iter(messages)

    async def receive() -> Message:
        message = next(waiting, None)
        return message if message is not None else await asyncio.Future()

    sent = {"content-type": content_type} | (headers or {})
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def form(*parts: tuple[str, str | None, bytes], closed: bool = True) -> bytes:
    """A multipart body of (field, file name, content)."""
    written = b""
    for field, filename, content in parts:
        named = f'; filename="{filename}"' if filename is not None else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"{named}\r\n\r\n'
        written += head.encode() + content + b"\r\n"
    return written + (f"--{BOUNDARY}--\r\n".encode() if closed else b"")


async def one(sent: Request, *, memory: MemoryBudget | None = None, limit: int = 1000, timeout_s: float = 60) -> bytes:
    with (memory or MemoryBudget(10**9)).reserve() as reserved:
        return await one_picture(sent, reserved, UploadLimits(limit, limit, 1, TransferTimeouts(timeout_s, 600)))


async def many(sent: Request, *, memory: MemoryBudget | None = None, max_body_bytes: int = 20_000) -> list[Upload]:
    with (memory or MemoryBudget(10**9)).reserve() as reserved:
        limits = UploadLimits(max_body_bytes, 1000, 5, TransferTimeouts(60, 600))
        uploads: AsyncIterator[Upload] = await many_pictures(sent, reserved, limits)
        return [upload async for upload in uploads]


# One picture


async def test_a_picture_comes_as_the_body_or_as_a_form_field() -> None:
    assert await one(request("image/png", b"ab", b"", b"c")) == b"abc"
    assert await one(request(MULTIPART, form(("image", "x.png", b"abc")))) == b"abc"
    typed = form(("image", None, b"abc")).replace(b'name="image"', b'name="image"\r\nContent-Type: image/png')
    assert await one(request(MULTIPART, typed)) == b"abc"
    assert await one(request("IMAGE/JPEG; charset=binary", b"abc")) == b"abc"


@given(st.binary(max_size=300), st.integers(1, 40))
async def test_a_form_reads_the_same_however_it_is_cut(content: bytes, size: int) -> None:
    body = form(("image", "x", content))
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    if f"\r\n--{BOUNDARY}".encode() not in content:
        assert await one(request(MULTIPART, *chunks)) == content


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json", "application/octet-stream", "é"])
async def test_another_type_is_refused_and_says_what_is_read(content_type: str) -> None:
    with pytest.raises(UnsupportedBody, match=r"image \(multipart/form-data\)"):
        await one(request(content_type, b"abc"))


async def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(UnsupportedBody, match="gzip"):
        await one(request("image/png", b"abc", headers={"content-encoding": "gzip"}))


@pytest.mark.parametrize("headers", [{}, {"content-length": "10"}, {"content-length": "5000"}])
async def test_the_limit_is_counted_on_the_stream_whatever_the_header_says(headers: dict[str, str]) -> None:
    with pytest.raises(BodyTooLarge, match="1000"):
        await one(request("image/png", *[b"x" * 500] * 3, headers=headers))


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(BodyTooLarge):
        await one(request("image/png", headers={"content-length": "1001"}, ends="silence"))


async def test_a_form_s_picture_has_the_same_limit_as_a_raw_one() -> None:
    assert len(await one(request(MULTIPART, form(("image", "x", b"x" * 1000))))) == 1000
    with pytest.raises(PictureTooLarge, match="1001 bytes"):
        await one(request(MULTIPART, form(("image", "x", b"x" * 1001))))
    with pytest.raises(BodyTooLarge):
        await one(request(MULTIPART, form(("image", "x", b"x" * (1000 + FORM_OVERHEAD_BYTES)))))


async def test_a_client_that_falls_silent_is_not_waited_for() -> None:
    with pytest.raises(UploadTooSlow):
        await one(request("image/png", b"abc", ends="silence"), timeout_s=0.01)


async def test_a_client_that_leaves_is_noticed() -> None:
    with pytest.raises(ClientGone):
        await one(request("image/png", b"abc", ends="disconnect"))


async def test_uploads_in_flight_share_a_bounded_memory_and_give_it_back() -> None:
    memory = MemoryBudget(1000)
    with memory.reserve() as other:
        other.add(600)
        with pytest.raises(UploadMemoryExhausted):
            await one(request("image/png", b"x" * 500), memory=memory)
        assert memory.in_use_bytes == 600
    assert memory.in_use_bytes == 0
    assert len(await one(request("image/png", b"x" * 500), memory=memory)) == 500
    assert memory.in_use_bytes == 0


# Many pictures

THREE: Named = [("a/1.png", b"one"), ("a/2.png", b""), ("3.png", b"three")]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (MULTIPART, form(*[("images", name, data) for name, data in THREE])),
        ("application/zip", zipped(THREE)),
        ("application/x-zip-compressed", zipped(THREE, zipfile.ZIP_STORED)),
        ("application/x-tar", tarred(THREE)),
    ],
)
async def test_pictures_come_in_order_with_their_names(content_type: str, body: bytes) -> None:
    assert await many(request(content_type, body)) == [Upload(name, data) for name, data in THREE]


async def test_one_too_large_a_picture_is_a_problem_of_its_own() -> None:
    members = [("1", b"one"), ("2", b"x" * 1001), ("3", b"three")]
    bodies = {"application/zip": zipped(members), "application/x-tar": tarred(members)}
    bodies[MULTIPART] = form(*[("images", name, data) for name, data in members])
    for content_type, body in bodies.items():
        uploads = await many(request(content_type, body))
        assert [upload.name for upload in uploads] == ["1", "2", "3"]
        assert (uploads[0].content, uploads[2].content) == (b"one", b"three")
        assert isinstance(uploads[1].content, PictureTooLarge)


@pytest.mark.parametrize("content_type", ["image/png", "application/gzip", "application/json", ""])
async def test_another_type_than_form_zip_or_tar_is_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedBody, match="application/zip"):
        await many(request(content_type, b"abc"))


async def test_too_many_pictures_are_refused_before_any_is_read() -> None:
    six = [(str(at), b"x") for at in range(6)]
    bodies = {"application/zip": zipped(six), "application/x-tar": tarred(six)}
    bodies[MULTIPART] = form(*[("images", name, data) for name, data in six])
    for content_type, body in bodies.items():
        with pytest.raises(TooManyPictures, match="5 pictures"):
            await many(request(content_type, body))


async def test_a_body_over_the_limit_is_refused() -> None:
    with pytest.raises(BodyTooLarge, match="100"):
        await many(request("application/zip", b"x" * 60, b"x" * 60), max_body_bytes=100)


async def test_folders_and_system_litter_are_no_pictures() -> None:
    members = [("f/", b""), ("__MACOSX/f/._1.png", b"x"), ("f/.DS_Store", b"x"), ("f/1.png", b"one")]
    assert await many(request("application/zip", zipped(members))) == [Upload("f/1.png", b"one")]


@pytest.mark.parametrize("content_type", ["application/zip", "application/x-tar"])
@pytest.mark.parametrize("body", [b"", b"abc", b"PK\x05\x06" + b"\xff" * 18, zipped([]), zipped(THREE)[:-30]])
async def test_what_is_no_archive_or_an_empty_one_is_malformed(content_type: str, body: bytes) -> None:
    with pytest.raises(MalformedBody):
        await many(request(content_type, body))
