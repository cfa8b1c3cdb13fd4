"""Clients that do not read their answers: connection and memory are freed after the timeout."""

import asyncio
import json
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from serving import Served, served

Draw = Callable[..., bytes]
#: Answers of 1.5 MB each, more than the kernel buffers.
LARGE = b"GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
MANY = 30
GIVEN_UP = "the client does not read its answer"


@pytest.fixture
def service(artefact: Path) -> Iterator[Served]:
    # Upload memory for one stream only.
    limits = {"max_image_bytes": "100000", "max_body_bytes": "200000"}
    with served(artefact, request_timeout_s="0.5", **limits) as started:
        started.wait_listening()
        yield started


def connected(service: Served) -> socket.socket:
    url = httpx.URL(service.url)
    return socket.create_connection((url.host, url.port or 80), timeout=60)


@pytest.mark.slow
def test_an_answer_that_nobody_reads_is_given_up(service: Served) -> None:
    with connected(service) as connection:
        connection.sendall(LARGE * MANY)
        service.wait_said(GIVEN_UP)
        assert httpx.get(f"{service.url}/health/ready").status_code == 200


@pytest.mark.slow
def test_whoever_reads_gets_all_of_it(service: Served) -> None:
    with connected(service) as connection:
        connection.sendall(LARGE * (MANY - 1) + LARGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answers = 0
        while data := connection.recv(1 << 20):
            answers += data.count(b"HTTP/1.1 200 OK")
    assert answers == MANY and not any(GIVEN_UP in line for line in service.lines)


@pytest.mark.slow
async def test_a_stream_whose_answers_nobody_reads_gives_its_memory_back(service: Served, draw: Draw) -> None:
    url = httpx.URL(service.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    line = json.dumps({"image": b64encode(draw(1)).decode()}).encode() + b"\n"
    target = "/classify/batch?maps=attention,evidence&map_format=overlay&top_k=20"
    head = (
        f"POST {target} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/x-ndjson",
        "Transfer-Encoding: chunked",
    )
    writer.write("\r\n".join((*head, "", "")).encode())
    with pytest.raises(ConnectionError):
        while True:
            writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            await writer.drain()
    writer.transport.abort()
    service.wait_said(GIVEN_UP)
    async with httpx.AsyncClient(headers={"content-type": "application/x-ndjson"}) as http:
        answer = await http.post(f"{service.url}/classify/batch", content=line)
        while answer.status_code == 429:  # until the work of the other stream has ended
            answer = await http.post(f"{service.url}/classify/batch", content=line)
    assert answer.status_code == 200 and json.loads(answer.text.splitlines()[-1])["pictures"] == 1
    assert not any("ERROR" in said for said in service.lines), service.lines
