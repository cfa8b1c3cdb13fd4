"""Limits of request heads, keep-alive, and garbage collection of the server process."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from raw_http import connected, raw_answer, said
from serving import Served, served

from service.config.settings import Settings
from service.server.http_limits import MAX_HEAD_BYTES

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
MINE = b"X-Request-ID: mine\r\n"


@pytest.fixture(scope="module")
def service(artefact: Path) -> Iterator[Served]:
    with served(artefact, "--access-log", request_timeout_s="0.5") as started:
        started.wait_listening()
        yield started


def filler(size: int) -> bytes:
    return b"".join(b"X-%d: %s\r\n" % (at, b"a" * 90) for at in range(size // 100))


def test_a_head_as_long_as_allowed_is_read(service: Served) -> None:
    answer = raw_answer(service, LIVE + filler(MAX_HEAD_BYTES - 8192) + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "pieces",
    [
        (LIVE + filler(2 * MAX_HEAD_BYTES) + b"\r\n",),
        (LIVE, *[filler(10_000)] * 200),
        (LIVE + b"X: ", *[b"a" * 10_000] * 200),
        (b"GET /", *[b"a" * 10_000] * 200),
    ],
    ids=["at once", "header by header", "one header", "target"],
)
def test_a_longer_one_is_refused_before_it_ends(service: Served, pieces: tuple[bytes, ...]) -> None:
    answer = raw_answer(service, *pieces)
    assert answer.startswith(b"HTTP/1.1 431 ") or not answer  # a reset may overtake the answer
    assert httpx.get(f"{service.url}/health/live").status_code == 200


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET", LIVE, LIVE + b"X: a", LIVE + b"\r\n" + LIVE])
def test_a_head_that_does_not_come_is_not_waited_for(service: Served, begun: bytes) -> None:
    assert b"HTTP/1.1 408 Request Timeout" in raw_answer(service, begun)


def test_a_body_may_take_longer_than_a_head(service: Served) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
    assert b"urn:problem-type:marrowlens:upload-too-slow" in raw_answer(service, head)


def test_many_requests_at_once_are_not_one_long_head(service: Served) -> None:
    requests = (LIVE + b"\r\n") * 5000 + LIVE + b"Connection: close\r\n\r\n"
    assert raw_answer(service, requests).count(b"HTTP/1.1 200 ") == 5001


@pytest.mark.parametrize("rest", [b"\0\0\0", b"GET /" + b"a" * 2 * MAX_HEAD_BYTES])
def test_what_follows_a_request_does_not_spoil_its_answer(service: Served, rest: bytes) -> None:
    assert raw_answer(service, LIVE + b"\r\n" + rest).startswith(b"HTTP/1.1 200 ")


def test_what_is_no_http_is_a_problem_too(service: Served) -> None:
    answer = raw_answer(service, b"\x16\x03\x01\x02\x00\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("sent", "status", "reason", "logged"),
    [
        (b"\x16\x03\x01\r\n\r\n", 400, "bad-request", "- other 400"),
        (b"", 408, "request-timeout", "- other 408"),
        (LIVE + MINE + b"X: a", 408, "request-timeout", "GET other 408"),
        (
            LIVE + b"X-Request-ID: mine\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
            431,
            "request-header-fields-too-large",
            "GET other 431",
        ),
    ],
    ids=["no http", "silent", "cut off", "too long"],
)
def test_what_is_refused_below_the_routes_is_answered_counted_and_logged_like_all(
    service: Served, sent: bytes, status: int, reason: str, logged: str
) -> None:
    before = len(service.lines)
    [only] = said(service, sent)
    assert only.status == status and only.document()["type"] == f"urn:problem-type:marrowlens:{reason}"
    assert only.request_id == only.document()["request_id"] and len(only.request_id) in (4, 32)
    assert (only.request_id == "mine") is (b"mine" in sent)
    for field in ("cache-control: no-store", "x-content-type-options: nosniff", "x-frame-options: DENY", "date: "):
        assert f"\r\n{field}" in f"\r\n{only.text}"
    service.wait_said(only.request_id, after=before)
    assert any(
        only.request_id in line and logged in line and " by 127.0.0.1 " in line for line in service.lines[before:]
    )
    text = httpx.get(f"{service.url}/metrics").text
    assert f'marrowlens_refusals_total{{reason="{reason}"}}' in text
    assert f'marrowlens_requests_total{{route="other",status="{status}"}}' in text
    assert not any("WARNING" in line for line in service.lines[before:])


def test_an_idle_connection_is_kept_for_as_long_as_is_set(artefact: Path) -> None:
    with served(artefact, keep_alive_s="0.2") as hasty:
        hasty.wait_listening()
        assert raw_answer(hasty, LIVE + b"\r\n").count(b"HTTP/1.1 200 ") == 1  # then closed by the service
    assert Settings().keep_alive_s > 60  # the keep-alive of nginx, AWS and GCP, or longer


def test_head_requests_are_answered_without_a_word_in_the_log(service: Served) -> None:
    with httpx.Client(base_url=service.url) as http:
        assert [http.head(path).status_code for path in ("/health/live", "/nowhere", "/health/live")] == [200, 404, 200]
    assert not any("ERROR" in line for line in service.lines)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="packets are counted by Linux's TCP_INFO")
def test_head_and_body_come_in_one_packet(service: Served) -> None:
    with connected(service) as connection:
        for count, path in enumerate((b"/health/live", b"/classes", b"/nowhere"), start=1):
            connection.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            heard = connection.recv(65536)
            while not heard.endswith(b"}"):
                heard += connection.recv(65536)
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
            assert int.from_bytes(info[152:156], sys.byteorder) == count  # tcpi_data_segs_in


@pytest.mark.parametrize(
    ("request_line", "hosts", "status"),
    [("HTTP/1.1", 0, 400), ("HTTP/1.1", 1, 200), ("HTTP/1.1", 2, 400), ("HTTP/1.0", 0, 200), ("HTTP/1.0", 2, 400)],
)
def test_a_request_names_one_host(service: Served, request_line: str, hosts: int, status: int) -> None:
    sent = f"GET /health/live {request_line}\r\n" + "Host: localhost\r\n" * hosts + "Connection: close\r\n\r\n"
    assert raw_answer(service, sent.encode()).startswith(f"HTTP/1.1 {status} ".encode())


FROZEN = """
import gc, weakref
from service.cli.fast_import import fast_import
with fast_import():
    from service import app
from service.server.uvicorn_server import freeze_startup_objects

class Ring:
    def __init__(self):
        self.itself = self

freeze_startup_objects()
left, frozen = len(gc.get_objects()), gc.get_freeze_count()
ring = weakref.ref(Ring())
gc.collect()
print(left, frozen, ring() is None, gc.isenabled())
"""


def test_garbage_collection_skips_startup_objects_and_finds_later_ones() -> None:
    ran = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, check=True)
    left, frozen, collected, enabled = ran.stdout.split()
    assert int(left) < 100 and int(frozen) > 50_000
    assert collected == enabled == "True"
