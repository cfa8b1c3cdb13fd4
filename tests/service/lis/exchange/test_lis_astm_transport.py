"""ASTM sessions with an independent receiver, and with receivers that refuse, interrupt or do not answer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path

import pytest
from astm_peer import AstmReceiver, astm_receiver
from loopback import Serve, loopback
from reported import differential, report

from service.lis.domain.report import Report, ReportContent
from service.lis.exchange.astm.records import AstmForm, encode_report, frames
from service.lis.exchange.astm.transport import TRIES, AstmTransport
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.observations import observations
from service.lis.exchange.transport import NoAnswer

ENQ, ACK, NAK, EOT = b"\x05", b"\x06", b"\x15", b"\x04"
PAGE = Path("docs/astm.md").read_text(encoding="utf-8")
SHORT = "H|\\^&\rL|1|N\r"


@pytest.fixture
def receiver() -> Iterator[AstmReceiver]:
    with astm_receiver() as started:
        yield started


def encoded(of: Report) -> str:
    return encode_report(of, CodeMap.load().code_of(signed=True), AstmForm(zone=UTC), of.id)


async def test_a_receiver_nobody_here_wrote_has_what_the_report_says(receiver: AstmReceiver) -> None:
    of = report(comment="Long: " + "marrow | blood ^ & " * 30)
    wire = AstmTransport("127.0.0.1", receiver.port, 30)
    for _ in range(2):
        receipt = await wire.deliver(encoded(of), of.id)
        assert receipt == f"{len(list(frames(encoded(of))))} frames acknowledged"
    told = receiver.told()
    assert told["link"]["sessions"] == 2
    assert told["link"]["frames_rejected"] == told["link"]["bytes_ignored"] == told["link"]["overlong_frames"] == 0
    message, again = told["messages"]
    assert message["complete"]
    assert again["results"][3]["value"] == message["results"][3]["value"]
    sent = [str(result.value) for result in observations(of) if result.value is not None]
    assert [each["value"] for each in message["results"]] == sent
    assert {each["sample_id"] for each in message["results"]} == {of.number}


@asynccontextmanager
async def receiving(serve: Serve, timeout_s: float = 5) -> AsyncIterator[AstmTransport]:
    """A transport to a receiver on loopback, with short waits; exits after the receiver."""
    async with loopback(serve) as (host, port):
        yield AstmTransport(host, port, timeout_s, busy_wait_s=0, contention_wait_s=0)


class Replies:
    """A receiver with a list of answers, which records what it gets; afterwards it acknowledges."""

    def __init__(self, *replies: bytes) -> None:
        self.seen: list[bytes] = []
        self._replies = iter(replies)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await self._piece(reader):
            self.seen.append(piece)
            if piece != EOT:
                writer.write(next(self._replies, ACK))

    async def _piece(self, reader: asyncio.StreamReader) -> bytes:
        first = await reader.read(1)
        return first + await reader.readuntil(b"\r\n") if first == b"\x02" else first


CONTROLS = {1: "SOH", 2: "STX", 3: "ETX", 4: "EOT", 5: "ENQ", 6: "ACK", 10: "LF", 13: "CR", 21: "NAK", 23: "ETB"}


def written(piece: bytes) -> str:
    return "".join(f"<{CONTROLS[byte]}>" if byte in CONTROLS else chr(byte) for byte in piece)


async def test_the_session_shown_in_the_docs_is_what_is_sent() -> None:
    whole = differential({"LYT": 62, "EBO": 98, "NGS": 340}, read=480)
    classes = [share for share in whole.classes if share.code in ("HAC", "LYT")]
    short = whole.model_copy(update={"classes": classes, "lineages": []})
    replies = Replies()
    async with receiving(replies) as wire:
        await wire.deliver(encoded(report(differential=short, megakaryocytes=None, content=ReportContent())), "1")
    lines = [f"> {written(piece)}\n< <ACK>" for piece in replies.seen[:-1]]
    session = "\n".join([*lines, f"> {written(EOT)}"])
    assert f"```\n{session}\n```" in PAGE, f"put this into docs/astm.md:\n{session}"


async def test_a_session_has_a_beginning_frames_and_an_end() -> None:
    replies = Replies()
    async with receiving(replies) as wire:
        assert await wire.deliver(SHORT, "1") == "2 frames acknowledged"
        await wire.close()
    assert replies.seen == [ENQ, *frames(SHORT), EOT]


@pytest.mark.parametrize("bad", [NAK, b"?"])
async def test_a_frame_that_is_refused_is_sent_again_as_it_was(bad: bytes) -> None:
    first, last = frames(SHORT)
    replies = Replies(ACK, bad, bad, ACK, bad, ACK)
    async with receiving(replies) as wire:
        await wire.deliver(SHORT, "1")
    assert replies.seen == [ENQ, first, first, first, last, last, EOT]


async def test_a_frame_that_is_refused_six_times_ends_the_session() -> None:
    first, _ = frames(SHORT)
    replies = Replies(ACK, *[NAK] * TRIES)
    async with receiving(replies) as wire:
        with pytest.raises(NoAnswer, match="^the ASTM receiver did not acknowledge frame 1$"):
            await wire.deliver(SHORT, "1")
    assert replies.seen == [ENQ, *[first] * 6, EOT]


async def test_a_busy_receiver_is_asked_again() -> None:
    replies = Replies(NAK, NAK, ACK)
    async with receiving(replies) as wire:
        await wire.deliver(SHORT, "1")
    assert replies.seen == [ENQ, ENQ, ENQ, *frames(SHORT), EOT]


async def test_a_receiver_that_stays_busy_is_left_alone() -> None:
    replies = Replies(*[NAK] * 6)
    async with receiving(replies) as wire:
        with pytest.raises(NoAnswer, match="^the ASTM receiver was busy 6 times$"):
            await wire.deliver(SHORT, "1")
    assert replies.seen == [*[ENQ] * 6, EOT]


async def test_where_both_want_to_send_the_instrument_asks_again() -> None:
    replies = Replies(ENQ, ACK)
    async with receiving(replies) as wire:
        await wire.deliver(SHORT, "1")
    assert replies.seen == [ENQ, ENQ, *frames(SHORT), EOT]


async def test_an_interrupt_acknowledges_the_frame() -> None:
    replies = Replies(ACK, EOT, ACK)
    async with receiving(replies) as wire:
        await wire.deliver(SHORT, "1")
    assert replies.seen == [ENQ, *frames(SHORT), EOT]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([b""], "the ASTM receiver does not answer"),
        ([ACK, b""], "the ASTM receiver did not acknowledge frame 1"),
        ([ACK, ACK, b""], "the ASTM receiver did not acknowledge frame 2"),
    ],
)
async def test_silence_ends_the_session(replies: list[bytes], reason: str) -> None:
    silent = Replies(*replies)
    async with receiving(silent, timeout_s=0.05) as wire:
        with pytest.raises(NoAnswer, match=f"^{reason}$"):
            await wire.deliver(SHORT, "1")
    assert silent.seen == [ENQ, *list(frames(SHORT))[: len(replies) - 1], EOT]


async def test_a_receiver_that_hangs_up_has_not_taken_the_report() -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(ACK)
        await reader.readuntil(b"\r\n")

    async with receiving(hangs_up) as wire:
        with pytest.raises(NoAnswer, match="^the ASTM connection failed: "):
            await wire.deliver(SHORT, "1")


async def test_a_receiver_that_hangs_up_after_the_last_frame_has_it() -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for ending in (ENQ, b"\r\n", b"\r\n"):
            await reader.readuntil(ending)
            writer.write(ACK)

    async with receiving(hangs_up) as wire:
        assert await wire.deliver(SHORT, "1") == "2 frames acknowledged"


async def test_nobody_there_is_no_answer() -> None:
    async with receiving(Replies()) as wire:
        pass  # the port is free again
    with pytest.raises(NoAnswer, match="^the ASTM connection failed: ConnectionRefusedError$"):
        await wire.deliver(SHORT, "1")
