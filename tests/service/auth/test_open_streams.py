"""Open streams end soon after their key is revoked or their token expires, with the reason."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Draw
from issuer import AUDIENCE, Issuer
from keys import entry, keys_file
from ndjson_client import chunk, line, next_document
from serving import Served, served, zipped

KEY, OTHER = "mlk_stream", "mlk_other"
SOON_S = 30  # of a busy machine; the service looks every second


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return keys_file(tmp_path, entry(KEY, "stream"), entry(OTHER, "other"))


@pytest.fixture
def service(artefact: Path, ring: Path, issuing: Issuer, tmp_path: Path) -> Iterator[Served]:
    lab = {"lis_database": f"sqlite:///{tmp_path / 'lab.db'}"}
    where = {"keys_file": str(ring), "oidc_issuer": issuing.url, "oidc_audience": AUDIENCE, "oidc_leeway_s": "0"}
    with served(artefact, **where, **lab, request_timeout_s="120", upload_timeout_s="600") as started:
        started.wait_listening()
        yield started


async def begun(
    service: Served, word: str, kind: str, path: str = "/classify/batch?maps=none", *more: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = httpx.URL(service.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {path} HTTP/1.1", f"Host: {url.host}", f"Content-Type: {kind}", f"Authorization: Bearer {word}"
    writer.write("\r\n".join((*head, *more, "Transfer-Encoding: chunked", "", "")).encode())
    return reader, writer


def revoke(ring: Path, *left: str) -> None:
    beside = ring.with_suffix(".new")
    beside.write_text("\n".join(left))
    beside.chmod(0o600)
    beside.replace(ring)


async def the_rest(reader: asyncio.StreamReader) -> bytes:
    """All bytes until the service closes the connection."""
    async with asyncio.timeout(SOON_S):
        return await reader.read()


def problem_in(text: bytes) -> dict[str, Any]:
    found = re.search(rb'\{"type":"urn:problem-type.*?\}', text)
    assert found, text
    problem: dict[str, Any] = json.loads(found[0])
    return problem


async def test_lines_both_ways_end_with_an_item_that_says_why(service: Served, ring: Path, draw: Draw) -> None:
    reader, writer = await begun(service, KEY, "application/x-ndjson")
    other_reader, other_writer = await begun(service, OTHER, "application/x-ndjson")
    for index in range(2):
        writer.write(chunk(line(draw(index))))
        assert (await asyncio.wait_for(next_document(reader), SOON_S))["index"] == index
    revoke(ring, entry(OTHER, "other"))
    last = await asyncio.wait_for(next_document(reader), SOON_S)
    assert (last["index"], last["problem"]["status"]) == (2, 401) and "revoked" in last["problem"]["detail"]
    assert (await the_rest(reader)).strip(b"\r\n") == b"0"  # the last chunk: the answer is whole, without a summary
    other_writer.write(chunk(line(draw(1))) + b"0\r\n\r\n")  # another key's stream goes on
    assert "result" in await asyncio.wait_for(next_document(other_reader), SOON_S)
    assert (await asyncio.wait_for(next_document(other_reader), SOON_S))["pictures"] == 1
    writer.close()
    other_writer.close()


@pytest.mark.slow
async def test_a_token_that_expires_ends_its_stream(service: Served, issuing: Issuer, draw: Draw) -> None:
    token = issuing.token({"scope": "classify"}, lives_s=8)
    reader, writer = await begun(service, token, "application/x-ndjson")
    writer.write(chunk(line(draw(0))))
    assert "result" in await asyncio.wait_for(next_document(reader), SOON_S)
    last = await asyncio.wait_for(next_document(reader), SOON_S)
    assert (last["index"], last["problem"]["status"]) == (1, 401) and "expired" in last["problem"]["detail"]
    await the_rest(reader)
    writer.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/classify/batch", "application/zip"),
        pytest.param("/classify/batch", "application/x-tar", marks=pytest.mark.slow),
        pytest.param("/classify/batch", "multipart/form-data; boundary=B", marks=pytest.mark.slow),
        pytest.param("/classify/batch", "application/x-ndjson", marks=pytest.mark.slow),
        pytest.param("/classify", "image/png", marks=pytest.mark.slow),
        ("/classify?maps=none", "multipart/form-data; boundary=B"),
        pytest.param("/v2/models/micro/infer", "application/json", marks=pytest.mark.slow),
        pytest.param("/specimens", "application/json", marks=pytest.mark.slow),
        pytest.param("/specimens/" + "0" * 32 + "/cells", "application/zip", marks=pytest.mark.slow),
    ],
)
async def test_a_body_that_is_still_coming_ends_with_401(service: Served, ring: Path, path: str, kind: str) -> None:
    reader, writer = await begun(service, KEY, kind, path)
    writer.write(chunk(b"--B\r\n" if "multipart" in kind else b"{" if "json" in kind else b"PK"))
    head = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    await asyncio.wait([head], timeout=2)
    if head.done():  # a route that has refused before it has read is no stream
        assert b" 404 " in head.result() or b"x-ndjson" in head.result()
        if b" 404 " in head.result():
            writer.close()
            return
    revoke(ring, entry(OTHER, "other"))
    async with asyncio.timeout(SOON_S):
        answer = await head + await the_rest(reader)
    assert problem_in(answer)["status"] == 401 and "revoked" in problem_in(answer)["detail"]
    writer.close()


@pytest.mark.slow
async def test_an_answer_of_lines_that_is_read_slowly_ends_with_an_item(
    service: Served, ring: Path, draw: Draw
) -> None:
    """The archive was received completely. Its answer is larger than the connection's buffers, and waits for them."""
    url = httpx.URL(service.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.connect((url.host, url.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
    with closing(writer):
        body = zipped([(f"{n}.png", draw(n % 7)) for n in range(3000)])
        head = "POST /classify/batch?maps=evidence HTTP/1.1", f"Host: {url.host}", f"Authorization: Bearer {KEY}"
        more = "Content-Type: application/zip", "Accept: application/x-ndjson", f"Content-Length: {len(body)}"
        writer.write("\r\n".join((*head, *more, "", "")).encode() + body)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
        revoke(ring, entry(OTHER, "other"))
        await asyncio.to_thread(service.wait_said, "Stream ended after")  # nothing is read until then
        text = b""
        async with asyncio.timeout(SOON_S):
            while not text.endswith(b"0\r\n\r\n") and (piece := await reader.read(65536)):
                text += piece
    lines = [each for each in re.sub(rb"\r\n[0-9a-f]+\r\n", b"", b"\r\n" + text).splitlines() if each.startswith(b"{")]
    assert b'"pictures":3000' not in text
    assert problem_in(lines[-1])["status"] == 401
