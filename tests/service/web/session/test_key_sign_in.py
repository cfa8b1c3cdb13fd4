"""Sign-in with an API key or by a name, roles by a file, and revocation."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from keys import bearer, entry, keys_file
from serving import client, refused
from session_client import Browser
from starlette.testclient import TestClient

from service.auth.sessions import COOKIE

FRONT, DOCTOR, SCANNER, OPERATOR = "mlk_front", "mlk_doctor", "mlk_scanner", "mlk_operator"
NUMBERS = itertools.count(1)
ROLES = """
[[person]]
name = "m.muster"
roles = ["review", "sign"]

[[person]]
name = "e.beispiel"
roles = ["read"]

[[person]]
name = "z.zweit"
roles = ["second-reader"]

[[person]]
name = "doctor"
roles = ["sign"]
"""


def written_roles(folder: Path, text: str = ROLES) -> Path:
    path = folder / "roles.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded")


def write_keys(folder: Path, *more: str) -> Path:
    return keys_file(
        folder,
        entry(FRONT, "front", ["classify", "specimens"], acts_for_others=True),
        entry(DOCTOR, "doctor", ["specimens"], person=True),
        entry(OPERATOR, "operator", ["specimens", "admin"]),
        *more,
    )


@pytest.fixture(scope="module")
def service(artefact: Path, folder: Path) -> Iterator[TestClient]:
    lab = {"database": f"sqlite:///{folder / 'lab.db'}", "second_reader": True}
    path = write_keys(folder, entry(SCANNER, "scanner-1", ["specimens"]))
    with client(artefact, keys_file=path, roles_file=written_roles(folder), lis=lab) as started:
        yield started


@pytest.fixture
def browser(service: TestClient) -> Browser:
    service.cookies.clear()
    sign_in: Any = service.app.state.sign_in  # type: ignore[attr-defined]
    sign_in._attempts._buckets.clear()
    return Browser(service)


@pytest.fixture(scope="module")
def unguarded(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    lab = {"database": f"sqlite:///{tmp_path_factory.mktemp('open') / 'lab.db'}"}
    with client(artefact, lis=lab) as started:
        yield started


def opened(browser: Browser, headers: dict[str, str] | None = None) -> httpx.Response:
    number = f"BM-{next(NUMBERS)}"
    return browser.send("POST", "/specimens", {"number": number, "patient": {"identifier": "1"}}, headers)


def signed(browser: Browser, headers: dict[str, str] | None = None) -> httpx.Response:
    return browser.send("POST", f"/specimens/{'0' * 32}/sign", {"revision": 1}, headers)


def identity(browser: Browser, specimen: httpx.Response) -> dict[str, Any]:
    [row] = browser.open(f"/specimens/{specimen.json()['id']}/audit").json()["entries"]
    return {"name": row["actor"]} | {name: value for name, value in row["identity"].items() if value}


def test_the_holder_of_a_key_that_acts_for_others_signs_in_by_name(browser: Browser) -> None:
    assert "is empty" in browser.submit("/sign-in/key", key=FRONT).text
    answer = browser.submit("/sign-in/key", key=FRONT, name="m.muster", next="/lab")
    assert (answer.status_code, answer.headers["location"]) == (303, "/lab")
    found = browser.session()
    assert found["person"]["roles"] == ["read", "review", "sign"] and found["person"]["method"] == "key"
    specimen = opened(browser)
    assert {"name": "m.muster", "kind": "named", "key": "front"}.items() <= identity(browser, specimen).items()
    refused(signed(browser), 404, "unknown-specimen")
    other = browser.csrf() | {"X-Acting-User": "e.beispiel"}
    refused(opened(browser, other), 403, "forbidden")


def test_a_key_of_one_person_signs_in_without_a_name(browser: Browser) -> None:
    browser.submit("/sign-in/key", key=DOCTOR)
    assert browser.session()["person"] | {"name": "doctor", "roles": ["read", "sign"]} == browser.session()["person"]
    refused(signed(browser), 404, "unknown-specimen")
    refused(opened(browser), 403, "role-missing")


def test_a_second_reader_confirms_and_the_signer_signs(browser: Browser, draw: Callable[[int], bytes]) -> None:
    browser.submit("/sign-in/key", key=FRONT, name="m.muster")
    path = f"/specimens/{opened(browser).json()['id']}"
    for number in range(1, 9):
        browser.client.post(
            f"{path}/cells", content=draw(number), headers=browser.csrf() | {"Content-Type": "image/png"}
        )
    revision = {"revision": browser.open(path).json()["revision"]}
    signature = revision | {"accept_unread": True, "accept_below_target": True}
    assert "second reader" in refused(browser.send("POST", f"{path}/sign", signature), 409, "not-reviewed").detail
    denied = refused(browser.send("POST", f"{path}/second-reading", revision), 403, "role-missing")
    assert "role second-reader" in denied.detail
    browser.submit("/sign-in/key", key=FRONT, name="z.zweit")
    confirmed = browser.send("POST", f"{path}/second-reading", revision).json()["second_reading"]
    assert (confirmed["by"], confirmed["current"]) == ("z.zweit", True)
    assert "role sign" in refused(browser.send("POST", f"{path}/sign", signature), 403, "role-missing").detail
    browser.submit("/sign-in/key", key=FRONT, name="m.muster")
    report = browser.send("POST", f"{path}/sign", signature)
    assert (report.json()["signed_by"], report.json()["second_reader"]) == ("m.muster", "z.zweit")


def test_a_machines_key_signs_nothing(browser: Browser) -> None:
    browser.submit("/sign-in/key", key=SCANNER)
    assert browser.session()["person"]["person"] is False
    assert opened(browser).status_code == 201
    refused(signed(browser), 403, "forbidden")


@pytest.mark.parametrize("key", ["", "mlk_made-up", "made up", "mlk_" + "x" * 900])
def test_a_wrong_key_is_refused(browser: Browser, key: str) -> None:
    answer = browser.submit("/sign-in/key", key=key)
    assert answer.status_code == 401 and "Unknown, expired or revoked API key" in answer.text
    assert "set-cookie" not in answer.headers and (not key or key not in answer.text)


def test_attempts_are_limited(browser: Browser) -> None:
    statuses = [browser.submit("/sign-in/key", key="mlk_made-up").status_code for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    answer = browser.submit("/sign-in/key", key=DOCTOR)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://["}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_a_form_of_another_site_signs_nobody_in(browser: Browser, headers: dict[str, str]) -> None:
    answer = browser.submit("/sign-in/key", headers, key=DOCTOR)
    assert answer.status_code == 403 and "set-cookie" not in answer.headers


@pytest.mark.parametrize(("content", "status"), [(b"x" * 20_000, 413), (b"a=1&" * 20, 422), (b"key=\xff", 422)])
def test_a_form_is_bounded(browser: Browser, content: bytes, status: int) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert browser.client.post("/sign-in/key", content=content, headers=headers).status_code == status
    assert browser.client.post("/sign-in/key", json={"key": DOCTOR}).status_code == 415


def test_a_key_is_not_taken_over_plain_http_from_another_machine(browser: Browser) -> None:
    answer = browser.submit("/sign-in/key", {"Host": "cells.example", "Origin": "http://cells.example"}, key=DOCTOR)
    assert answer.status_code == 403 and "needs https" in answer.text


def test_a_revoked_key_ends_its_sessions(browser: Browser, folder: Path, service: TestClient) -> None:
    browser.submit("/sign-in/key", key=SCANNER)
    assert browser.open("/specimens").status_code == 200
    write_keys(folder)
    authenticator: Any = service.app.state.authenticator  # type: ignore[attr-defined]
    try:
        asyncio.run(authenticator.refresh())
        refused(browser.open("/specimens"), 401, "session-expired")
        assert "person" not in browser.session()
    finally:
        write_keys(folder, entry(SCANNER, "scanner-1", ["specimens"]))
        asyncio.run(authenticator.refresh())
    refused(browser.open("/specimens"), 401, "session-expired")


def test_the_file_of_roles_is_reloaded(browser: Browser, folder: Path, service: TestClient) -> None:
    authenticator: Any = service.app.state.authenticator  # type: ignore[attr-defined]
    browser.submit("/sign-in/key", key=FRONT, name="e.beispiel")
    assert "role review" in refused(opened(browser), 403, "role-missing").detail
    try:
        written_roles(folder, ROLES.replace('["read"]', '["review"]'))
        asyncio.run(authenticator.refresh())
        assert opened(browser).status_code == 201
        written_roles(folder, "[[person]]\nname = 1")
        asyncio.run(authenticator.refresh())
        assert opened(browser).status_code == 201, "a file that cannot be used changes nothing"
    finally:
        written_roles(folder)
        asyncio.run(authenticator.refresh())


@pytest.mark.parametrize(
    ("name", "status"), [("m.muster", 201), ("e.beispiel", 403), ("nobody", 403), ("M.Muster", 403)]
)
def test_people_whom_a_front_end_names_have_their_roles_too(browser: Browser, name: str, status: int) -> None:
    assert opened(browser, bearer(FRONT) | {"X-Acting-User": name}).status_code == status


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[person]]\nname = 'a'\nroles = ['write']", "person.0.roles"),
        ("[[person]]\nname = 'a'\nroles = []\n[[person]]\nname = 'a'\nroles = []", "listed twice"),
        ("[[person]]\nname = 'a'\nroles = []\n[[person]]\nname = 'A'\nroles = []", "upper and lower case"),
        ("[[person]]\nname = 'a '\nroles = []", "space"),
        ("person = ", "TOML"),
    ],
)
def test_a_file_of_roles_that_cannot_be_used_stops_the_start(
    artefact: Path, folder: Path, tmp_path: Path, text: str, said: str
) -> None:
    from service.auth.roles import RolesFileError

    with pytest.raises(RolesFileError, match=said):
        with client(artefact, keys_file=folder / "keys.toml", roles_file=written_roles(tmp_path, text)):
            pass


def test_without_authentication_a_name_is_asked_once_and_stays_unverified(unguarded: TestClient) -> None:
    browser = Browser(unguarded)
    refused(opened(browser, {}), 422, "invalid-parameter")
    assert browser.session()["methods"] == ["name"]
    assert "U+200B" in browser.submit("/sign-in/name", name="m.\u200bmuster").text
    browser.submit("/sign-in/name", name="m.muster")
    assert browser.session()["person"]["verified"] is False
    refused(opened(browser, {}), 403, "csrf-rejected")
    assert identity(browser, opened(browser)) == {"name": "m.muster", "kind": "claimed"}
    refused(signed(browser), 404, "unknown-specimen")
    refused(browser.send("POST", "/model/reload", {}), 403, "forbidden")


def test_without_authentication_the_end_of_a_session_is_told_where_the_name_is_needed(unguarded: TestClient) -> None:
    browser = Browser(unguarded)
    browser.submit("/sign-in/name", name="m.muster")
    token = browser.csrf()
    unguarded.app.state.sign_in.table.end(unguarded.cookies[COOKIE])  # type: ignore[attr-defined]
    assert browser.open("/specimens").status_code == 200
    refused(opened(browser, token), 401, "session-expired")
    assert opened(browser, {"X-Acting-User": "m.muster"}).status_code == 201


def test_a_name_alone_is_not_accepted_where_authentication_is_on(browser: Browser) -> None:
    assert browser.submit("/sign-in/name", name="m.muster").status_code == 400
    assert browser.submit("/sign-in/callback").status_code == 405
    assert "not set up" in browser.open("/sign-in/callback?state=1&code=2").text


def test_what_people_typed_is_shown_as_text(unguarded: TestClient) -> None:
    page = Browser(unguarded).open(str(httpx.URL("/sign-in", params={"next": "/'\"><script>alert(1)</script>"})))
    assert "<script>" not in page.text
