"""Framing of requests against smuggling: upgrade offers, trailers, ambiguous lengths."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from raw_http import all_that_comes, answers, chunked, connected, head, said, said_after_continue
from serving import Served, served, zipped

Draw = Callable[..., bytes]
#: A body that looks like a request and must never be answered.
INNER = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: smuggled\r\n\r\n"
LAST = head("/health/live", "Connection: close", method="GET", request_id="last")
OFFERS = ["h2c", "H2C", "websocket", "TLS/1.0", "TLS/1.2, HTTP/1.1", "anything", "x, y"]
CONNECTIONS = ["Upgrade", "upgrade, HTTP2-Settings", "keep-alive, Upgrade"]
TARGETS = {
    "/classify": "image/png",
    "/classify?maps=none": "image/png",
    "/classify/batch": "application/zip",
    "/v2/models/x/infer": "application/json",
    "/nowhere": "text/plain",
}


@pytest.fixture(scope="module")
def service(artefact: Path) -> Iterator[Served]:
    with served(artefact, "--access-log", request_timeout_s="5") as started:
        started.wait_listening()
        yield started


def offering(target: str, media_type: str, offer: str, connection: str, *fields: str) -> bytes:
    return head(target, f"Connection: {connection}", f"Upgrade: {offer}", f"Content-Type: {media_type}", *fields)


def framed(body: bytes, *, in_chunks: bool) -> tuple[str, bytes]:
    if in_chunks:
        return "Transfer-Encoding: chunked", chunked(body[:7], body[7:])
    return f"Content-Length: {len(body)}", body


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("offer", OFFERS)
def test_the_body_behind_an_offered_upgrade_is_no_request(
    service: Served, offer: str, target: str, in_chunks: bool
) -> None:
    field, body = framed(INNER, in_chunks=in_chunks)
    for connection in CONNECTIONS:
        first = offering(target, TARGETS[target], offer, connection, field)
        found = said(service, first + body + LAST)
        assert [each.request_id for each in found] == ["first", "last"]
        assert found[0].status in (404, 415, 422), found[0]
        assert "empty" not in found[0].text


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("offer", OFFERS)
def test_nor_is_it_when_it_comes_later(service: Served, offer: str, in_chunks: bool) -> None:
    for target in ("/classify", "/classify/batch"):
        field, body = framed(INNER, in_chunks=in_chunks)
        first = offering(target, TARGETS[target], offer, "Upgrade", field, "Expect: 100-continue")
        found = said_after_continue(service, first, body[:20], body[20:], LAST)
        assert [each.request_id for each in found] == ["first", "last"]
        assert found[0].status in (415, 422) and "empty" not in found[0].text


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunked"])
def test_requests_that_offer_an_upgrade_are_answered_like_others(service: Served, draw: Draw, in_chunks: bool) -> None:
    sent: list[bytes] = []
    for at in range(5):
        field, body = framed(draw(at), in_chunks=in_chunks)
        fields = ("Connection: Upgrade", "Upgrade: h2c", "Content-Type: image/png", field)
        sent.append(head("/classify?maps=none", *fields, request_id=str(at)) + body)
    found = said(service, b"".join(sent) + LAST)
    assert [(each.status, each.request_id) for each in found] == [
        *((200, str(at)) for at in range(5)),
        (200, "last"),
    ]
    plain = httpx.post(f"{service.url}/classify?maps=none", content=draw(3), headers={"Content-Type": "image/png"})
    assert found[3].document()["prediction"] == plain.json()["prediction"]


def test_streams_and_archives_may_offer_an_upgrade_too(service: Served, draw: Draw) -> None:
    line = json.dumps({"image": b64encode(draw(1)).decode()}).encode() + b"\n"
    for media_type, pictures in (
        ("application/x-ndjson", line * 3),
        ("application/zip", zipped([(str(at), draw(at)) for at in range(3)])),
    ):
        field, body = framed(pictures, in_chunks=media_type == "application/x-ndjson")
        first = offering("/classify/batch?maps=none", media_type, "h2c", "Upgrade", field)
        found = said(service, first + body + LAST)
        assert [(each.status, each.request_id) for each in found] == [(200, "first"), (200, "last")]
        assert '"pictures":3' in found[0].text


def test_thousands_of_offers_at_once_are_thousands_of_requests(service: Served) -> None:
    offer = head("/health/live", "Connection: Upgrade", "Upgrade: h2c", method="GET")
    assert len(said(service, offer * 2000 + LAST)) == 2001


@pytest.mark.parametrize("target", ["/classify", "localhost:80", "/health/live"])
def test_there_are_no_tunnels(service: Served, target: str) -> None:
    [only] = said(service, head(target, "Content-Length: 0", method="CONNECT") + INNER)
    assert only.status == 400 and "CONNECT is not supported" in only.text


@pytest.mark.parametrize(
    "pieces",
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",),
        (b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"),
        (INNER.replace(b"HTTP/1.1", b"HTTP/2.0"),),
    ],
)
def test_http_2_is_refused_in_words(service: Served, pieces: tuple[bytes, ...]) -> None:
    [only] = said(service, *pieces)
    assert only.status == 400 and "send HTTP/1.1" in only.text and "HTTP/2" in only.text


AMBIGUOUS = [
    ("Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n"),
    ("Content-Length: 0\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    ("Content-Length: 3\r\nContent-Length: 3", b"abc"),
    ("Content-Length: 3, 3", b"abc"),
    ("Content-Length: +3", b"abc"),
    ("Content-Length: 3\r\n 9", b"abc"),
    ("Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding: chunked, chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding: chunked, identity", b"0\r\n\r\n"),
    ("Transfer-Encoding: identity", b"0\r\n\r\n"),
    ("Transfer-Encoding: xchunked", b"0\r\n\r\n"),
    ("Transfer-Encoding:\r\n chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding : chunked", b"0\r\n\r\n"),
    ("Transfer-Encoding: chunked", b"1\na\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", b"1\r\na\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", b"1;a\nb\r\na\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", b"0x1\r\na\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", b"10000000000000001\r\na\r\n0\r\n\r\n"),
    ("Host: elsewhere", b""),
    ("X: a\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    ("X: a\rTransfer-Encoding: chunked", b"0\r\n\r\n"),
]


@pytest.mark.parametrize(("fields", "body"), AMBIGUOUS)
@pytest.mark.parametrize("offer", ["", "Connection: Upgrade\r\nUpgrade: h2c\r\n"], ids=["plain", "upgrade"])
def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(
    service: Served, offer: str, fields: str, body: bytes
) -> None:
    sent = head("/classify", f"{offer}Content-Type: image/png\r\n{fields}")
    [only] = said(service, sent + body + INNER)
    assert only.status == 400 and "urn:problem-type:marrowlens:bad-request" in only.text


def test_chunks_are_of_http_1_1(service: Served) -> None:
    sent = head("/classify", "Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert [each.status for each in said(service, sent + b"0\r\n\r\n" + INNER)] == [400]


def test_nothing_is_read_behind_a_request_that_closes_the_connection(service: Served) -> None:
    assert [each.request_id for each in said(service, LAST + INNER)] == ["last"]


def test_what_is_no_request_is_answered_after_the_requests_before_it(service: Served, draw: Draw) -> None:
    first = head("/classify?maps=none", "Content-Type: image/png", f"Content-Length: {len(draw(1))}") + draw(1)
    found = said(service, first + b"\0\0\0" + INNER)
    assert [(each.status, each.request_id) for each in found[:1]] == [(200, "first")]
    assert [each.status for each in found[1:]] == [400]


# Trailers

TRAILERS = [
    "X-Request-ID: trailer",
    "X-Acting-User: dr.beispiel",
    "Authorization: Bearer mlk_made-up",
    "Content-Type: text/plain",
    "Host: elsewhere.example",
    "X-Request-Timeout-Ms: 1",
    "X-Forwarded-For: 192.0.2.7",
    "Sec-Fetch-Site: cross-site",
    "Accept: application/x-ndjson",
    "Upgrade: h2c",
    "Content-Encoding: gzip",
    "Expect: 100-continue",
]


@pytest.mark.parametrize("trailers", TRAILERS)
@pytest.mark.parametrize("target", ["/classify", "/classify?maps=none", "/classify/batch", "/nowhere"])
@pytest.mark.parametrize("offer", [(), ("Connection: Upgrade", "Upgrade: h2c")], ids=["plain", "upgrade"])
def test_trailers_are_no_headers(
    service: Served, draw: Draw, target: str, trailers: str, offer: tuple[str, ...]
) -> None:
    media_type, pictures = (
        ("application/zip", zipped([("1", draw(1))])) if "batch" in target else ("image/png", draw(1))
    )
    first = head(target, *offer, f"Content-Type: {media_type}", "Transfer-Encoding: chunked")
    found = said(service, first + chunked(pictures, trailers=f"{trailers}\r\n") + LAST)
    status = 404 if target == "/nowhere" else 200
    assert [(each.status, each.request_id) for each in found] == [(status, "first"), (200, "last")]


@pytest.mark.parametrize(
    "trailer", ["Connection: close", "connection: upgrade\r\nUpgrade: h2c", "Proxy-Connection: close"]
)
def test_a_trailer_that_may_close_the_connection_closes_it_in_words(service: Served, draw: Draw, trailer: str) -> None:
    first = head("/classify", "Content-Type: image/png", "Transfer-Encoding: chunked")
    [only] = said(service, first + chunked(draw(1), trailers=f"{trailer}\r\n") + INNER)
    assert only.status == 200 and "\r\nconnection: close\r\n" in only.text


@pytest.mark.parametrize("trailer", ["Content-Length: 40", "Transfer-Encoding: chunked", "no colon", "A : b", "A:\nb"])
def test_trailers_that_frame_or_are_none_are_refused(service: Served, draw: Draw, trailer: str) -> None:
    first = head("/classify", "Content-Type: image/png", "Transfer-Encoding: chunked")
    [only] = said(service, first + chunked(draw(1), trailers=f"{trailer}\r\n") + INNER)
    assert only.status == 400


def test_trailers_without_end_are_refused(service: Served, draw: Draw) -> None:
    first = head("/classify", "Content-Type: image/png", "Transfer-Encoding: chunked")
    [only] = said(service, first + chunked(draw(1), trailers="X: y\r\n" * 20_000) + INNER)
    assert only.status == 431


def test_a_person_is_not_named_by_a_trailer(artefact: Path, tmp_path: Path) -> None:
    with served(artefact, lis_database=f"sqlite:///{tmp_path / 'lab.db'}") as laboratory:
        laboratory.wait_listening()
        body = json.dumps({"number": "1", "patient": {"identifier": "1"}}).encode()
        first = head("/specimens", "Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close")
        [only] = said(laboratory, first + chunked(body, trailers="X-Acting-User: dr.beispiel\r\n"))
        assert only.status == 422 and "X-Acting-User" in only.text
        named = first.replace(b"\r\nConnection", b"\r\nX-Acting-User: dr.beispiel\r\nConnection")
        [only] = said(laboratory, named + chunked(body))
        assert only.status == 201, only


# Pipelined requests and unfinished bodies


def test_a_stream_whose_body_cannot_be_read_on_says_so_in_its_place(service: Served, draw: Draw) -> None:
    line = json.dumps({"image": b64encode(draw(1)).decode()}).encode() + b"\n"
    first = head("/classify/batch?maps=none", "Content-Type: application/x-ndjson", "Transfer-Encoding: chunked")
    with connected(service) as connection:
        connection.sendall(first + b"%x\r\n%s\r\n" % (len(line), line))
        heard = connection.recv(65536)
        while b'"prediction"' not in heard:
            heard += connection.recv(65536)
        connection.sendall(b"zz\r\n" + INNER)
        [only] = answers(heard + all_that_comes(connection))
    assert only.status == 200
    lines = [json.loads(text) for text in only.text.splitlines() if text.startswith("{")]
    assert lines[1]["problem"]["type"] == "urn:problem-type:marrowlens:bad-request"
    assert (lines[2]["pictures"], lines[2]["problems"]) == (2, 1)


def test_requests_that_wait_for_others_are_left_in_the_kernel(service: Served) -> None:
    def resident_bytes() -> float:
        text = httpx.get(f"{service.url}/metrics").text
        return float(text.split("\nprocess_resident_memory_bytes ")[1].split()[0])

    one = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    before = resident_bytes()
    with connected(service) as connection:
        connection.setblocking(False)
        sent = answered = 0
        while answered < 100:
            with suppress(BlockingIOError):
                sent += connection.send(one * 10_000)
            with suppress(BlockingIOError):
                answered += connection.recv(65536).count(b"HTTP/1.1 200 ")
        assert sent > 1_000_000
        assert resident_bytes() - before < 50e6


@pytest.mark.slow
def test_a_chunk_whose_extension_does_not_end_is_no_body(service: Served) -> None:
    first = head("/classify", "Content-Type: image/png", "Transfer-Encoding: chunked")
    with connected(service) as connection:
        connection.sendall(first + b"1;")
        connection.settimeout(0.1)
        heard = b""
        while not heard:
            connection.sendall(b"a" * 10_000)
            with suppress(TimeoutError):
                heard = connection.recv(65536)
        [only] = answers(heard + all_that_comes(connection))
    assert only.status == 408 and only.document()["type"].endswith(":upload-too-slow")
