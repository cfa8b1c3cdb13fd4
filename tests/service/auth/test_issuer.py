"""A slow, flooding, redirecting or silent issuer: requests to it are shared, rare, and limited in time and size."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from issuer import AUDIENCE, issuer
from joserfc.jwk import RSAKey
from keys import bearer
from serving import async_client, refused
from test_oidc import CLAIMS, Clock

from service.auth import oidc as module
from service.auth.oidc import FIRST_RETRY_S, MAX_BYTES, MIN_REFRESH_INTERVAL_S, IssuerKeys
from service.config.auth import AuthSettings
from service.errors import IssuerUnavailable

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
GOOD = json.dumps({"keys": [RSAKey.generate_key(2048, {"kid": "good"}).as_dict(private=False)]}).encode()


def whole(body: bytes, status: str = "200 OK", *headers: str) -> Answer:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]).encode()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)

    return answer


async def drip(writer: asyncio.StreamWriter) -> None:
    """One byte at a time, within any timeout between two bytes."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    never = asyncio.Event()
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        try:
            await asyncio.wait_for(never.wait(), 0.02)
        except TimeoutError:
            continue


async def drip_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    never = asyncio.Event()
    while not writer.is_closing():
        writer.write(b"X: y\r\n")
        await writer.drain()
        try:
            await asyncio.wait_for(never.wait(), 0.02)
        except TimeoutError:
            continue


async def flood(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()


async def silence(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


class Server:
    """An HTTP server with one answer; `asked` lists the requested paths."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.asked, self.url = answer, list[str](), ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.split(b" ")[1].decode())
            await self.answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def keys(self, clock: Clock | None = None, **settings: Any) -> IssuerKeys:
        where = {"oidc_jwks_url": f"{self.url}/keys", **settings}
        return IssuerKeys(AuthSettings(oidc_issuer=self.url, oidc_audience="a", **where), clock or Clock())


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    found = Server(answer)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == module.__name__]


DEEP = b'{"keys":' + b"[" * 100_000


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (drip, "no complete answer within"),
        (drip_head, "no complete answer within"),
        (silence, "no complete answer within"),
        (flood, "more than"),
        (whole(b" " * (MAX_BYTES + 1)), "more than"),
        (whole(gzip.compress(b" " * 50_000_000), "200 OK", "Content-Encoding: gzip"), "compressed"),
        (whole(b"{}", "302 Found", "Location: http://127.0.0.1:9/keys"), "HTTP 302"),
        (whole(b"{}", "307 Temporary Redirect", "Location: file:///etc/passwd"), "HTTP 307"),
        (whole(b"{}", "204 No Content"), "HTTP 204"),
        (whole(b"{}", "503 Service Unavailable"), "HTTP 503"),
        (whole(b"<html>"), "not JSON"),
        (whole(DEEP), "not JSON"),
        (whole(b"\xff\xfe{}"), "not JSON"),
        (whole(b"[]"), "not a JSON object"),
        (whole(b"{}"), "no list of keys"),
        (whole(b'{"keys": {"a": 1}}'), "no list of keys"),
        (whole(b'{"keys": null}'), "no list of keys"),
        (whole(b"", "200 OK\r\nContent-Length: 5"), "RemoteProtocolError"),
        (whole(b"", "999999 nonsense"), "RemoteProtocolError"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_a_503_soon_and_its_cause_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: Answer, cause: str
) -> None:
    if cause.startswith("no complete answer"):  # on a busy machine the others may take longer
        monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    async with serving(answer) as server, asyncio.timeout(60):
        clock = Clock()
        keys = server.keys(clock)
        with caplog.at_level(logging.INFO, module.__name__):
            for _ in range(3):
                with pytest.raises(IssuerUnavailable) as raised:
                    await keys.find("good")
                assert 0 < raised.value.retry_after_s <= MIN_REFRESH_INTERVAL_S
                clock.now_s += 2 * MIN_REFRESH_INTERVAL_S
    [line] = said(caplog)
    assert cause in line and server.asked == ["/keys"] * 3


async def test_twenty_callers_of_a_silent_issuer_wait_for_one_question_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    async with serving(silence) as server:
        keys, loop = server.keys(), asyncio.get_running_loop()
        began_s = loop.time()
        found = await asyncio.gather(*(keys.find(f"kid {n}") for n in range(20)), return_exceptions=True)
        assert all(isinstance(each, IssuerUnavailable) for each in found)
        assert loop.time() - began_s < 5 and len(server.asked) == 1
        for n in range(20):  # until the next request is due, calls fail at once
            with pytest.raises(IssuerUnavailable):
                await keys.find(f"another {n}")
        assert len(server.asked) == 1


async def test_questions_to_an_issuer_that_does_not_answer_become_fewer() -> None:
    async with serving(whole(b"{}", "500 no")) as server:
        clock = Clock()
        keys = server.keys(clock)
        for _ in range(600):  # ten minutes, a token a second
            with pytest.raises(IssuerUnavailable):
                await keys.find("x")
            clock.now_s += 1
        assert FIRST_RETRY_S == 1 and len(server.asked) <= 6 + 10


async def test_unknown_keys_make_the_issuer_be_asked_once_a_minute_whatever_they_are_called() -> None:
    async with serving(whole(GOOD)) as server:
        clock = Clock()
        keys = server.keys(clock)
        for n in range(5 * 60):  # five minutes
            assert await keys.find(f"made up {n}") is None
            assert await keys.find("good") is not None
            clock.now_s += 1
        assert len(server.asked) == 5


async def test_while_an_issuer_drips_known_keys_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 30.0)
    async with serving(whole(GOOD)) as server:
        clock = Clock()
        keys = server.keys(clock, oidc_jwks_max_age_s=60)
        assert await keys.find("good") is not None
        server.answer = silence
        clock.now_s += 3600
        async with asyncio.timeout(10):
            for _ in range(20):
                assert await keys.find("good") is not None
        assert len(server.asked) <= 2
        assert keys._refreshing is not None
        keys._refreshing.cancel()


async def test_a_caller_that_goes_away_does_not_end_the_question_of_others() -> None:
    answering = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        await answering.wait()
        await whole(GOOD)(writer)

    async with serving(late) as server:
        keys = server.keys()
        first, second = (asyncio.create_task(keys.find("good")) for _ in range(2))
        while not server.asked:
            await asyncio.wait([first], timeout=0.01)
        first.cancel()
        answering.set()
        assert await second is not None and len(server.asked) == 1


async def test_an_issuer_that_answers_again_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(whole(b"{}", "500 no")) as server:
        clock = Clock()
        keys = server.keys(clock)
        with caplog.at_level(logging.INFO, module.__name__):
            for answer in (server.answer, whole(GOOD)):
                server.answer = answer
                for _ in range(4):
                    try:
                        await keys.find("good")
                    except IssuerUnavailable:
                        pass
                    clock.now_s += MIN_REFRESH_INTERVAL_S
    assert [("Cannot fetch the issuer's keys: HTTP 500" in line, "again after 4" in line) for line in said(caplog)] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        ({"issuer": "https://elsewhere.example", "jwks_uri": "URL/keys"}, "names another issuer"),
        ({"issuer": "URL"}, "no jwks_uri"),
        ({"issuer": "URL", "jwks_uri": 7}, "no jwks_uri"),
        ({"issuer": "URL", "jwks_uri": "http://elsewhere.example/keys"}, "plain http"),
        ({"issuer": "URL", "jwks_uri": "file:///etc/passwd"}, "not an http or https URL"),
        ({"issuer": "URL", "jwks_uri": "https://a:b@elsewhere.example/keys"}, "password"),
        ({"issuer": "URL", "jwks_uri": "https://[::1"}, "not a URL"),
        ({"issuer": "URL", "jwks_uri": "https://a:99999/"}, "not a URL"),
    ],
)
async def test_a_discovery_document_leads_to_safe_urls_only(
    caplog: pytest.LogCaptureFixture, document: dict[str, Any], cause: str
) -> None:
    async with serving(whole(b"")) as server:
        server.answer = whole(json.dumps(document).replace("URL", server.url).encode())
        with pytest.raises(IssuerUnavailable):
            await server.keys(oidc_jwks_url=None).find("good")
    assert cause in said(caplog)[0] and server.asked == ["/.well-known/openid-configuration"]


async def test_the_routes_say_when_to_come_again(artefact: Any) -> None:
    with issuer() as issuing:
        issuing.silent = True
        async with async_client(artefact, oidc_issuer=issuing.url, oidc_audience=AUDIENCE) as http:
            token = bearer(issuing.token(CLAIMS))
            for answer in await asyncio.gather(*(http.get("/model", headers=token) for _ in range(20))):
                refused(answer, 503, "issuer-unavailable")
                assert 1 <= int(answer.headers["retry-after"]) <= MIN_REFRESH_INTERVAL_S
