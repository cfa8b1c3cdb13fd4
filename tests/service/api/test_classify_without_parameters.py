"""The short way of `POST /classify` beside the routing's: the same answers, the same problems, the same counts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import client
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from service.api.routes.direct import Direct
from service.api.state import TIMEOUT_WISH

Draw = Callable[..., bytes]
PNG = {"content-type": "image/png"}
#: Requests of which the first takes the short way and the second does not; the parameters say what holds anyway.
BOTH_WAYS = [
    ("/classify", {}),
    ("/classify?maps=attention&map_format=grid&top_k=5", {}),
    ("/classify", {TIMEOUT_WISH: "60000"}),
]


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact, max_image_bytes=100_000) as started:
        yield started


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries of requests that were left to the routing, in their order."""
    left: list[str] = []
    direct = Direct.__call__

    async def watched(self: Direct, scope: Scope, receive: Receive, send: Send) -> None:
        below = self.app

        async def routing(scope: Scope, receive: Receive, send: Send) -> None:
            left.append(scope["query_string"].decode())
            await below(scope, receive, send)

        self.app = routing
        try:
            await direct(self, scope, receive, send)
        finally:
            self.app = below

    monkeypatch.setattr(Direct, "__call__", watched)
    return left


def answers(http: TestClient, **sent: Any) -> list[Any]:
    return [
        http.post(path, **{**sent, "headers": {**sent.get("headers", {}), **headers}}) for path, headers in BOTH_WAYS
    ]


def alike(found: list[Any]) -> None:
    documents = [answer.json() for answer in found]
    ids = [document.pop("request_id") for document in documents]
    assert len(set(ids)) == len(ids) and ids == [answer.headers["x-request-id"] for answer in found]
    assert documents[1:] == documents[:-1]
    fields = [{k: v for k, v in answer.headers.items() if k != "x-request-id"} for answer in found]
    assert fields[1:] == fields[:-1]
    assert len({answer.status_code for answer in found}) == 1


def test_only_requests_without_parameters_take_it(http: TestClient, draw: Draw, routed: list[str]) -> None:
    found = answers(http, content=draw(1), headers=PNG)
    assert routed == [BOTH_WAYS[1][0].partition("?")[2], ""]
    assert found[0].status_code == 200
    alike(found)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"content": b"text", "headers": {"content-type": "text/plain"}}, 415),
        ({"content": b"no picture", "headers": PNG}, 415),
        ({"content": b"\x89PNG\r\n\x1a\n", "headers": PNG}, 422),
        ({"content": bytes(100_001), "headers": PNG}, 413),
        ({"files": {"cells": b"1"}}, 422),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 422),
    ],
)
def test_problems_are_the_same(http: TestClient, sent: dict[str, Any], status: int) -> None:
    found = answers(http, **sent)
    assert found[0].status_code == status
    assert found[0].headers["content-type"] == "application/problem+json"
    alike(found)


def test_other_methods_and_paths_are_the_routings(http: TestClient, routed: list[str]) -> None:
    assert http.get("/classify").status_code == 405
    assert http.post("/classify/").status_code == 404
    assert len(routed) == 2


def test_both_ways_count_under_one_route(http: TestClient, draw: Draw) -> None:
    def counted() -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("marrowlens_request_duration_seconds_count") and 'route="/classify"' in line
        )

    before = counted()
    answers(http, content=draw(1), headers=PNG)
    assert counted() == before + len(BOTH_WAYS)


def test_what_is_not_in_the_table_tells_nothing(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.routes.classify.one_picture", lambda *_, **__: 1 / 0)
    answer = http.post("/classify", content=b"", headers=PNG)
    assert answer.status_code == 500 and "division" not in answer.text
    assert answer.json()["type"].endswith("internal-error")
