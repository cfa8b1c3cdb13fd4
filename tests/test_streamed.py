"""NDJSON in, NDJSON out: a form's answers, while the lines still come, and in memory that does not grow."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Served, async_client, client, served
from starlette.requests import Request
from starlette.testclient import TestClient

from model.image import PictureTooLarge
from service.archives import Upload
from service.errors import ClientGone, MalformedBody, UploadMemoryExhausted, UploadTooSlow
from service.schemas import BatchItem, BatchSummary
from service.streamed import LINE_OVERHEAD_BYTES, StreamedPictures
from service.uploads import UploadMemory

Draw = Callable[..., bytes]
NDJSON = {"content-type": "application/x-ndjson"}
LIMIT = 3000


def line(data: bytes, name: str | None = None) -> bytes:
    sent = {"image": b64encode(data).decode()} | ({} if name is None else {"name": name})
    return json.dumps(sent).encode() + b"\n"


def documents(answer: httpx.Response) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The items and the summary."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    *items, summary = (json.loads(text) for text in answer.text.splitlines())
    for item in items:
        BatchItem.model_validate(item)
    BatchSummary.model_validate(summary)
    return items, summary


# Through the whole stack


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact, max_image_bytes=100_000, max_body_bytes=200_000, max_batch_images=5) as started:
        yield started


def test_the_answers_are_those_of_a_form(http: TestClient, draw: Draw) -> None:
    named = [(f"cell-{seed}.png", draw(seed)) for seed in range(5)]
    items, summary = documents(
        http.post("/classify/batch", content=b"".join(line(data, name) for name, data in named), headers=NDJSON)
    )
    whole = http.post("/classify/batch", files=[("images", picture) for picture in named]).json()
    assert items == whole["results"]
    assert summary | {"request_id": ""} == {k: v for k, v in whole.items() if k != "results"} | {"request_id": ""}


def test_a_bad_line_is_a_problem_in_its_place(http: TestClient, draw: Draw) -> None:
    good = draw(1)
    body = [
        line(good, "first.png"),
        b'{"image": "aGk", "name": "short.png"}\n',
        b"\n",
        b"no json\n",
        b'{"picture": "aGk="}\n',
        line(b"no picture", "text.txt"),
        line(bytes(100_001), "large.png"),
        b'{"image": "' + b"A" * 200_000 + b'"}\n',
        line(good)[:-1],  # the last line needs no end
    ]
    items, summary = documents(http.post("/classify/batch?maps=none", content=b"".join(body), headers=NDJSON))
    assert [item["index"] for item in items] == list(range(8))
    assert [item.get("name") for item in items] == [
        "first.png", "short.png", None, None, "text.txt", "large.png", None, None,
    ]  # fmt: skip
    assert [item.get("problem", {}).get("status") for item in items] == [None, 422, 422, 422, 415, 413, 413, None]
    details = [item["problem"]["detail"] for item in items if "problem" in item]
    for detail, word in zip(details, ["base64", "JSON", "image: Field required", "not a picture"], strict=False):
        assert word in detail
    assert (summary["pictures"], summary["problems"]) == (8, 6)
    assert items[0]["result"] == items[-1]["result"]
    counted = http.get("/metrics").text
    assert 'outcome="failed"' not in counted and 'marrowlens_pictures_total{outcome="malformed"} 3.0' in counted


def test_more_pictures_and_bytes_than_a_body_may_have_in_one_piece(http: TestClient, draw: Draw) -> None:
    picture = draw(1)
    count = 300_000 // len(picture)
    assert count > 5
    items, summary = documents(http.post("/classify/batch?maps=none", content=line(picture) * count, headers=NDJSON))
    assert len(items) == summary["pictures"] == count and summary["problems"] == 0


def test_an_empty_stream_is_an_empty_batch(http: TestClient) -> None:
    items, summary = documents(http.post("/classify/batch", content=b"\n\n", headers=NDJSON))
    assert items == [] and summary["pictures"] == 0


async def test_where_uploads_fill_the_memory_it_is_refused_before_it_begins(artefact: Path) -> None:
    limits: dict[str, Any] = {
        "max_image_bytes": 100_000,
        "max_body_bytes": 100_000,
    }  # two lines are more than two bodies
    async with async_client(artefact, **limits) as http:
        answer = await http.post("/classify/batch", content=b"", headers=NDJSON)
    assert answer.status_code == 429 and answer.headers["retry-after"]


# On a real connection


@pytest.fixture(scope="module")
def service(artefact: Path) -> Iterator[Served]:
    with served(artefact, request_timeout_s="1") as started:
        started.wait_listening()
        yield started


async def begun(service: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A chunked request whose head is sent."""
    url = httpx.URL(service.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = "POST /classify/batch?maps=none HTTP/1.1", f"Host: {url.host}", "Content-Type: application/x-ndjson"
    writer.write("\r\n".join((*head, "Transfer-Encoding: chunked", "", "")).encode())
    return reader, writer


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def next_document(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next line of the body that is a document; chunk sizes and headers are passed over."""
    while not (text := await reader.readline()).startswith(b'{"'):
        assert text, "the connection has ended"
    found: dict[str, Any] = json.loads(text)
    return found


async def test_an_answer_comes_before_the_next_line_is_sent(service: Served, draw: Draw) -> None:
    reader, writer = await begun(service)
    for index in range(3):
        writer.write(chunk(line(draw(index), f"{index}.png")))
        item = await asyncio.wait_for(next_document(reader), 30)
        assert (item["index"], item["name"]) == (index, f"{index}.png") and "result" in item
    writer.write(b"0\r\n\r\n")
    assert (await asyncio.wait_for(next_document(reader), 30))["pictures"] == 3
    writer.close()


async def test_a_client_that_stops_gets_a_problem_and_the_count_of_the_rest(service: Served, draw: Draw) -> None:
    reader, writer = await begun(service)
    writer.write(chunk(line(draw(1)) + b'{"image": "'))
    found = [await asyncio.wait_for(next_document(reader), 30) for _ in range(3)]
    assert "result" in found[0]
    assert found[1]["problem"]["status"] == 408 and found[1]["index"] == 1
    assert (found[2]["pictures"], found[2]["problems"]) == (2, 1)
    writer.close()


# Line by line


def streamed(pieces: list[bytes], memory: UploadMemory | None = None, end: str = "whole") -> StreamedPictures:
    async def messages() -> AsyncIterator[dict[str, Any]]:
        for at, piece in enumerate(pieces):
            yield {"type": "http.request", "body": piece, "more_body": end != "whole" or at < len(pieces) - 1}
        if end == "silence":
            await asyncio.Event().wait()
        yield {"type": "http.disconnect"}

    source = messages()
    request = Request({"type": "http"}, lambda: anext(source))
    with (memory or UploadMemory(10 * LIMIT)).lease() as lease:
        return StreamedPictures(request, lease, LIMIT, timeout_s=0.01)


async def read(pictures: StreamedPictures) -> list[Upload]:
    found = []
    async for upload in pictures.uploads():
        found.append(upload)
        pictures.answered()
    return found


@given(
    sizes=st.lists(st.integers(0, LIMIT + 10), max_size=8),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
    last_ends=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_however_the_body_is_cut_into_pieces(sizes: list[int], cuts: list[int], last_ends: bool) -> None:
    sent = [bytes([at]) * size for at, size in enumerate(sizes)]
    body = b"".join(line(data, str(at)) for at, data in enumerate(sent))
    body = body if last_ends else body[:-1]
    ends = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]
    found = asyncio.run(read(streamed(pieces)))
    assert [upload.name for upload in found] == [str(at) for at in range(len(sent))]
    for upload, data in zip(found, sent, strict=True):
        if len(data) <= LIMIT:
            assert upload.content == data
        else:
            assert isinstance(upload.content, PictureTooLarge)


async def test_no_more_is_held_than_was_taken() -> None:
    """A thousand pictures that nobody answers at first: the body is read as far as the lease reaches, then waits."""
    memory = UploadMemory(10 * LIMIT)
    pictures = streamed([line(bytes(LIMIT // 2))] * 1000, memory)
    taken: list[Upload] = []

    async def take() -> None:
        async for upload in pictures.uploads():
            taken.append(upload)

    taking = asyncio.create_task(take())
    for _ in range(50):
        await asyncio.sleep(0)
    stuck = len(taken)
    assert 1 <= stuck <= 2 * (LIMIT * 4 // 3 + LINE_OVERHEAD_BYTES) // (LIMIT // 2)
    for answered in range(1000):
        pictures.answered()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(taken) == min(1000, answered + 1 + stuck)
        held = len(taken) - answered - 1
        assert held * (LIMIT // 2) <= pictures.max_line_bytes
    await taking
    assert len(taken) == 1000


async def test_who_leaves_and_who_stops() -> None:
    with pytest.raises(ClientGone):
        await read(streamed([line(b"1"), b'{"im'], end="gone"))
    with pytest.raises(UploadTooSlow):
        await read(streamed([line(b"1"), b'{"im'], end="silence"))


async def test_what_is_wrong_is_said_without_what_was_sent() -> None:
    (upload,) = await read(streamed([b'{"image": 7, "patient": "Smith"}\n']))
    assert isinstance(upload.content, MalformedBody)
    assert "Smith" not in str(upload.content)


def test_without_memory_it_does_not_begin() -> None:
    with pytest.raises(UploadMemoryExhausted):
        streamed([], UploadMemory(LIMIT))
