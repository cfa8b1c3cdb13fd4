"""`POST /classify` without FastAPI's router and dependency injection beside the way through them: both are the same."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.routing import APIRoute
from serving import client
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from service.api.responses import ResponseOptions
from service.api.routes import classify
from service.api.state import TIMEOUT_HEADER, AppStateDep, RequestId, RequestTimeoutMs, app_state
from service.app import create_app
from service.config.settings import Settings
from service.errors import Forbidden
from service.runtime.session import open_session

Draw = Callable[..., bytes]
PNG = {"content-type": "image/png"}
#: The same request: two that need no dependency injection, and two that go through FastAPI.
ALL_WAYS = [
    ("/classify", {}),
    ("/classify?maps=attention&map_format=grid&top_k=5", {}),
    ("/classify", {TIMEOUT_HEADER: "60000"}),
    (f"/classify?{'&'.join(['maps=attention'] * 20)}", {}),  # longer than the queries that are cached
]


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact, max_image_bytes=100_000) as started:
        yield started


@pytest.fixture
def injected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries of requests that went through FastAPI's dependency injection, in order."""
    queries: list[str] = []
    handle = APIRoute.handle

    async def watched(self: APIRoute, scope: Scope, receive: Receive, send: Send) -> None:
        queries.append(scope["query_string"].decode())
        await handle(self, scope, receive, send)

    monkeypatch.setattr(APIRoute, "handle", watched)
    return queries


def answers(http: TestClient, **sent: Any) -> list[Any]:
    return [
        http.post(path, **{**sent, "headers": {**sent.get("headers", {}), **headers}}) for path, headers in ALL_WAYS
    ]


def alike(found: list[Any]) -> None:
    documents = [answer.json() for answer in found]
    ids = [document.pop("request_id") for document in documents]
    assert len(set(ids)) == len(ids) and ids == [answer.headers["x-request-id"] for answer in found]
    assert documents[1:] == documents[:-1]
    fields = [{k: v for k, v in answer.headers.items() if k != "x-request-id"} for answer in found]
    assert fields[1:] == fields[:-1]
    assert len({answer.status_code for answer in found}) == 1


def test_a_valid_query_without_a_timeout_needs_no_injection(http: TestClient, draw: Draw, injected: list[str]) -> None:
    found = answers(http, content=draw(1), headers=PNG)
    assert injected == ["", ALL_WAYS[3][0].partition("?")[2]]
    assert found[0].status_code == 200
    alike(found)


@pytest.mark.parametrize(
    "query", ["maps=none", "maps=evidence,attention&maps=none", "top_k=2&map_format=png", "top_k=7"]
)
def test_queries_mean_the_same_on_both_ways(http: TestClient, draw: Draw, injected: list[str], query: str) -> None:
    short = http.post(f"/classify?{query}", content=draw(1), headers=PNG)
    long = http.post(f"/classify?{query}", content=draw(1), headers=PNG | {TIMEOUT_HEADER: "60000"})
    assert injected == [query]
    assert short.status_code == long.status_code == 200
    assert short.json() | {"request_id": ""} == long.json() | {"request_id": ""}


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("maps=all", "query parameter maps.0: Input should be 'attention', 'evidence' or 'none'"),
        ("maps=", "query parameter maps.0: Input should be 'attention', 'evidence' or 'none'"),
        ("top_k=0", "query parameter top_k: Input should be greater than or equal to 1"),
        ("topk=3", "query parameter topk: unknown; did you mean top_k?"),
        ("top_k=3&top_k=4", "query parameter top_k: given 2 times; only one value is possible"),
        (
            "map_format=png&maps=none&map_format=png",
            "query parameter map_format: given 2 times; only one value is possible",
        ),
    ],
)
def test_an_invalid_query_is_fastapis_to_explain(
    http: TestClient, draw: Draw, injected: list[str], query: str, detail: str
) -> None:
    refused = http.post(f"/classify?{query}", content=draw(1), headers=PNG)
    assert (refused.status_code, refused.json()["detail"], injected) == (422, detail, [query])


async def _forbid() -> None:
    raise Forbidden("by the added dependency")


def _on_the_app(app: FastAPI) -> None:
    app.router.routes.clear()
    app.include_router(classify.router, dependencies=[Depends(_forbid)])


def _overridden(app: FastAPI) -> None:
    app.dependency_overrides[app_state] = _forbid


def _as_a_parameter(app: FastAPI) -> None:
    """A route of the same path whose function has one more header."""
    router = APIRouter()

    @router.post("/classify")
    async def strict(
        request: Request,
        options: Annotated[ResponseOptions, Query()],
        state: AppStateDep,
        request_id: RequestId,
        timeout_ms: RequestTimeoutMs = None,
        added: Annotated[str, Header()] = "absent",
    ) -> None:
        assert (request.method, options.top_k, request_id) and state.ready() and timeout_ms in (None, 60000)
        raise Forbidden(f"by the {added} dependency")

    app.router.routes.clear()
    app.include_router(router)


@pytest.mark.parametrize("add", [_on_the_app, _overridden, _as_a_parameter])
def test_an_added_dependency_is_never_skipped(artefact: Path, draw: Draw, add: Callable[[FastAPI], None]) -> None:
    app = create_app(Settings(artefact=artefact), open_session(artefact))
    add(app)
    with TestClient(app, base_url="http://localhost") as http:
        for path, headers in ALL_WAYS:
            refused = http.post(path, content=draw(1), headers=PNG | {"added": "added"} | headers)
            assert (refused.status_code, refused.json()["detail"]) == (403, "by the added dependency")


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


def test_other_methods_and_paths(http: TestClient) -> None:
    assert http.get("/classify").status_code == 405
    assert http.post("/classify/").status_code == 404


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
    assert counted() == before + len(ALL_WAYS)


def test_what_is_not_in_the_table_tells_nothing(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.routes.classify.one_picture", lambda *_, **__: 1 / 0)
    answer = http.post("/classify", content=b"", headers=PNG)
    assert answer.status_code == 500 and "division" not in answer.text
    assert answer.json()["type"].endswith("internal-error")
