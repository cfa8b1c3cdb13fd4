"""Memory of requests in flight: limits for one caller and for all, and timeouts that free it."""

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import async_client, client, refused, served, zipped
from starlette.requests import Request
from starlette.types import Message

from service.api.disconnect import BufferedResponse
from service.api.state import memory_owner
from service.api.uploads.body import BodyReader
from service.api.uploads.memory_budget import MemoryBudget, TransferTimeouts
from service.api.uploads.ndjson import NdjsonPictures
from service.auth.identity import Caller, Identity
from service.errors import ClientGone, UploadMemoryExhausted, UploadTooSlow

Draw = Callable[..., bytes]
MIB = 1024 * 1024
PNG = {"content-type": "image/png"}


def sent(*pieces: bytes, endless: bytes = b"") -> Request:
    """A POST that sends these pieces, then `endless` forever, one piece every hundred turns of the event loop."""
    waiting = iter(pieces)

    async def receive() -> Message:
        for _ in range(100):
            await asyncio.sleep(0)
        piece = next(waiting, endless)
        return {"type": "http.request", "body": piece, "more_body": True}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


# Timeouts


@pytest.mark.parametrize(
    ("request_", "timeouts"),
    [
        (sent(endless=b"a"), TransferTimeouts(0.05, 600)),
        (
            sent(bytes(100 * MIB), endless=b"a"),
            TransferTimeouts(0.05, 600),
        ),  # an hour at the minimum rate
        (sent(bytes(100 * MIB), endless=b""), TransferTimeouts(0.05, 600)),
        (sent(endless=bytes(MIB)), TransferTimeouts(600, 0.05)),  # as fast as can be, for longer than any body may take
    ],
    ids=["a byte now and then", "after most of the body", "empty pieces", "without an end"],
)
async def test_a_body_that_does_not_come_is_given_up(request_: Request, timeouts: TransferTimeouts) -> None:
    memory = MemoryBudget(10**15)
    with memory.reserve() as reserved, pytest.raises(UploadTooSlow):
        await BodyReader(request_, reserved, 10**15, timeouts).write_to(len)
    assert memory.in_use_bytes == 0


@pytest.mark.parametrize("timeouts", [TransferTimeouts(0.05, 600), TransferTimeouts(600, 0.05)])
async def test_neither_does_a_line_of_a_stream(timeouts: TransferTimeouts) -> None:
    lines = sent(b'{"image":"', bytes(20 * MIB), endless=b"a")
    with MemoryBudget(10**12).reserve() as reserved, pytest.raises(UploadTooSlow):
        async for _ in NdjsonPictures(lines, reserved, 10**9, timeouts).uploads():
            pass


async def test_every_line_of_a_stream_has_its_own_time() -> None:
    lines = sent(endless=b'{"image":"MQ=="}\n')
    with MemoryBudget(10**9).reserve() as reserved:
        pictures, count = NdjsonPictures(lines, reserved, 1000, TransferTimeouts(600, 0.5)), 0
        until = asyncio.get_running_loop().time() + 0.6
        async for upload in pictures.uploads():
            assert upload.content == b"1"
            pictures.mark_answered()
            count += 1
            if asyncio.get_running_loop().time() > until:
                break
    assert count


# Limits


def test_one_caller_never_takes_what_the_others_need() -> None:
    memory = MemoryBudget(300, 200)
    with memory.reserve("a") as first, memory.reserve("a") as second, memory.reserve("b") as other:
        first.add(150)
        with pytest.raises(UploadMemoryExhausted, match="^your requests .* the memory limit of 200 bytes"):
            second.add(51)
        second.add(50)
        other.add(100)
        with pytest.raises(UploadMemoryExhausted, match="^all requests .* the memory limit of 300 bytes"):
            other.add(1)
        first.add(-100)
        other.add(100)
    assert memory.in_use_bytes == 0
    with memory.reserve("a") as again:
        again.add(200)


def key(name: str) -> Caller:
    return Caller(name, Identity(kind="key", key=name), frozenset())


@pytest.mark.parametrize(
    ("one", "another", "same"),
    [
        ({"client": ("10.0.0.1", 1)}, {"client": ("10.0.0.1", 2)}, True),
        ({"client": ("10.0.0.1", 1)}, {"client": ("10.0.0.2", 1)}, False),
        ({"client": ("2001:db8::1", 1)}, {"client": ("2001:db8::ffff:1:2", 1)}, True),
        ({"client": ("2001:db8::1", 1)}, {"client": ("2001:db8:0:1::1", 1)}, False),
        ({"client": ("fe80::1%eth0", 1)}, {"client": ("fe80::2%eth0", 1)}, True),
        ({"client": ("a:b", 1)}, {"client": ("a:c", 1)}, False),
        ({"client": None}, {}, True),
        (
            {"client": ("10.0.0.1", 1), "state": {"caller": key("a")}},
            {"client": ("10.0.0.2", 1), "state": {"caller": key("a")}},
            True,
        ),
        (
            {"client": ("10.0.0.1", 1), "state": {"caller": key("a")}},
            {"client": ("10.0.0.1", 1), "state": {"caller": key("b")}},
            False,
        ),
        ({"client": ("a", 1)}, {"client": ("b", 1), "state": {"caller": key("address a")}}, False),
    ],
)
def test_a_caller_is_a_key_or_token_and_else_an_address(one: Any, another: Any, same: bool) -> None:
    holders = [memory_owner(Request({"type": "http"} | scope)) for scope in (one, another)]
    assert (holders[0] == holders[1]) is same


async def begun(
    url: str, path: str, content_type: str, source: str, length: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request from its own address that has sent most of its body and stops."""
    to = httpx.URL(url)
    reader, writer = await asyncio.open_connection(to.host, to.port, local_addr=(source, 0))
    head = (f"POST {path} HTTP/1.1", f"Host: {to.host}", f"Content-Type: {content_type}", f"Content-Length: {length}")
    writer.write("\r\n".join((*head, "", "")).encode() + b"x" * (length - 1))
    return reader, writer


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/classify", "image/png"),
        ("/classify/batch", "application/zip"),
        ("/classify/batch", "application/x-ndjson"),
        ("/v2/models/micro/infer", "application/json"),
    ],
)
async def test_uploads_that_never_end_leave_room_for_others(
    artefact: Path, draw: Draw, path: str, content_type: str
) -> None:
    limits = {"max_image_bytes": "900000", "max_body_bytes": "1000000"}
    with served(artefact, **limits) as service:
        service.wait_listening()
        open_ = [await begun(service.url, path, content_type, "127.0.0.2", 400_000) for _ in range(12)]
        heads = [asyncio.ensure_future(reader.readline()) for reader, _ in open_]
        await asyncio.wait(heads, return_when=asyncio.FIRST_COMPLETED)  # that there is no more room for him
        assert {head.result().split()[1] for head in heads if head.done()} <= {b"429", b"200"}  # a stream has begun
        for source, status in (("127.0.0.3", 200), ("127.0.0.1", 200)):
            transport = httpx.AsyncHTTPTransport(local_address=source)
            async with httpx.AsyncClient(transport=transport, base_url=service.url, timeout=60) as http:
                alone = await http.post("/classify", content=draw(1), headers=PNG)
                many = await http.post("/classify/batch", files=[("images", draw(at)) for at in range(9)])
            assert (alone.status_code, many.status_code) == (status, status), alone.text
        for head, (_, writer) in zip(heads, open_, strict=True):
            head.cancel()
            writer.transport.abort()


# Buffered answers


async def test_a_buffered_answer_is_reserved_until_it_was_sent() -> None:
    memory, stack = MemoryBudget(10 * MIB), ExitStack()
    chunks: list[bytes | memoryview] = [b"a" * 10, memoryview(b"b" * MIB), b"", b"c" * 70_000]
    stack.enter_context(memory.reserve()).add(sum(map(len, chunks)))
    body, held = b"", []

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")
        held.append(memory.in_use_bytes)

    answer = BufferedResponse(
        chunks, stack, media_type="application/json", timeouts=TransferTimeouts(9, 9), headers={"x": "y"}
    )
    await answer({"type": "http"}, asyncio.Future, send)  # type: ignore[arg-type]
    assert body == b"".join(chunks) and answer.headers["content-length"] == str(len(body))
    assert set(held) == {len(body)} and len(held) > 16
    assert memory.in_use_bytes == 0


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    memory, stack, taken = MemoryBudget(10 * MIB), ExitStack(), []
    stack.enter_context(memory.reserve()).add(100)

    async def send(message: Message) -> None:
        if message.get("more_body"):
            taken.append(message)
            await asyncio.Future() if len(taken) > 9 else None

    answer = BufferedResponse(
        [bytes(MIB)], stack, media_type="text/plain", timeouts=TransferTimeouts(0.01, 9), headers={}
    )
    with pytest.raises(ClientGone):
        await answer({"type": "http"}, asyncio.Future, send)  # type: ignore[arg-type]
    assert memory.in_use_bytes == 0


async def test_an_answer_for_which_there_is_no_memory_is_refused(artefact: Path, draw: Draw) -> None:
    pictures = [draw(at) for at in range(8)]
    body = {"files": [("images", (f"{at}.png", data)) for at, data in enumerate(pictures)]}
    data = {"name": "image", "datatype": "UINT8", "shape": [9, 64, 64, 3], "data": [0] * (9 * 64 * 64 * 3)}
    async with async_client(artefact, max_image_bytes=300_000, max_body_bytes=1_000_000) as http:
        memory: MemoryBudget = http._transport.app.state.app_state.upload_memory  # type: ignore[attr-defined]
        small = await http.post("/classify/batch?maps=none", **body)
        assert small.status_code == 200
        room = 2 * sum(map(len, pictures)) + 4000
        with memory.reserve("another") as others, memory.reserve("a third") as third:
            others.add(2_000_000)
            third.add(1_000_000 - room)
            large = await http.post("/classify/batch?maps=evidence&top_k=21&map_format=overlay", **body)
            assert "all requests" in refused(large, 429, "overloaded").detail
            third.add(room - 250_000)
            tensors = await http.post("/v2/models/micro/infer", json={"inputs": [data]})
            assert "all requests" in refused(tensors, 429, "overloaded").detail
        assert memory.in_use_bytes == 0
        assert (await http.post("/v2/models/micro/infer", json={"inputs": [data]})).status_code == 200
        assert memory.in_use_bytes == 0


def test_a_whole_batch_is_one_document_however_many_items_it_has(artefact: Path, draw: Draw) -> None:
    with client(artefact) as http:
        for count in (1, 2, 40):
            body = zipped([(f"{at}.png", draw(at)) for at in range(count)])
            answer = http.post("/classify/batch", content=body, headers={"content-type": "application/zip"})
            assert len(json.loads(answer.content)["results"]) == count
            assert int(answer.headers["content-length"]) == len(answer.content)
