"""The service behind nginx and HAProxy, which share its connections among clients: whose answer goes to whom."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Draw
from proxies import PROXIES, proxy
from serving import Served, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(artefact: Path) -> Iterator[Served]:
    with served(artefact) as started:
        started.wait_listening()
        yield started


@pytest.fixture(scope="module", params=PROXIES)
def front(request: pytest.FixtureRequest, service: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a proxy in front of the service."""
    folder = tmp_path_factory.mktemp(request.param)
    with proxy(request.param, service.url.removeprefix("http://"), folder) as url:
        yield url


async def answered(front: str, client: int, draw: Draw) -> None:
    """Twenty requests of one client, every other one refused; each must get the answer that names it."""
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
