"""NDJSON in, NDJSON out: same answers as for a form, sent while lines still arrive, in constant memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from checkout import SHARED
from ndjson_client import chunk, line, next_document
from serving import Served, async_client, client, served
from starlette.testclient import TestClient

from service.api.schemas import BatchItem, BatchSummary

Draw = Callable[..., bytes]
NDJSON = {"content-type": "application/x-ndjson"}
LIMIT = 3000


async def as_it_comes(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 65536):
        yield body[at : at + 65536]


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
    for detail, word in zip(
        details, ["base64", "JSON", "image: Field required", "not a supported picture"], strict=False
    ):
        assert word in detail
    assert (summary["pictures"], summary["problems"]) == (8, 6)
    assert items[0]["result"] == items[-1]["result"]
    counted = http.get("/metrics").text
    assert 'marrowlens_pictures_total{outcome="failed"} 0.0' in counted
    assert 'marrowlens_pictures_total{outcome="malformed"} 3.0' in counted


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


async def test_a_picture_for_which_there_is_no_memory_is_refused_and_the_next_one_is_not(
    artefact: Path, draw: Draw
) -> None:
    limits: dict[str, Any] = {"max_image_bytes": 1_000_000, "max_body_bytes": 1_000_000}
    async with async_client(artefact, **limits) as http:
        body = line(bytes(950_000), "large.png") + line(draw(1), "small.png")
        items, summary = documents(await http.post("/classify/batch", content=as_it_comes(body), headers=NDJSON))
        counted = (await http.get("/metrics")).text
    assert (items[0]["problem"]["status"], items[0]["problem"]["title"]) == (429, "The service is overloaded")
    assert "result" in items[1] and (summary["pictures"], summary["problems"]) == (2, 1)
    assert 'marrowlens_pictures_total{outcome="refused"} 1.0' in counted


CASES = SHARED / "cases" / "pictures"


@pytest.mark.skipif(not CASES.is_dir(), reason="the folder ../shared/cases/pictures is not there")
@pytest.mark.parametrize("name", ["mime_base64.ndjson", "powershell_utf16.ndjson"])
def test_streams_that_were_refused(http: TestClient, name: str) -> None:
    whole = http.post("/classify?maps=none", files={"image": (CASES / "base.jpg").read_bytes()}).json()
    items, _ = documents(http.post("/classify/batch?maps=none", content=(CASES / name).read_bytes(), headers=NDJSON))
    assert [item["result"]["probabilities"] for item in items] == [whole["probabilities"]] * len(items) and items


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


async def test_an_answer_comes_before_the_next_line_is_sent(service: Served, draw: Draw) -> None:
    reader, writer = await begun(service)
    for index in range(3):
        writer.write(chunk(line(draw(index), f"{index}.png")))
        item = await asyncio.wait_for(next_document(reader), 30)
        assert (item["index"], item["name"]) == (index, f"{index}.png") and "result" in item
    writer.write(b"0\r\n\r\n")
    assert (await asyncio.wait_for(next_document(reader), 30))["pictures"] == 3
    writer.close()


async def test_a_hundred_streams_at_once(artefact: Path, draw: Draw) -> None:
    """Many streams at once: each may send the largest picture, and none does."""
    with served(artefact) as service:
        service.wait_listening()
        open_streams = []
        for index in range(100):
            reader, writer = await begun(service)
            writer.write(chunk(line(draw(index))))
            open_streams.append((reader, writer))
        for reader, _ in open_streams:
            assert "result" in await asyncio.wait_for(next_document(reader), 60)
        for _, writer in open_streams:
            writer.transport.abort()


async def test_a_client_that_stops_gets_a_problem_and_the_count_of_the_rest(service: Served, draw: Draw) -> None:
    reader, writer = await begun(service)
    writer.write(chunk(line(draw(1)) + b'{"image": "'))
    found = [await asyncio.wait_for(next_document(reader), 30) for _ in range(3)]
    assert "result" in found[0]
    assert found[1]["problem"]["status"] == 408 and found[1]["index"] == 1
    assert (found[2]["pictures"], found[2]["problems"]) == (2, 1)
    writer.close()
