"""Answers before the end of the body: the client gets the problem, and the connection is closed."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from keys import entry, keys_file
from raw_http import all_that_comes, answers, chunked, connected, head, said
from receivers import certificates
from serving import Served, served
from test_tls import settings as tls_settings
from test_tls import trusting

KEY, RARE = "mlk_front", "mlk_rare"
KNOWN = f"Authorization: Bearer {KEY}"
#: Seconds, well above the limits of 2 s and 5 s of the service, for busy machines.
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def service(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = (entry(KEY, "front"), entry(RARE, "rare", rate_per_s=0.001, burst=1))
    ring = keys_file(tmp_path_factory.mktemp("keys"), *keys)
    with served(artefact, keys_file=str(ring), request_timeout_s="5", max_body_bytes="20000000") as started:
        started.wait_listening()
        yield started


#: Requests that are refused before their body is read, with the status.
EARLY = {
    401: ("/classify", "Content-Type: image/png"),
    403: ("/classify", "Sec-Fetch-Site: cross-site"),
    404: ("/nowhere", KNOWN),
    405: ("/health/live", "Content-Type: image/png"),
    415: ("/classify", f"{KNOWN}\r\nContent-Type: text/plain"),
}


@pytest.mark.parametrize("closing", [(), ("Connection: close",)], ids=["kept", "close"])
@pytest.mark.parametrize("status", EARLY)
@pytest.mark.parametrize("rest", [b"", b"x"], ids=["nothing", "one byte"])
def test_the_rest_of_a_body_is_not_waited_for(
    service: Served, status: int, rest: bytes, closing: tuple[str, ...]
) -> None:
    target, field = EARLY[status]
    for framing in ("Content-Length: 1000", "Transfer-Encoding: chunked"):
        with connected(service) as connection:
            connection.settimeout(PATIENCE_S)
            connection.sendall(head(target, field, framing, *closing))
            heard = connection.recv(65536)
            connection.sendall(rest)
            [only] = answers(heard + all_that_comes(connection))
        assert only.status == status and "\r\nconnection: close\r\n" in only.text
        assert only.document()["status"] == status


def test_of_connections_that_are_closed_none_is_left(service: Served) -> None:
    with ExitStack() as stack:
        for field in (
            "Content-Length: 1000",
            "Content-Length: 1000\r\nConnection: close",
            "Transfer-Encoding: chunked",
        ):
            connection = stack.enter_context(connected(service))
            connection.sendall(head("/classify", field))
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
            connection.sendall(b"1")
        headers = {"Authorization": f"Bearer {KEY}"}
        while "\nmarrowlens_connections 1.0\n" not in httpx.get(f"{service.url}/metrics", headers=headers).text:
            pass  # silent clients, until their lingering ends


def test_a_body_larger_than_allowed_is_refused_at_its_announcement(service: Served) -> None:
    for closing in ((), ("Connection: close",)):
        fields = (KNOWN, "Content-Type: image/png", "Content-Length: 15000000", *closing)
        [only] = said(service, head("/classify", *fields), bytes(15_000_000))
        assert only.status == 413 and only.document()["status"] == 413


def test_a_client_that_sends_on_is_not_read_for_ever(service: Served) -> None:
    with connected(service) as connection:
        connection.sendall(head("/classify", "Content-Type: image/png", "Content-Length: 1000000"))
        began_s = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < began_s + PATIENCE_S:
                connection.sendall(b"x")
                connection.settimeout(0.1)
                connection.recv(65536)


CLOSE = ("Connection: close",)


# A body of 1000 bytes may arrive together with its head; then it is whole, and the connection would be kept.
@pytest.mark.parametrize(
    ("size", "closing"),
    [(1000, CLOSE), (300_000, ()), (300_000, CLOSE), (15_000_000, ()), (15_000_000, CLOSE)],
)
def test_whoever_sends_all_before_reading_gets_the_problem(
    service: Served, size: int, closing: tuple[str, ...]
) -> None:
    [only] = said(service, head("/classify", f"Content-Length: {size}", *closing), bytes(size))
    assert only.status == 401 and only.document()["type"].endswith(":unauthorised")
    [only] = said(service, head("/classify", "Transfer-Encoding: chunked", *closing), chunked(bytes(size)))
    assert only.status == 401


def test_nothing_is_answered_behind_a_body_that_was_not_read(service: Served) -> None:
    behind = head("/health/live", method="GET", request_id="behind")
    for body, framing in ((b"x" * 10, "Content-Length: 10"), (chunked(b"x" * 10), "Transfer-Encoding: chunked")):
        with connected(service) as connection:
            connection.sendall(head("/classify", framing))
            heard = connection.recv(65536)
            connection.sendall(body + behind)
            assert [each.request_id for each in answers(heard + all_that_comes(connection))] == ["first"]


def test_a_body_that_has_come_leaves_the_connection_open(service: Served) -> None:
    last = head("/health/live", "Connection: close", method="GET", request_id="last")
    found = said(service, head("/classify", "Content-Length: 10") + b"x" * 10 + last)
    assert [(each.status, each.request_id) for each in found] == [(401, "first"), (200, "last")]


def test_who_is_over_the_limit_of_requests_is_closed_too(service: Served) -> None:
    fields = (f"Authorization: Bearer {RARE}", "Content-Type: text/plain", "Content-Length: 1000")
    statuses = [answer.status for _ in range(3) for answer in said(service, head("/classify", *fields))]
    assert set(statuses) == {415, 429} and len(statuses) == 3


@pytest.mark.slow
def test_over_tls_too(artefact: Path, tmp_path: Path) -> None:
    ours = certificates(tmp_path / "ours")
    with served(artefact, request_timeout_s="5", **tls_settings(ours)) as secured:
        secured.wait_listening()
        context = trusting(ours.ca)
        for size in (1, 300_000):
            with connected(secured, context) as connection:
                connection.settimeout(PATIENCE_S)
                connection.sendall(head("/nowhere", "Content-Length: 1000000"))
                connection.sendall(bytes(size))
                [only] = answers(all_that_comes(connection))
            assert only.status == 404 and only.document()["status"] == 404
        assert httpx.get(f"{secured.url}/health/live", verify=context).status_code == 200


@pytest.mark.slow
def test_a_closed_connection_whose_answer_nobody_reads_ends(artefact: Path) -> None:
    with served(artefact, request_timeout_s="0.5") as patient:
        patient.wait_listening()
        large = head("/docs/static/swagger-ui-bundle.js", method="GET")
        with connected(patient) as connection:
            connection.sendall(large * 30 + head("/health/live", "Connection: close", method="GET"))
            patient.wait_said("the client does not read its answer")
        text = httpx.get(f"{patient.url}/metrics").text
    assert "\nmarrowlens_connections 1.0\n" in text
