"""The service behind nginx and HAProxy, which share connections among clients: each client gets its own answers."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from conftest import Draw
from proxies import PROXIES, proxy
from raw_http import Answered, answers, chunked, head
from serving import Served, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(artefact: Path) -> Iterator[Served]:
    with served(artefact, "--access-log", request_timeout_s="10") as started:
        started.wait_listening()
        yield started


@pytest.fixture(scope="module", params=PROXIES)
def front(request: pytest.FixtureRequest, service: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a proxy in front of the service."""
    folder = tmp_path_factory.mktemp(request.param)
    with proxy(request.param, service.url.removeprefix("http://"), folder) as url:
        yield url


async def answered(front: str, client: int, draw: Draw) -> None:
    """Twenty requests of one client, every other one refused; each answer must carry the request's id."""
    async with httpx.AsyncClient(base_url=front, timeout=60) as http:
        for at in range(20):
            identifier = f"client-{client}-{at}"
            body = draw(client) if at % 2 else b"no picture"
            headers = {"X-Request-ID": identifier, "Content-Type": "image/png"}
            answer = await http.post("/classify?maps=none", content=body, headers=headers)
            assert answer.status_code == (200 if at % 2 else 415), answer.text
            assert answer.headers["x-request-id"] == answer.json()["request_id"] == identifier


async def test_every_client_gets_its_own_answers(front: str, draw: Draw) -> None:
    await asyncio.gather(*(answered(front, client, draw) for client in range(40)))


# Attackers


def sent(front: str, *pieces: bytes) -> list[Answered]:
    """A proxy's answer to these pieces, each sent as a TCP segment of its own."""
    url = httpx.URL(front)
    heard = b""
    with socket.create_connection((url.host, url.port or 80)) as connection, suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            heard += said_within(connection, 0.05)  # so that the next piece is a new segment
        heard += said_within(connection, 1)
    return answers(heard)


def said_within(connection: socket.socket, silence_s: float) -> bytes:
    """Bytes received until this many seconds pass without any."""
    heard = b""
    connection.settimeout(silence_s)
    with suppress(TimeoutError):
        while data := connection.recv(65536):
            heard += data
    return heard


SMUGGLED = head("/model", method="GET", request_id="smuggled")
OFFER = ("Connection: Upgrade", "Upgrade: h2c")


def attacks() -> list[tuple[bytes, ...]]:
    """Requests that proxies pass on and that a lax parser would frame differently."""
    found: list[tuple[bytes, ...]] = []
    for offer in ("h2c", "websocket", "TLS/1.0"):
        fields = ("Connection: Upgrade", f"Upgrade: {offer}", "Content-Type: image/png")
        length = head("/classify", *fields, f"Content-Length: {len(SMUGGLED)}", request_id="attack")
        found += [(length + SMUGGLED,), (length, SMUGGLED), (length, SMUGGLED[:9], SMUGGLED[9:])]
        in_chunks = head("/classify", *fields, "Transfer-Encoding: chunked", request_id="attack")
        found += [(in_chunks, chunked(SMUGGLED)), (in_chunks + chunked(SMUGGLED),)]
    for trailers in ("X-Request-ID: trailer", "Connection: close", "Connection: upgrade\r\nUpgrade: h2c"):
        fields = ("Content-Type: image/png", "Transfer-Encoding: chunked")
        found.append((head("/classify", *fields, request_id="attack"), chunked(b"x", trailers=f"{trailers}\r\n")))
    for framing in (
        f"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED.decode()}",
        f"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{SMUGGLED.decode()}",
        f"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{SMUGGLED.decode()}",
        f"Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED.decode()}",
    ):
        found.append((head("/nowhere", request_id="attack")[:-2] + framing.encode(),))
    # Bodies and heads that never arrive.
    found.append((head("/nowhere", "Content-Length: 100000", request_id="attack"), b"x"))
    found.append((head("/classify", *OFFER, "Content-Length: 100000", request_id="attack"), b"x"))
    found.append((head("/classify", "Content-Type: text/plain", "Transfer-Encoding: chunked"), b"5\r\nab"))
    found.append((head("/health/live", method="GET")[:-2],))
    return found


async def test_no_attack_gets_or_gives_another_clients_answer(front: str, service: Served, draw: Draw) -> None:
    before = len(service.lines)
    clients = [asyncio.create_task(answered(front, client, draw)) for client in range(20)]
    for attack in attacks() * 2:
        found = await asyncio.to_thread(sent, front, *attack)
        assert len(found) <= 1, (attack, found)
        assert all(each.request_id in ("", "attack", "first") for each in found), (attack, found)
    await asyncio.gather(*clients)
    assert not any("smuggled" in line or "trailer" in line for line in service.lines[before:])


def test_whoever_is_refused_early_has_the_problem_through_a_proxy(front: str) -> None:
    for size in (1, 100_000, 5_000_000):
        for _ in range(10):  # on separate connections: nginx closes one with an unread body
            answer = httpx.post(f"{front}/nowhere", content=bytes(size), timeout=60)
            assert (answer.status_code, answer.json()["status"]) == (404, 404)
