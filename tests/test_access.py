"""Nobody comes in who should not, on any route that the OpenAPI document has; who may come in is known by name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Draw
from issuer import AUDIENCE, Issuer, issuer
from keys import bearer, entry, keys_file
from serving import async_client, client, refused, served
from starlette.testclient import TestClient

from service.access import policy
from service.app import create_app
from service.settings import Settings

DOCUMENT = create_app(Settings()).openapi()
ROUTES = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
SHUT = [each for each in ROUTES if "security" in each[2]]
OPEN = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
IDS = [f"{method} {path}" for method, path, _ in SHUT]
FRONT, SCANNER, NOTHING, OLD = "mlk_front", "mlk_scanner", "mlk_metrics-alone", "mlk_old"


def address(path: str, specimen: str = "0" * 32) -> str:
    """A path of the right form, of things that need not be there."""
    values = {"specimen_id": specimen, "place": "1", "version": "0.0.1" if "/v2/" in path else "1", "name": "micro"}
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path)


def scopes_of(operation: Any) -> set[str]:
    [requirement] = operation["security"]
    return set(requirement["bearer"])


@pytest.fixture(scope="module")
def issuing() -> Iterator[Issuer]:
    with issuer() as started:
        yield started


@pytest.fixture(scope="module")
def guarded(artefact: Path, issuing: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("guarded")
    path = keys_file(
        folder,
        entry(FRONT, "front", acts_for_others=True),
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


def test_only_health_is_open() -> None:
    assert {path for _, path, operation in ROUTES if "security" not in operation} == OPEN
    assert {scope for *_, operation in SHUT for scope in scopes_of(operation)} == {
        "classify",
        "specimens",
        "metrics",
        "admin",
    }
    assert policy.wanted("/a/route/of/tomorrow") == policy.wanted("/classes")  # shut until somebody opens it


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
        "a token for somebody else": bearer(issuing.token({**everything, "aud": "another service"})),
        "a token of another issuer": bearer(issuing.token({**everything, "iss": "https://elsewhere.example"})),
        "a token of the future": bearer(issuing.token({**everything, "nbf": 4102444800})),
        "a token that is signed by somebody else": bearer(issuing.token(everything, signed_by="a stranger")),
        "a token that is signed by nobody": bearer(issuing.token(everything, algorithm="none")),
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
    claims = {"scope": " ".join(scopes_of(operation)), "preferred_username": "m.muster"}
    for headers in (bearer(FRONT), bearer(issuing.token(claims)), bearer(issuing.token(claims, key="elliptic"))):
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
        there = opened(http, headers | bearer(FRONT) | {"content-type": "application/json"}, "there").json()["id"]
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


# Who acts


def opened(http: TestClient, headers: dict[str, str], number: str) -> httpx.Response:
    wish = {"number": number, "patient": {"identifier": "1"}}
    return http.post("/specimens", json=wish, headers=headers)


def actor(http: TestClient, specimen: str) -> str:
    [entry_of_trail] = http.get(f"/specimens/{specimen}/audit", headers=bearer(FRONT)).json()["entries"]
    name: str = entry_of_trail["actor"]
    return name


def test_the_trail_names_whom_the_key_or_token_names(guarded: TestClient, issuing: Issuer) -> None:
    token = bearer(issuing.token({"scope": "specimens", "preferred_username": "Müller"}))
    machine = bearer(issuing.token({"scope": "specimens"}))
    for number, headers, name in (
        ("by key", bearer(SCANNER), "scanner-1"),
        ("by its own name", bearer(SCANNER) | {"X-Acting-User": "scanner-1"}, "scanner-1"),
        ("for another", bearer(FRONT) | {"X-Acting-User": "dr.beispiel"}, "dr.beispiel"),
        ("by token", token, "Müller"),
        ("by a machine's token", machine, "subject-1"),
    ):
        answer = opened(guarded, headers, number)
        assert answer.status_code == 201, answer.text
        assert actor(guarded, answer.json()["id"]) == name


def test_nobody_acts_under_another_name(guarded: TestClient, issuing: Issuer) -> None:
    token = bearer(issuing.token({"scope": "specimens", "preferred_username": "m.muster"}))
    for headers in (bearer(SCANNER), token):
        answer = opened(guarded, headers | {"X-Acting-User": "dr.beispiel"}, "stolen")
        assert "names somebody else" in refused(answer, 403, "forbidden").detail
    assert "Field required" in refused(opened(guarded, bearer(FRONT), "nobody"), 422, "invalid-parameter").detail


def test_a_person_signs_and_no_machine(guarded: TestClient, issuing: Issuer, draw: Draw) -> None:
    specimen = opened(guarded, bearer(SCANNER), "to be signed").json()["id"]
    cells = f"/specimens/{specimen}/cells"
    guarded.post(cells, files={"images": draw(1)}, headers=bearer(SCANNER)).raise_for_status()
    sign, wish = f"/specimens/{specimen}/sign", {"revision": 2, "accept_unread": True}
    machine = bearer(issuing.token({"scope": "specimens"}))
    for headers in (bearer(SCANNER), machine):
        assert "takes a person" in refused(guarded.post(sign, json=wish, headers=headers), 403, "forbidden").detail
    person = bearer(issuing.token({"scope": "specimens", "preferred_username": "dr.beispiel"}))
    assert guarded.post(sign, json=wish, headers=person).status_code == 200


# Browsers


@pytest.mark.parametrize("asked", [True, False])
def test_no_page_of_another_site_may_send_or_read_anything(
    artefact: Path, tmp_path: Path, draw: Draw, asked: bool
) -> None:
    settings = {"keys_file": keys_file(tmp_path, entry(FRONT, "front"))} if asked else {}
    with client(artefact, **settings) as http:
        http.headers.update(bearer(FRONT))
        origin = {"Origin": "https://elsewhere.example"}
        answer = http.post("/classify", files={"image": draw(1)}, headers={**origin, "Sec-Fetch-Site": "cross-site"})
        refused(answer, 403, "forbidden")
        preflight = http.options("/classify", headers={**origin, "Access-Control-Request-Method": "POST"})
        for each in (answer, preflight, http.get("/classes", headers=origin)):
            assert not any(name.startswith("access-control") for name in each.headers)
        same = http.post("/classify", files={"image": draw(1)}, headers={"Sec-Fetch-Site": "same-origin"})
        assert same.status_code == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]:8000", "[::1]", "LOCALHOST"])
def test_without_keys_this_machine_is_answered(artefact: Path, host: str) -> None:
    with client(artefact) as http:
        assert http.get("/classes", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["elsewhere.example", "elsewhere.example:8000", "localhost.example", "192.0.2.1", ""])
def test_without_keys_no_name_from_outside_leads_here(artefact: Path, tmp_path: Path, host: str) -> None:
    with client(artefact) as http:
        assert "nobody is asked" in refused(http.get("/classes", headers={"Host": host}), 403, "forbidden").detail
    with client(artefact, allow_anonymous=True) as http:
        assert http.get("/classes", headers={"Host": host}).status_code == 200
    with client(artefact, keys_file=keys_file(tmp_path, entry(FRONT, "front"))) as http:
        assert http.get("/classes", headers={"Host": host, **bearer(FRONT)}).status_code == 200


def test_every_answer_is_shut_tight(guarded: TestClient, draw: Draw) -> None:
    answers = [guarded.get("/health/live"), guarded.get("/nothing"), guarded.get("/docs")]
    answers.append(guarded.post("/classify", files={"image": draw(1)}, headers=bearer(FRONT)))
    for answer in answers:
        headers = answer.headers
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert (headers["referrer-policy"], headers["cache-control"]) == ("no-referrer", "no-store")
        assert "default-src" in headers["content-security-policy"]
        assert "server" not in headers and "strict-transport-security" not in headers


# The process


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return keys_file(tmp_path, entry(FRONT, "front"))


def test_other_machines_are_let_in_only_when_callers_are_asked(artefact: Path, ring: Path) -> None:
    with served(artefact, "--host", "0.0.0.0") as refusing:
        assert refusing.wait_ended() == 2
    assert len(refusing.lines) == 1 and "nobody would be asked who he is" in refusing.lines[0]
    for settings, said in (
        ({"keys_file": str(ring)}, "callers are asked who they are"),
        ({"allow_anonymous": "true"}, "WARNING: nobody is asked"),
    ):
        with served(artefact, "--host", "0.0.0.0", **settings) as started:
            started.wait_listening()
            assert started.stop() == 0
        assert any(said in line for line in started.lines), started.lines


def test_on_loopback_the_service_says_that_nobody_is_asked(artefact: Path) -> None:
    with served(artefact) as started:
        started.wait_listening()
        assert started.stop() == 0
    assert any("nobody is asked who he is, so only this machine" in line for line in started.lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("[[key]]\nname = ", "is not TOML"),
        ('[[key]]\nname = "a"\nscopes = ["classify"]\nsha256 = "short"\n', "key 1: sha256"),
        ('[[key]]\nname = "a"\nscope = ["classify"]\nsha256 = "' + "0" * 64 + '"\n', "did you mean scopes?"),
        ("[[keys]]\n", "did you mean key?"),
        ('[[key]]\nname = "a"\nscopes = ["all"]\nsha256 = "' + "0" * 64 + '"\n', "key 1: scopes"),
        (entry(FRONT, "a") + entry(FRONT, "b"), "stands there twice"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_is_said_in_a_line(
    artefact: Path, tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "keys.toml"
    if text is not None:
        path.write_text(text)
    with served(artefact, keys_file=str(path)) as service:
        assert service.wait_ended() == 2
    assert len(service.lines) == 1 and said in service.lines[0], service.lines


async def test_the_log_holds_no_key(artefact: Path, ring: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with async_client(artefact, keys_file=ring) as http:
        for word in (FRONT, "mlk_made-up", "ey.made.up"):
            await http.get("/model", headers=bearer(word))
    assert not any(word in caplog.text for word in (FRONT, "mlk_made-up", "ey.made.up"))
