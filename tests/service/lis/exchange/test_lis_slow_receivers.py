"""Slow, flooding and endless receivers: each delivery has bounded time and memory."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest
from lab import PLAIN, classified, manifest, open_request, use_cases, user
from loopback import loopback
from peak_memory import peak_bytes
from receivers import Line, scripted
from test_lis_fhir_transport import MESSAGE
from wires import ack, oru, transport_to

from service.lis.exchange.astm.transport import AstmTransport
from service.lis.exchange.fhir.transport import MAX_ANSWER_BYTES, FhirTransport
from service.lis.exchange.mllp.transport import MAX_OTHERS
from service.lis.exchange.transport import NoAnswer
from service.lis.schemas import ReportSpecimen
from service.lis.storage import outbox
from service.lis.storage.outbox import MAX_REPLY

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\n"
TIMEOUT_S = 0.5
#: Under load the end of a deadline is seen later than it comes.
LATEST_S = 20


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send a piece again and again, until the other side has gone."""
    with suppress(ConnectionError):
        while True:
            writer.write(piece)
            await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    if await reader.read(65536) == b"":
                        return


async def flood(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send a piece as fast as it is taken, until the other side has gone."""
    with suppress(ConnectionError):
        while True:
            writer.write(piece)
            await writer.drain()


def after_the_request(then: Answer) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().splitlines()
        await reader.readexactly(next(int(line[15:]) for line in lines if line.startswith(b"content-length:")))
        await then(reader, writer)

    return answer


async def no_answer(then: Answer, timeout_s: float = 30) -> str:
    """What a delivery to a FHIR server says that answers so."""
    async with loopback(after_the_request(then)) as (host, port):
        wire = FhirTransport(f"http://{host}:{port}/fhir", None, timeout_s)
        with pytest.raises(NoAnswer) as error:
            await wire.deliver(MESSAGE, "1")
        await wire.close()
    return error.value.reason


@pytest.mark.parametrize(
    "before", [b"", HEAD, HEAD + b"Content-Length: 100000\r\n\r\n", HEAD + b"Connection: close\r\n\r\n"]
)
@pytest.mark.parametrize("piece", [b"H", b"X: y\r\n"])
async def test_a_fhir_server_that_drips_is_given_up(before: bytes, piece: bytes) -> None:
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        await drip(reader, writer, piece)

    began_s = monotonic()
    assert (await no_answer(dripping, TIMEOUT_S)).startswith("no answer from the FHIR server")
    assert monotonic() - began_s < LATEST_S


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (HEAD + b"Connection: close\r\n\r\n", b" " * 65536),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (HEAD + b"Content-Length: 100000000000\r\n\r\n", b" " * 65536),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", b" " * 65536),
        (HEAD, b"X-Header: " + b"y" * 1000 + b"\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
async def test_a_fhir_server_that_never_ends_is_given_up_and_not_kept(before: bytes, piece: bytes) -> None:
    async def flooding(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        await flood(writer, piece)

    peaks_bytes = [await peak_bytes(no_answer(flooding, 5)) for _ in range(2)]
    assert min(peaks_bytes) < 4 * MAX_ANSWER_BYTES


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP"])
async def test_a_compressed_answer_is_not_unpacked(encoding: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000)

    async def answering(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + f"Content-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n".encode() + bomb)

    assert "sent a compressed answer" in await no_answer(answering)
    peaks_bytes = [await peak_bytes(no_answer(answering)) for _ in range(3)]
    assert min(peaks_bytes) < 2_000_000


async def test_an_answer_with_everything_that_was_sent_is_still_taken() -> None:
    entry = {"resource": {"resourceType": "Media", "content": {"data": "A" * MAX_ANSWER_BYTES}}}
    message = json.dumps({"resourceType": "Bundle", "entry": [entry]})
    entries = [entry | {"response": {"status": "201"}}]
    body = json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": entries}).encode()

    async def answering(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Type: application/fhir+json; charset=punycode\r\n")
        writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async with loopback(after_the_request(answering)) as (host, port):
        wire = FhirTransport(f"http://{host}:{port}/fhir", None, 30)
        assert (await wire.deliver(message, "1")).encode() == body
        await wire.close()


@pytest.mark.parametrize("piece", [b"\r", b"\x0b", b"M", b"\x0bMSH|^~\\&|"])
async def test_an_mllp_receiver_that_drips_is_given_up(piece: bytes) -> None:
    async def dripping(line: Line) -> None:
        await line.frame()
        await drip(line.reader, line.writer, piece)

    began_s = monotonic()
    async with scripted(dripping) as port, transport_to(port, hl7_timeout_s=TIMEOUT_S) as wire:
        with pytest.raises(NoAnswer):
            await wire.deliver(oru("r-1"), "r-1")
        assert monotonic() - began_s < LATEST_S


@pytest.mark.parametrize("fields", ["", "|||AL|NE"])
async def test_an_mllp_receiver_that_answers_others_without_end_is_given_up(fields: str) -> None:
    async def flooding(line: Line) -> None:
        await line.frame()
        await flood(line.writer, b"\x0b" + ack("another", fields=fields).encode() + b"\x1c\r")

    async with scripted(flooding) as port, transport_to(port) as wire:
        with pytest.raises(NoAnswer, match=f"{MAX_OTHERS} acknowledgements"):
            await wire.deliver(oru("r-1"), "r-1")


async def test_an_mllp_receiver_that_floods_a_frame_is_given_up() -> None:
    async def flooding(line: Line) -> None:
        await line.frame()
        line.writer.write(b"\x0b")
        await flood(line.writer, b"M" * 65536)

    async with scripted(flooding) as port, transport_to(port, hl7_max_bytes=100_000) as wire:
        with pytest.raises(NoAnswer, match="more than 100000 bytes"):
            await wire.deliver(oru("r-1"), "r-1")


async def test_an_astm_receiver_that_floods_or_is_silent_is_given_up() -> None:
    async def flooding(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await flood(writer, b"\x15" * 65536)

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    for serve in (flooding, silent):
        began_s = monotonic()
        async with loopback(serve) as (host, port):
            wire = AstmTransport(host, port, TIMEOUT_S, busy_wait_s=0, contention_wait_s=0)
            with pytest.raises(NoAnswer):
                await wire.deliver("H|\\^&\rL|1|N\r", "1")
        assert monotonic() - began_s < LATEST_S


def test_a_reply_with_a_nul_is_written_down_and_a_long_one_in_part(database_url: str, artefact: Path) -> None:
    with use_cases(database_url, channels=(PLAIN,)) as front:
        opened = front.open(open_request(), user("m.muster"))
        revision, *_ = front.add(opened.id, [classified("PMO")], manifest(artefact), user("scanner"))
        front.preliminary(opened.id, ReportSpecimen(revision=revision), user("m.muster"))
        with front.database.writing() as session:
            claimed = outbox.claim(session, PLAIN.name, "worker", timedelta(seconds=60))
            assert claimed is not None
            outbox.mark_rejected(session, claimed.row, "AR", "MSA|AR\0" + "x" * (2 * MAX_REPLY))
        with front.database.writing() as session:
            message = outbox.lock_message(session, claimed.control_id)
            assert message is not None and message.reply is not None
            assert message.reply.startswith("MSA|AR\ufffdx") and len(message.reply) == MAX_REPLY
