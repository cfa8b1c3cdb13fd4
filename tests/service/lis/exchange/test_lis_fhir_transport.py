"""Answers of a FHIR server: accepted, rejected, or inconclusive. And what must not be logged."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fhir_peer import TOKEN, fhir_transport
from loopback import Serve, loopback

from service.lis.exchange.transport import NoAnswer, Rejected


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    """A server on loopback and its base URL; left only once every connection is served to its end."""
    async with loopback(serve) as (host, port):
        yield f"http://{host}:{port}/fhir"


@asynccontextmanager
async def answering(status: str, body: str = "", *, seen: list[bytes] | None = None) -> AsyncIterator[str]:
    """A server of one answer, whatever it is asked; with an empty status it closes without one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().splitlines()
        await reader.readexactly(next(int(line[15:]) for line in lines if line.startswith(b"content-length:")))
        if seen is not None:
            seen.append(head)
        if status:
            text = body.encode()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

    async with listening(answer) as url:
        yield url


def response(*statuses: str, kind: str = "transaction-response") -> str:
    return json.dumps(
        {"resourceType": "Bundle", "type": kind, "entry": [{"response": {"status": s}} for s in statuses]}
    )


def outcome(**issue: Any) -> str:
    return json.dumps({"resourceType": "OperationOutcome", "issue": [{"severity": "error", **issue}]})


MESSAGE = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": [{}, {}]})


@pytest.mark.parametrize("status", ["200 OK", "201 Created"])
async def test_an_answer_that_takes_every_entry_is_the_receipt(status: str) -> None:
    body = response("201 Created", "200")
    async with answering(status, body) as url, fhir_transport(url) as to:
        assert await to.deliver(MESSAGE, "1") == body


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        ("400 Bad Request", outcome(code="invalid"), "HTTP 400: invalid"),
        ("422 Unprocessable", outcome(code="value", expression=["Bundle.entry[2].resource"]), "HTTP 422: value at "),
        ("404 Not Found", "<html>no</html>", "HTTP 404"),
        ("413 Too Large", "", "HTTP 413"),
        ("200 OK", response("201 Created", "422 Unprocessable"), "an entry has the status 422"),
    ],
)
async def test_what_the_server_will_not_take_is_rejected(status: str, body: str, reason: str) -> None:
    async with answering(status, body) as url, fhir_transport(url) as to:
        with pytest.raises(Rejected) as refused:
            await to.deliver(MESSAGE, "1")
    assert refused.value.reason.startswith(reason)
    assert refused.value.reply == body


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Internal Server Error", outcome(code="exception")),
        ("503 Service Unavailable", ""),
        *((f"{code} Later", "") for code in (401, 407, 408, 409, 421, 423, 425, 429)),
        ("307 Temporary Redirect", ""),
        ("204 No Content", ""),
        ("200 OK", "<html>log in</html>"),
        ("200 OK", "[]"),
        ("200 OK", response("201 Created", "200 OK", kind="batch-response")),
        ("200 OK", response("201 Created")),
        ("200 OK", response("201 Created", "503 Busy")),
        ("200 OK", response("201 Created", "")),
        ("", ""),
    ],
)
async def test_what_says_nothing_of_the_report_is_no_answer(status: str, body: str) -> None:
    async with answering(status, body) as url, fhir_transport(url) as to:
        with pytest.raises(NoAnswer):
            await to.deliver(MESSAGE, "1")


async def test_nobody_there_is_no_answer() -> None:
    async with answering("200 OK") as url:
        pass  # the port is free again
    async with fhir_transport(url) as to:
        with pytest.raises(NoAnswer, match="^no answer from the FHIR server: ConnectError$"):
            await to.deliver(MESSAGE, "1")


async def test_a_silent_server_is_not_waited_for_longer_than_allowed() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
        while await reader.read(1 << 16):
            pass

    async with listening(silent) as url, fhir_transport(url, timeout_s=0.05) as to:
        with pytest.raises(NoAnswer, match="TimeoutError$"):
            await to.deliver(MESSAGE, "1")


async def test_a_reason_quotes_nothing_that_could_be_the_patients() -> None:
    said = outcome(code="invalid", diagnostics="Erika Muster is wrong", expression=["Patient.where(name='Muster')"])
    async with answering("422 No", said) as url, fhir_transport(url) as to:
        with pytest.raises(Rejected) as refused:
            await to.deliver(MESSAGE, "1")
    assert refused.value.reason == "HTTP 422: invalid"
    assert "Erika" in refused.value.reply


async def test_no_key_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[bytes] = []
    async with answering("200 OK", response("201", "201"), seen=seen) as url:
        by_name = url.replace("http://", "http://lab:a-password@") + "?key=a-key"
        async with fhir_transport(url) as to, fhir_transport(by_name, token=None) as named:
            await to.deliver(MESSAGE, "a-control-id")
            await named.deliver(MESSAGE, "a-control-id")
    by_token, by_password = (head.decode().lower() for head in seen)
    assert f"authorization: bearer {TOKEN}".lower() in by_token
    assert "x-request-id: a-control-id" in by_token
    assert "authorization: basic bgfiometcgfzc3dvcmq=" in by_password
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert not [secret for secret in (TOKEN, "a-password", "a-key", "127.0.0.1") if secret in logged]
