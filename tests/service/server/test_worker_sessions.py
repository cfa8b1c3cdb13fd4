"""Browser sessions of a service with several workers are those of the service, whichever worker a connection has."""

import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx
import pytest
from issuer import AUDIENCE, CLIENT_ID, CLIENT_SECRET, Issuer, issuer
from keys import bearer, entry, keys_file
from ndjson_client import chunk, line
from serving import Served, refused
from worker_processes import kill, pids, ready, until, workers

from service.auth.sessions import COOKIE, CSRF_HEADER

KEY = "mlk_doctor"
STREAM = (
    "POST /classify/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
    "transfer-encoding: chunked\r\naccept: application/x-ndjson\r\n"
)


@pytest.fixture(scope="module")
def issuing() -> Iterator[Issuer]:
    with issuer() as started:
        started.person = {"sub": "subject-1", "preferred_username": "m.muster", "roles": ["lab-doctor"]}
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers have their folder."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def pair(artefact: Path, issuing: Issuer, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys")
    settings = {
        "keys_file": str(keys_file(keys, entry(KEY, "doctor", ["classify", "specimens"], person=True))),
        "oidc_issuer": issuing.url,
        "oidc_audience": AUDIENCE,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": CLIENT_SECRET,
        "oidc_roles": "lab-doctor=review+sign",
        "public_url": "http://localhost",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        with workers(artefact, "--access-log", **settings) as started:
            yield started


def sign_in(service: Served, key: str = KEY, address: str = "127.0.0.1") -> httpx.Response:
    """Sign in with a key, from an address of this machine."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address)) as http:
        headers = {"Origin": service.url, "Sec-Fetch-Site": "same-origin"}
        return http.post(f"{service.url}/sign-in/key", data={"key": key}, headers=headers)


def statuses(service: Served, cookie: str, path: str = "/model") -> list[int]:
    """The answers of 20 requests with a session's cookie, each on a new connection; some are open at once."""
    answers = []
    for _ in range(5):
        with ExitStack() as stack:
            cookies = {COOKIE: cookie}
            clients = [stack.enter_context(httpx.Client(base_url=service.url, cookies=cookies)) for _ in range(4)]
            answers += [client.get(path).status_code for client in clients]
    return answers


def sign_out(service: Served, cookie: str) -> httpx.Response:
    with httpx.Client(base_url=service.url, cookies={COOKIE: cookie}) as http:
        token = http.get("/session").json()["csrf_token"]
        return http.post("/sign-out", headers={CSRF_HEADER: token})


def test_all_workers_know_a_session_until_it_is_ended_by_one(pair: Served) -> None:
    said = len(pair.lines)
    cookie = sign_in(pair).cookies[COOKIE]
    assert statuses(pair, cookie) == [200] * 20
    for index in range(2):
        pair.wait_said(f" worker {index} service.requests: GET /model 200", said)
    assert sign_out(pair, cookie).status_code == 200
    assert statuses(pair, cookie) == [401] * 20


def test_a_killed_worker_loses_no_session(pair: Served) -> None:
    cookie = sign_in(pair).cookies[COOKIE]
    for killed in pids(pair):
        kill(pair, killed)
        assert httpx.get(f"{pair.url}/model", cookies={COOKIE: cookie}).status_code == 200
        until(lambda: len(pids(pair)) == 2 and ready(pair))
    assert statuses(pair, cookie) == [200] * 20


def test_one_worker_completes_a_sign_in_that_another_one_began(pair: Served) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=pair.url)) for _ in range(4)]
        began = [client.get("/sign-in?method=issuer") for client in clients]
        for at, answer in enumerate(began):
            asked = httpx.get(answer.headers["location"]).headers["location"]
            other = clients[at - 1]  # its connection is to the other worker, or was
            other.cookies = answer.cookies
            back = other.get(f"/sign-in/callback?{urlsplit(asked).query}")
            assert back.status_code == 303, back.text
            assert other.get("/session").json()["person"]["name"] == "m.muster"
            assert "already completed" in clients[at].get(f"/sign-in/callback?{urlsplit(asked).query}").text


def begin_stream(service: Served, cookie: str, picture: bytes, stack: ExitStack) -> BinaryIO:
    """Send the first picture of a stream by cookie, and return its answer once that has begun."""
    url = httpx.URL(service.url)
    token = httpx.get(f"{service.url}/session", cookies={COOKIE: cookie}).json()["csrf_token"]
    connection = stack.enter_context(socket.create_connection((url.host, url.port or 80), timeout=60))
    connection.sendall(f"{STREAM}cookie: {COOKIE}={cookie}\r\n{CSRF_HEADER}: {token}\r\n\r\n".encode())
    connection.sendall(chunk(line(picture)))
    answer = stack.enter_context(connection.makefile("rb"))
    assert b" 200 " in answer.readline()
    return answer


def test_a_sign_out_ends_the_open_streams_of_all_workers(pair: Served, draw: Callable[[int], bytes]) -> None:
    cookie = sign_in(pair).cookies[COOKIE]
    with ExitStack() as stack:
        streams = [begin_stream(pair, cookie, draw(1), stack) for _ in range(2)]
        assert sign_out(pair, cookie).status_code == 200
        for stream in streams:
            assert b"session-expired" in stream.read()


def test_a_file_that_cannot_be_used_lets_nobody_in_by_session(
    pair: Served, folder: Path, draw: Callable[[int], bytes]
) -> None:
    cookie = sign_in(pair).cookies[COOKIE]
    [file] = folder.glob("marrowlens-*/sessions.sqlite")
    with closing(sqlite3.connect(file)) as database, ExitStack() as stack:
        stream = begin_stream(pair, cookie, draw(1), stack)
        database.execute("ALTER TABLE records RENAME TO lost")
        try:
            answer = httpx.get(f"{pair.url}/model", cookies={COOKIE: cookie})
            assert "browser sessions" in refused(answer, 503, "not-ready").detail
            assert answer.headers["retry-after"] == "1"
            assert b"not-ready" in stream.read()
            assert sign_in(pair).status_code == 503
            assert httpx.get(f"{pair.url}/model", headers=bearer(KEY)).status_code == 200
        finally:
            database.execute("ALTER TABLE lost RENAME TO records")
    assert statuses(pair, cookie) == [200] * 20


def test_attempts_to_sign_in_are_counted_over_all_workers(pair: Served) -> None:
    answers = [sign_in(pair, "mlk_made-up", "127.0.0.2").status_code for _ in range(12)]
    assert answers == [401] * 10 + [429] * 2
    assert httpx.get(f"{pair.url}/model", headers=bearer(KEY)).status_code == 200
