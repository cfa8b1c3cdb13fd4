"""Reserved memory of unpacked archive members and of form pictures, until they are answered."""

import asyncio

import httpx
import pytest
from serving import zipped
from starlette.requests import Request
from starlette.types import Message

from service.api.uploads.archives import Upload
from service.api.uploads.body import many_pictures
from service.api.uploads.memory_budget import MemoryBudget, TransferTimeouts, UploadLimits
from service.errors import UploadMemoryExhausted

MIB = 1024 * 1024
LIMITS = UploadLimits(MIB, 100_000, 1000, TransferTimeouts(60, 60))


async def test_members_of_an_archive_are_reserved_until_they_are_answered() -> None:
    """Forty members of the largest size in a small body: two at a time are in memory."""
    memory, member = MemoryBudget(10 * MIB), bytes(100_000)
    body = zipped([(str(at), member) for at in range(40)])
    request_ = body_of(body)
    with memory.reserve() as reserved:
        uploads = await many_pictures(request_, reserved, LIMITS)
        assert memory.in_use_bytes == len(body) + 100_000
        held: list[Upload] = []
        async for upload in uploads:
            assert upload.content == member
            held.append(upload)
            assert memory.in_use_bytes <= len(body) + 200_000
            if len(held) == 2:
                held.pop(0).release()
        held.pop().release()
        assert memory.in_use_bytes == len(body) + 100_000


async def test_the_next_member_is_not_unpacked_before_one_is_answered() -> None:
    memory = MemoryBudget(10 * MIB)
    body = zipped([(str(at), bytes(100_000)) for at in range(3)])
    with memory.reserve() as reserved:
        uploads = await many_pictures(
            body_of(body), reserved, UploadLimits(MIB, 100_000, 1000, TransferTimeouts(60, 60))
        )
        first, second = await anext(uploads), await anext(uploads)
        third = asyncio.ensure_future(anext(uploads))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not third.done() and memory.in_use_bytes == len(body) + 200_000
        second.release()
        assert (await third).name == "2"
        first.release()


async def test_an_archive_waits_for_its_own_members_where_others_hold_the_memory() -> None:
    memory, member = MemoryBudget(10 * MIB), bytes(100_000)
    body = zipped([(str(at), member) for at in range(3)])
    with memory.reserve() as reserved, memory.reserve("others") as others:
        others.add(10 * MIB - len(body) - 100_000)
        uploads = await many_pictures(
            body_of(body), reserved, UploadLimits(MIB, 100_000, 1000, TransferTimeouts(60, 60))
        )
        async for upload in uploads:
            assert upload.content == member
            upload.release()
        with memory.reserve() as another, pytest.raises(UploadMemoryExhausted):
            await many_pictures(body_of(b"x"), another, LIMITS)


async def test_a_form_gives_back_what_was_answered() -> None:
    memory = MemoryBudget(10 * MIB)
    files = [("images", (f"{at}.png", bytes(1000))) for at in range(10)]
    made = httpx.Request("POST", "http://localhost", files=files)
    body = made.read()
    with memory.reserve() as reserved:
        request_ = body_of(body, made.headers["content-type"])
        uploads = await many_pictures(request_, reserved, UploadLimits(MIB, 1000, 10, TransferTimeouts(60, 60)))
        assert memory.in_use_bytes == len(body)
        async for upload in uploads:
            upload.release()
        assert memory.in_use_bytes == len(body) - 10_000


def body_of(body: bytes, content_type: str = "application/zip") -> Request:
    """A POST whose body has arrived completely."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)
