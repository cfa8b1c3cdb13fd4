"""Authentication and scopes on every route of the OpenAPI document."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from issuer import AUDIENCE, Issuer
from keys import bearer, entry, keys_file
from serving import client, refused
from starlette.testclient import TestClient

from service.app import create_app
from service.auth import policy
from service.config.settings import Settings

DOCUMENT = create_app(Settings()).openapi()
ROUTES = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
SHUT = [each for each in ROUTES if "security" in each[2]]
OPEN = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
#: Checked by their own rules: tests/service/web/session.
OF_SESSIONS = {"/session", "/sign-out"}
IDS = [f"{method} {path}" for method, path, _ in SHUT]
FRONT, LEAD, SCANNER = "mlk_front", "mlk_lead", "mlk_scanner"
NOTHING, OLD = "mlk_metrics-alone", "mlk_old"


def address(path: str, specimen: str = "0" * 32) -> str:
    """A path with made-up ids."""
    values = {"specimen_id": specimen, "place": "1", "version": "0.0.1" if "/v2/" in path else "1"}
    values |= {"page": "0" * 32, "code": "BLA", "picture": "0" * 64}
    values |= {"name": "micro", "control_id": "message-1"}
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path)


def scopes_of(operation: Any) -> set[str]:
    return {scope for requirement in operation["security"] for scope in requirement["bearer"]}


@pytest.fixture(scope="module")
def guarded(artefact: Path, issuing: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("guarded")
    path = keys_file(
        folder,
        entry(FRONT, "front", acts_for_others=True),
        entry(LEAD, "lead", ["classify", "specimens", "metrics", "admin"], acts_for_others=True),
        entry(SCANNER, "scanner-1", ["classify", "specimens"]),
        entry(NOTHING, "prometheus", ["metrics"]),
        entry(OLD, "old", expires="2020-01-01T00:00:00Z"),
    )
    lab = {"database": f"sqlite:///{folder / 'lab.db'}"}
    settings = {"keys_file": path, "oidc_issuer": issuing.url, "oidc_audience": AUDIENCE, "lis": lab}
    with client(artefact, **settings) as started:
        yield started


def counted(http: TestClient, reason: str) -> float:
    text = http.get("/metrics", headers=bearer(NOTHING)).text
    found = re.search(rf'^marrowlens_refusals_total{{reason="{reason}"}} (\S+)', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_only_health_and_sessions_are_open() -> None:
    assert {path for _, path, operation in ROUTES if "security" not in operation} == OPEN | OF_SESSIONS
    assert {scope for *_, operation in SHUT for scope in scopes_of(operation)} == {
        "classify",
        "specimens",
        "metrics",
        "admin",
    }
    assert all({"401", "403", "429", "503"} <= set(operation["responses"]) for *_, operation in SHUT)
    unlisted = policy.required_scopes("/a/route/of/tomorrow")
    assert unlisted == policy.required_scopes("/classes"), "a new route is closed by default"


@pytest.mark.parametrize(("method", "path", "operation"), SHUT, ids=IDS)
def test_whoever_shows_nothing_that_holds_is_refused(
    method: str, path: str, operation: Any, guarded: TestClient, issuing: Issuer
) -> None:
    everything = {"scope": " ".join(scopes_of(operation))}
    wrong = {
        "nothing": {},
        "another scheme": {"Authorization": "Basic bTptdXN0ZXI="},
        "no word": {"Authorization": "Bearer "},
        "no key": bearer("mlk_made-up"),
        "an expired key": bearer(OLD),
        "no token": bearer("made.up.entirely"),
        "an expired token": bearer(issuing.token(everything, lives_s=-3600)),
        "a token for another audience": bearer(issuing.token({**everything, "aud": "another service"})),
        "a token of another issuer": bearer(issuing.token({**everything, "iss": "https://elsewhere.example"})),
        "a token of the future": bearer(issuing.token({**everything, "nbf": 4102444800})),
        "a token with a wrong signature": bearer(issuing.token(everything, signed_by="a stranger")),
        "an unsigned token": bearer(issuing.token(everything, algorithm="none")),
        "a token that is signed with the public key": bearer(issuing.confused(everything)),
        "a token without an end": bearer(issuing.token(everything, lives_s=None)),
    }
    before = counted(guarded, "unauthorised")
    for headers in wrong.values():
        answer = guarded.request(method, address(path), headers=headers)
        refused(answer, 401, "unauthorised")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "mlk_" not in answer.text
    assert counted(guarded, "unauthorised") == before + len(wrong)


@pytest.mark.parametrize(("method", "path", "operation"), SHUT, ids=IDS)
def test_a_key_or_token_without_the_scope_is_refused(
    method: str, path: str, operation: Any, guarded: TestClient, issuing: Issuer, tmp_path: Path, artefact: Path
) -> None:
    scopes = scopes_of(operation)
    others = {"classify", "specimens", "metrics", "admin"} - scopes
    token = bearer(issuing.token({"scope": " ".join(others), "preferred_username": "m.muster"}))
    if others:
        path_of_keys = keys_file(tmp_path, entry("mlk_others", "others", sorted(others)))
        with client(artefact, keys_file=path_of_keys) as http:
            answer = http.request(method, address(path), headers=bearer("mlk_others"))
            refused(answer, 403, "forbidden")
            assert f'scope="{" ".join(sorted(scopes))}"' in answer.headers["www-authenticate"]
        before = counted(guarded, "forbidden")
        refused(guarded.request(method, address(path), headers=token), 403, "forbidden")
        assert counted(guarded, "forbidden") == before + 1
    else:
        nothing = bearer(issuing.token({"scope": "openid profile"}))
        refused(guarded.request(method, address(path), headers=nothing), 403, "forbidden")


@pytest.mark.parametrize(("method", "path", "operation"), SHUT, ids=IDS)
def test_whoever_holds_the_scope_comes_in(
    method: str, path: str, operation: Any, guarded: TestClient, issuing: Issuer
) -> None:
    operates = policy.required_role(method, path) == "operate"
    scopes = scopes_of(operation) | ({"admin"} if operates else set())  # which gives the role
    claims = {"scope": " ".join(scopes), "preferred_username": "m.muster"}
    for headers in (
        bearer(LEAD if operates else FRONT),
        bearer(issuing.token(claims)),
        bearer(issuing.token(claims, key="elliptic")),
    ):
        answer = guarded.request(method, address(path), headers=headers)
        assert answer.status_code not in (401, 403, 429, 500), answer.text


@pytest.mark.parametrize(("method", "path"), [each[:2] for each in SHUT], ids=IDS)
def test_whoever_comes_too_often_is_refused_and_nobody_else(
    method: str, path: str, artefact: Path, tmp_path: Path
) -> None:
    path_of_keys = keys_file(
        tmp_path, entry(FRONT, "front", rate_per_s=0.001, burst=1), entry(SCANNER, "another", rate_per_s=0.001, burst=1)
    )
    with client(artefact, keys_file=path_of_keys) as http:
        assert http.request(method, address(path), headers=bearer(FRONT)).status_code != 429
        answer = http.request(method, address(path), headers=bearer(FRONT))
        refused(answer, 429, "rate-limited")
        assert 900 < int(answer.headers["retry-after"]) <= 1000
        assert http.request(method, address(path), headers=bearer(SCANNER)).status_code != 429
        assert http.get("/health/live").status_code == 200


WITH_BODY = [each for each in SHUT if "requestBody" in each[2]]


@pytest.mark.parametrize(
    ("method", "path", "operation"), WITH_BODY, ids=[f"{method} {path}" for method, path, _ in WITH_BODY]
)
def test_a_body_over_the_limit_is_refused_each_time_and_unread_from_a_stranger(
    method: str, path: str, operation: Any, artefact: Path, tmp_path: Path
) -> None:
    path_of_keys = keys_file(tmp_path, entry(FRONT, "front", acts_for_others=True))
    lab = {"database": f"sqlite:///{tmp_path / 'lab.db'}"}
    small = {"max_image_bytes": 1000, "max_body_bytes": 1000}
    kinds = operation["requestBody"]["content"]
    media_type = next(kind for kind in ("application/zip", "image/png", "application/json") if kind in kinds)
    too_large = (b"[" + b" " * 5_000_000 + b"]") if media_type == "application/json" else b"P" * 5_000_000
    with client(artefact, keys_file=path_of_keys, lis=lab, **small) as http:
        headers = {"content-type": media_type, "X-Acting-User": "m.muster"}
        body = {"number": "there", "patient": {"identifier": "1"}}
        known = bearer(FRONT) | {"X-Acting-User": "m.muster"}
        there = http.post("/specimens", json=body, headers=known).json()["id"]
        refused(http.request(method, address(path), content=too_large, headers=headers), 401, "unauthorised")
        for _ in range(3):
            answer = http.request(method, address(path, there), content=too_large, headers=headers | bearer(FRONT))
            assert answer.status_code == 413, answer.text


def test_health_and_the_page_of_the_interface_are_open(guarded: TestClient) -> None:
    for path in (*OPEN, "/docs", "/openapi.json", "/docs/static/docs.js"):
        assert guarded.get(path).status_code == 200
    assert guarded.head("/health/live").status_code == 200
    refused(guarded.get("/docs/static/../../specimens"), 401, "unauthorised")
    refused(guarded.get("/nothing/here"), 401, "unauthorised")
    assert guarded.head("/model").status_code == 401
    assert guarded.get("/nothing/here", headers=bearer(NOTHING)).status_code == 404


def test_metrics_are_open_where_they_are_set_so(artefact: Path, tmp_path: Path) -> None:
    path = keys_file(tmp_path, entry(FRONT, "front"))
    with client(artefact, keys_file=path, metrics_open=True) as http:
        text = http.get("/metrics").text
        assert "marrowlens_keys 1.0" in text and "marrowlens_keys_file_valid 1.0" in text
        refused(http.get("/model"), 401, "unauthorised")


@pytest.mark.parametrize(("method", "path", "operation"), SHUT, ids=IDS)
def test_a_line_feed_at_the_end_of_a_path_opens_nothing(
    guarded: TestClient, method: str, path: str, operation: Any
) -> None:
    wanted = address(path)
    assert policy.required_role(method, f"{wanted}\n") == policy.required_role(method, wanted)
    assert policy.is_signature(method, f"{wanted}\n") == policy.is_signature(method, wanted)
    if "metrics" not in scopes_of(operation):  # the router serves such a path
        refused(guarded.request(method, f"{wanted}%0A", headers=bearer(NOTHING)), 403, "forbidden")
