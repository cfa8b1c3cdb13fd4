"""The actor of a change, cross-site requests, and the start-up messages about authentication."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Draw
from issuer import AUDIENCE, Issuer
from keys import bearer, entry, keys_file
from serving import async_client, client, refused, served
from starlette.testclient import TestClient

FRONT, SCANNER = "mlk_front", "mlk_scanner"


@pytest.fixture(scope="module")
def guarded(artefact: Path, issuing: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("guarded")
    front, scanner = entry(FRONT, "front", acts_for_others=True), entry(SCANNER, "scanner-1", ["classify", "specimens"])
    settings = {"oidc_issuer": issuing.url, "oidc_audience": AUDIENCE, "keys_file": keys_file(folder, front, scanner)}
    with client(artefact, **settings, lis={"database": f"sqlite:///{folder / 'lab.db'}"}) as started:
        yield started


# The actor


def opened(http: TestClient, headers: dict[str, str], number: str) -> httpx.Response:
    body = {"number": number, "patient": {"identifier": "1"}}
    return http.post("/specimens", json=body, headers=headers)


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
        assert "names another user" in refused(answer, 403, "forbidden").detail
    assert "Field required" in refused(opened(guarded, bearer(FRONT), "nobody"), 422, "invalid-parameter").detail


def test_a_person_signs_and_no_machine(guarded: TestClient, issuing: Issuer, draw: Draw) -> None:
    specimen = opened(guarded, bearer(SCANNER), "to be signed").json()["id"]
    cells = f"/specimens/{specimen}/cells"
    guarded.post(cells, files={"images": draw(1)}, headers=bearer(SCANNER)).raise_for_status()
    sign, body = f"/specimens/{specimen}/sign", {"revision": 2, "accept_unread": True, "accept_below_target": True}
    machine = bearer(issuing.token({"scope": "specimens"}))
    for headers in (bearer(SCANNER), machine):
        refusal = refused(guarded.post(sign, json=body, headers=headers), 403, "forbidden")
        assert "only a person may do this" in refusal.detail
    person = bearer(issuing.token({"scope": "specimens", "preferred_username": "dr.beispiel"}))
    assert guarded.post(sign, json=body, headers=person).status_code == 200


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
        assert "Authentication is off" in refused(http.get("/classes", headers={"Host": host}), 403, "forbidden").detail
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
        assert headers["referrer-policy"] == "no-referrer"
        assert ("etag" in headers) != (headers.get("cache-control") == "no-store")  # files of the page may be kept
        assert "default-src" in headers["content-security-policy"]
        assert "server" not in headers and "strict-transport-security" not in headers


# The process


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return keys_file(tmp_path, entry(FRONT, "front"))


def test_other_machines_are_let_in_only_when_callers_are_asked(artefact: Path, ring: Path) -> None:
    with served(artefact, "--host", "0.0.0.0") as refusing:
        assert refusing.wait_ended() == 2
    [line] = refusing.lines
    assert "authentication is off, but other machines can reach 0.0.0.0" in line
    for settings, said in (
        ({"keys_file": str(ring)}, "Authentication: API keys of "),
        ({"allow_anonymous": "true"}, "WARNING: Authentication is off"),
    ):
        with served(artefact, "--host", "0.0.0.0", **settings) as started:
            started.wait_listening()
            assert started.stop() == 0
        assert any(said in line for line in started.lines), started.lines


def test_on_loopback_the_service_says_that_nobody_is_asked(artefact: Path) -> None:
    with served(artefact) as started:
        started.wait_listening()
        assert started.stop() == 0
    assert any("Authentication is off: only requests from localhost are accepted" in line for line in started.lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("[[key]]\nname = ", "not valid TOML"),
        ('[[key]]\nname = "a"\nscopes = ["classify"]\nsha256 = "short"\n', "key 1: sha256"),
        ('[[key]]\nname = "a"\nscope = ["classify"]\nsha256 = "' + "0" * 64 + '"\n', "did you mean scopes?"),
        ("[[keys]]\n", "did you mean key?"),
        ('[[key]]\nname = "a"\nscopes = ["all"]\nsha256 = "' + "0" * 64 + '"\n', "key 1: scopes"),
        (entry(FRONT, "a") + entry(FRONT, "b"), "listed twice"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_is_said_in_a_line(
    artefact: Path, tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "keys.toml"
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
    with served(artefact, keys_file=str(path)) as service:
        assert service.wait_ended() == 2
    assert len(service.lines) == 1 and said in service.lines[0], service.lines


def test_the_log_says_who_was_let_in_and_who_was_not(artefact: Path, ring: Path) -> None:
    with served(artefact, "--access-log", keys_file=str(ring)) as service:
        service.wait_listening()
        for path, headers in (("model", bearer(FRONT)), ("specimens/1", {}), ("nothing", bearer("mlk_made-up"))):
            httpx.get(f"{service.url}/{path}", headers=headers)
        service.wait_said("GET other 401")
        text = httpx.get(f"{service.url}/metrics", headers=bearer(FRONT)).text
    said = "\n".join(service.lines)
    assert "GET /model 200" in said and " by front " in said
    assert "GET /specimens/{specimen_id} 401" in said and " by 127.0.0.1 " in said
    assert 'marrowlens_requests_total{route="/specimens/{specimen_id}",status="401"} 1.0' in text


def test_a_start_with_no_key_says_that_nobody_can_come_in(artefact: Path, tmp_path: Path) -> None:
    with served(artefact, keys_file=str(keys_file(tmp_path))) as service:
        service.wait_listening()
        assert service.stop() == 0
    assert any("holds no key" in line for line in service.lines), service.lines


async def test_the_log_holds_no_key(artefact: Path, ring: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with async_client(artefact, keys_file=ring) as http:
        for word in (FRONT, "mlk_made-up", "ey.made.up"):
            await http.get("/model", headers=bearer(word))
    assert not any(word in caplog.text for word in (FRONT, "mlk_made-up", "ey.made.up"))
