"""The limit of open connections: replacement of idle ones, probes beyond the limit, refusals."""

import resource
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from raw_http import all_that_comes, answers, connected, head, said
from receivers import certificates
from serving import Served, served
from test_tls import settings as tls_settings
from test_tls import trusting

from service.server.connections import connection_limit

LIMIT = 20
LIVE = head("/health/live", "Connection: close", method="GET", request_id="probe")
BUSY = head("/classify", "Content-Type: image/png", "Content-Length: 1000", "Expect: 100-continue")


@pytest.fixture
def service(artefact: Path) -> Iterator[Served]:
    with served(artefact, max_connections=str(LIMIT), request_timeout_s="20") as started:
        started.wait_listening()
        yield started


@contextmanager
def held(service: Served, count: int, sent: bytes) -> Iterator[None]:
    """A number of connections that have each sent these bytes and stay silent."""
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(connected(service))
            connection.sendall(sent)
            if sent is BUSY:
                assert b"100 Continue" in connection.recv(1000)
        yield


def counted(service: Served, name: str) -> float:
    [line] = [each for each in httpx.get(f"{service.url}/metrics").text.splitlines() if each.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("sent", [b"", b"GET /", head("/", method="GET")[:-2]], ids=["silent", "line", "head"])
def test_idle_connections_make_room_for_new_ones(service: Served, sent: bytes) -> None:
    with held(service, 3 * LIMIT, sent):
        for _ in range(5):
            [only] = said(service, LIVE)
            assert only.status == 200
        assert httpx.get(f"{service.url}/model").status_code == 200
        assert counted(service, "marrowlens_connections") <= LIMIT
        assert counted(service, 'marrowlens_connections_dropped_total{reason="idle"}') >= 2 * LIMIT
    assert counted(service, "marrowlens_connections_limit") == LIMIT
    service.wait_said(f"connections are open (limit {LIMIT}, ")
    assert (
        sum("connections are open" in line for line in service.lines) < LIMIT
    )  # rate-limited, not one line per connection


def test_the_one_that_is_idle_for_longest_goes_first(service: Served) -> None:
    with connected(service) as oldest, connected(service) as used, held(service, LIMIT - 2, b""):
        used.sendall(LIVE.replace(b"Connection: close\r\n", b""))
        assert b"200 OK" in used.recv(65536)
        [only] = said(service, LIVE)
        assert only.status == 200
        assert oldest.recv(100) == b""
        used.sendall(LIVE)
        [again] = answers(all_that_comes(used))
        assert again.status == 200


def test_when_all_are_busy_supervisors_alone_are_answered(service: Served) -> None:
    with held(service, LIMIT, BUSY):
        for target in ("/health/live", "/health/ready", "/metrics", "/v2/health/live"):
            [only] = said(service, head(target, method="GET"))
            assert only.status == 200 and "\r\nconnection: close\r\n" in only.text, target
        for target in ("/model", "/v2", "/nowhere"):
            [only] = said(service, head(target, method="GET", request_id="late"))
            assert (only.status, only.request_id) == (503, "late")
            assert "\r\nretry-after: 1\r\n" in only.text.lower()
            assert only.document()["type"] == "urn:problem-type:marrowlens:too-many-connections"
        assert counted(service, 'marrowlens_refusals_total{reason="too-many-connections"}') == 3
    service.wait_said("all are in use")
    while httpx.get(f"{service.url}/model").status_code == 503:
        pass  # until the other connections are closed


def test_a_flood_beyond_all_places_is_survived(service: Served) -> None:
    with held(service, LIMIT, BUSY), held(service, 10 * LIMIT, b""):
        [only] = said(service, LIVE)
        assert only.status == 200


def test_handshakes_that_do_not_end_make_room_too(artefact: Path, tmp_path: Path) -> None:
    ours = certificates(tmp_path / "ours")
    with served(artefact, max_connections=str(LIMIT), **tls_settings(ours)) as secured:
        secured.wait_listening()
        context: ssl.SSLContext = trusting(ours.ca)
        with held(secured, 3 * LIMIT, b""):
            assert httpx.get(f"{secured.url}/health/live", verify=context).status_code == 200
        text = httpx.get(f"{secured.url}/metrics", verify=context).text
        assert "\nmarrowlens_connections 1.0\n" in text and secured.stop() == 0


def test_no_more_connections_than_the_system_has_files(artefact: Path) -> None:
    with served(artefact, through=["prlimit", "--nofile=160"]) as started:
        started.wait_listening()
        started.wait_said(" lowered to 44 by the limit of open files")
        with held(started, 300, b""):
            [only] = said(started, LIVE)
            assert only.status == 200


def test_the_limit_of_files_is_raised_as_far_as_it_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(300, hard), hard))
        assert connection_limit(100) == 100 and resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        assert connection_limit(300) == 300 and resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 416
        assert connection_limit(hard) == hard - 116 and resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
