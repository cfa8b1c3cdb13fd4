"""Sign-in at an issuer by the authorization code flow, and requests by session."""

import itertools
import operator
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest
from issuer import AUDIENCE, CLIENT_ID, CLIENT_SECRET, Issuer, issuer
from keys import bearer
from serving import client, refused
from session_client import Browser
from starlette.testclient import TestClient

from service.auth import sessions
from service.concurrency.worker import Worker
from service.web.session.routes import local_path

NUMBERS = itertools.count(1)
ROLES = "lab-doctor=review+sign,lab-reader=read,lab-lead=operate"
NEXT = ("/lab", "/lab?state=open&number=BM-1", "/sign-in/done")
#: Addresses that must not be followed after a sign-in.
ELSEWHERE = (
    "https://evil.example",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "javascript:alert(1)",
    "lab",
    "",
    "/" + "x" * 3000,
)


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    with issuer() as started:
        yield started


@pytest.fixture(scope="module", params=["alone", "worker"])
def service(
    artefact: Path, shared_issuer: Issuer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[TestClient]:
    """A process that serves alone, and one of several, which keeps sessions in a file."""
    folder = tmp_path_factory.mktemp("lab")
    worker = Worker(0, 2, folder) if request.param == "worker" else None
    with client(artefact, worker=worker, **settings(shared_issuer, folder)) as started:
        yield started


@pytest.fixture
def issuing(shared_issuer: Issuer) -> Issuer:
    shared_issuer.person = {"sub": "subject-1", "preferred_username": "m.muster", "roles": ["lab-doctor"]}
    shared_issuer.falsified, shared_issuer.authorizations, shared_issuer.exchanges = {}, [], []
    return shared_issuer


@pytest.fixture
def browser(service: TestClient, issuing: Issuer) -> Browser:  # noqa: ARG001 (resets the issuer)
    service.cookies.clear()
    table_of(service).clock = time.time
    return Browser(service)


def settings(issuing: Issuer, folder: Path, **more: Any) -> dict[str, Any]:
    lab = {"database": f"sqlite:///{folder / 'lab.db'}"}
    return {
        "oidc_issuer": issuing.url,
        "oidc_audience": AUDIENCE,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": CLIENT_SECRET,
        "oidc_roles": ROLES,
        "public_url": "http://localhost",
        "lis": lab,
        **more,
    }


def table_of(http: TestClient) -> sessions.SessionTable:
    table: sessions.SessionTable = http.app.state.sign_in.table  # type: ignore[attr-defined]
    return table


def opened(browser: Browser, headers: dict[str, str] | None = None) -> httpx.Response:
    number = f"BM-{next(NUMBERS)}"
    return browser.send("POST", "/specimens", {"number": number, "patient": {"identifier": "1"}}, headers)


def explained(answer: httpx.Response, status: int) -> str:
    """The error that a page shows."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    [text] = re.findall('<p class="alert" role="alert">(.*)</p>', answer.text)
    return str(text)


def test_a_person_signs_in_at_the_issuer_and_works_by_session(browser: Browser, issuing: Issuer) -> None:
    refused(browser.open("/specimens"), 401, "unauthorised")
    answer = browser.sign_in("/sign-in?next=/lab")
    assert (answer.status_code, answer.headers["location"]) == (303, "/lab")
    found = browser.session()
    assert found["person"]["name"] == "m.muster" and found["person"]["verified"] is True
    assert found["person"]["roles"] == ["read", "review", "sign"] and found["methods"] == ["issuer"]
    specimen = opened(browser)
    assert specimen.status_code == 201, specimen.text
    [row] = browser.open(f"/specimens/{specimen.json()['id']}/audit").json()["entries"]
    assert row["actor"] == "m.muster"
    assert (row["identity"]["kind"], row["identity"]["subject"]) == ("token", "subject-1")
    [asked] = issuing.authorizations
    assert asked["code_challenge_method"] == "S256" and "openid" in asked["scope"]
    assert "code_verifier" in issuing.exchanges[0] and "client_secret" not in issuing.exchanges[0]


def test_the_cookie_is_out_of_reach_of_scripts_and_other_hosts(artefact: Path, issuing: Issuer, tmp_path: Path) -> None:
    chosen = settings(issuing, tmp_path, public_url="https://cells.example")
    with client(artefact, **chosen) as http:
        http.base_url = "https://cells.example"
        answer = Browser(http).sign_in()
        [set_cookie] = [each for each in answer.headers.get_list("set-cookie") if "session" in each]
        name, *attributes = set_cookie.split("; ")
        assert name.startswith("__Host-marrowlens-session=") and len(name) > 60
        assert {each.lower() for each in attributes} == {"httponly", "path=/", "samesite=lax", "secure"}
        assert Browser(http).session()["person"]["name"] == "m.muster"


@pytest.mark.parametrize("path", NEXT)
def test_a_sign_in_continues_at_a_path_of_this_service(browser: Browser, path: str) -> None:
    assert browser.sign_in(str(httpx.URL("/sign-in", params={"next": path}))).headers["location"] == path


@pytest.mark.parametrize("address", ELSEWHERE)
def test_a_sign_in_never_continues_elsewhere(browser: Browser, address: str) -> None:
    assert local_path(address) == "/"
    assert browser.sign_in(str(httpx.URL("/sign-in", params={"next": address}))).headers["location"] == "/"


def test_a_state_of_no_sign_in_is_refused(browser: Browser) -> None:
    path = browser.to_issuer()
    assert "unknown" in explained(browser.open(re.sub("state=[^&]+", "state=made-up", path)), 400)
    assert "person" not in browser.session()


def test_an_answer_is_taken_once(browser: Browser) -> None:
    path = browser.to_issuer()
    assert browser.open(path).status_code == 303
    assert "already completed" in explained(browser.open(path), 400)


def test_a_code_of_another_sign_in_is_refused(browser: Browser) -> None:
    first = browser.to_issuer()
    code = parse_qs(urlsplit(first).query)["code"][0]
    assert browser.open(first).status_code == 303
    replayed = re.sub("code=[^&]+", f"code={code}", browser.to_issuer())
    assert "not accepted" in explained(browser.open(replayed), 400)


def test_a_code_that_was_asked_for_with_another_challenge_is_refused(browser: Browser) -> None:
    codes = [parse_qs(urlsplit(browser.to_issuer()).query)["code"][0] for _ in range(2)]
    crossed = re.sub("code=[^&]+", f"code={codes[0]}", browser.to_issuer())
    assert "not accepted" in explained(browser.open(crossed), 400)


def test_an_issuer_that_misses_the_challenge_answers_with_an_error(browser: Browser) -> None:
    began = browser.open("/sign-in").headers["location"]
    without = re.sub("&code_challenge=[^&]+", "", began)
    back = urlsplit(httpx.get(without, follow_redirects=False).headers["location"])
    assert "could not sign you in" in explained(browser.open(f"{back.path}?{back.query}"), 400)


@pytest.mark.parametrize(
    ("falsified", "said"),
    [
        ({"nonce": "of another sign-in"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": AUDIENCE}, "not accepted"),
        ({"iss": "https://elsewhere.example"}, "not accepted"),
        ({"exp": 1}, "not accepted"),
        ({"azp": "another client"}, "azp"),
        ({"preferred_username": "m.\u202emuster"}, "U+202E"),
    ],
)
def test_an_id_token_that_does_not_fit_is_refused(
    browser: Browser, issuing: Issuer, falsified: dict[str, Any], said: str
) -> None:
    issuing.falsified = falsified
    answer = browser.sign_in()
    assert said in explained(answer, answer.status_code) and answer.status_code in (400, 401)
    assert "person" not in browser.session()


def test_an_answer_of_another_browser_is_refused(browser: Browser) -> None:
    path = browser.to_issuer()
    browser.client.cookies.clear()
    assert "another browser" in explained(browser.open(path), 400)


def test_an_answer_of_another_issuer_is_refused(browser: Browser) -> None:
    path = re.sub("iss=[^&]+", "iss=https://evil.example", browser.to_issuer())
    assert "another issuer" in explained(browser.open(path), 400)


def test_two_tabs_sign_in_side_by_side(browser: Browser) -> None:
    one, two = browser.to_issuer("/sign-in?next=/one"), browser.to_issuer("/sign-in?next=/two")
    assert browser.open(one).headers["location"] == "/one"
    token = browser.csrf()
    assert browser.open(two).headers["location"] == "/two"
    assert browser.csrf() == token, "a page that is open goes on after the same person signs in again"
    assert opened(browser, token).status_code == 201


def test_another_person_gets_another_csrf_token(browser: Browser, issuing: Issuer) -> None:
    browser.sign_in()
    token = browser.csrf()
    issuing.person |= {"sub": "subject-2", "preferred_username": "e.beispiel"}
    browser.sign_in()
    refused(opened(browser, token), 403, "csrf-rejected")


def test_a_session_never_begins_under_a_cookie_that_was_there(browser: Browser) -> None:
    fixed, table = "A" * 43, table_of(browser.client)
    path = browser.to_issuer()
    browser.client.cookies.set(sessions.COOKIE, fixed)
    answer = browser.open(path)
    value = answer.cookies[sessions.COOKIE]
    assert value != fixed and table.find(fixed) is None and table.find(value) is not None
    browser.client.cookies.delete(sessions.COOKIE, domain="")
    browser.sign_in()
    assert table.find(value) is None, "a new sign-in ends the session before it"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "made up"},
        {"X-CSRF-Token": "é"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://localhost:9999"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_a_change_by_cookie_needs_the_token_and_the_origin(browser: Browser, headers: dict[str, str]) -> None:
    browser.sign_in()
    sent = (browser.csrf() if "X-CSRF-Token" not in headers and headers else {}) | headers
    answer = browser.client.post(
        "/specimens",
        json={"number": "BM-1", "patient": {"identifier": "1"}},
        headers={name: value.encode() for name, value in sent.items()},
    )
    refused(answer, 403, "forbidden" if headers.get("Sec-Fetch-Site") == "same-site" else "csrf-rejected")
    same = browser.csrf() | {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert opened(browser, same).status_code == 201


def test_a_key_or_token_needs_no_csrf_token(browser: Browser, issuing: Issuer) -> None:
    browser.sign_in()
    claims = {"preferred_username": "e.beispiel", "roles": ["lab-doctor"], "scope": ""}
    assert opened(browser, bearer(issuing.token(claims))).status_code == 201


def test_a_session_ends_when_it_is_idle(browser: Browser) -> None:
    table = table_of(browser.client)
    browser.sign_in()
    token, now_s = browser.csrf(), table.clock()
    table.clock = lambda: now_s + 1700
    assert opened(browser, token).status_code == 201
    table.clock = lambda: now_s + 1700 + 1700
    assert browser.open("/specimens", headers={"X-Background-Request": "1"}).status_code == 200
    table.clock = lambda: now_s + 1700 + 1801
    refused(opened(browser, token), 401, "session-expired")
    assert "person" not in browser.session()
    browser.sign_in()
    refused(opened(browser, token), 403, "csrf-rejected")
    assert opened(browser).status_code == 201, "after a new sign-in the request can be repeated"


def test_a_session_outlives_its_id_token(browser: Browser, issuing: Issuer) -> None:
    issuing.falsified = {"exp": int(time.time()) - 10}  # within the tolerated difference of the clocks
    browser.sign_in()
    value = browser.client.cookies[sessions.COOKIE]
    found = table_of(browser.client).find(value)
    assert found is not None and found.caller.ends_at_s is None, "a stream would end with the token"


def test_a_session_ends_however_much_it_is_used(browser: Browser) -> None:
    table = table_of(browser.client)
    browser.sign_in()
    now_s = table.clock()
    for passed_s in range(1500, 43_200, 1500):
        table.clock = partial(operator.add, now_s, passed_s)
        assert browser.open("/specimens").status_code == 200
    table.clock = partial(operator.add, now_s, 43_201)
    refused(browser.open("/specimens"), 401, "session-expired")


def test_signing_needs_a_recent_authentication(browser: Browser, issuing: Issuer) -> None:
    table = table_of(browser.client)
    browser.sign_in()
    specimen = opened(browser).json()["id"]
    token, now_s = browser.csrf(), table.clock()
    path, body = f"/specimens/{specimen}/sign", {"revision": 1}
    assert browser.send("POST", path, body).status_code == 409  # no cell is counted: it was let in
    table.clock = lambda: now_s + 301
    refused(browser.send("POST", path, body), 401, "authentication-too-old")
    assert browser.open("/specimens").status_code == 200
    issuing.falsified = {"auth_time": int(now_s + 301)}
    assert browser.sign_in("/sign-in?again=true&next=/sign-in/done").headers["location"] == "/sign-in/done"
    assert (issuing.authorizations[-1]["prompt"], issuing.authorizations[-1]["max_age"]) == ("login", "0")
    assert browser.send("POST", path, body, token).status_code == 409, "the open page goes on with its token"


@pytest.mark.parametrize(("auth_time", "said"), [(None, "auth_time"), (1, "did not ask")])
def test_an_authentication_that_was_not_repeated_is_refused(
    browser: Browser, issuing: Issuer, auth_time: object, said: str
) -> None:
    issuing.falsified = {"auth_time": auth_time}
    browser.sign_in()
    refused(browser.send("POST", f"/specimens/{'0' * 32}/sign", {"revision": 1}), 401, "authentication-too-old")
    assert said in explained(browser.sign_in("/sign-in?again=true"), 400)


def test_a_person_signs_out_here_and_at_the_issuer(browser: Browser, issuing: Issuer) -> None:
    refused(browser.send("POST", "/sign-out", headers={}), 401, "session-expired")
    browser.sign_in()
    refused(browser.send("POST", "/sign-out", headers={}), 403, "csrf-rejected")
    token = browser.csrf()
    address = urlsplit(browser.send("POST", "/sign-out").json()["issuer_sign_out"])
    assert address.geturl().startswith(f"{issuing.url}/end?")
    assert parse_qs(address.query)["post_logout_redirect_uri"] == ["http://localhost/"]
    assert opened(browser, token).status_code == 401


def test_roles_are_those_of_the_claim(browser: Browser, issuing: Issuer) -> None:
    issuing.person["roles"] = ["lab-reader", "another"]
    browser.sign_in()
    assert browser.open("/specimens").status_code == 200
    assert "role review" in refused(opened(browser), 403, "role-missing").detail
    assert "role operate" in refused(browser.open("/readings"), 403, "role-missing").detail
    issuing.person["roles"] = ["lab-lead"]
    browser.sign_in()
    assert browser.open("/readings/agreement").json()["cells"] == 0
    issuing.person["roles"] = []
    browser.sign_in()
    assert "role read" in refused(browser.open("/specimens"), 403, "role-missing").detail


def test_a_silent_issuer_is_explained(artefact: Path, issuing: Issuer, tmp_path: Path) -> None:
    issuing.silent = True
    with client(artefact, **settings(issuing, tmp_path)) as http:
        assert "does not respond" in explained(Browser(http).open("/sign-in"), 503)


def test_the_page_has_no_inline_script_and_its_files_are_here(artefact: Path) -> None:
    with client(artefact) as http:
        for path in ("/sign-in", "/sign-in/done"):
            page = http.get(path)
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert (
                page.headers["cache-control"] == "no-store" and "<style" not in page.text and " style=" not in page.text
            )
            for file in re.findall('(?:href|src)="([^"?]+[.](?:js|css|svg))"', page.text):
                assert http.get(urljoin(path, file)).status_code == 200, file
