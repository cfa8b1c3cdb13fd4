"""The MLLP transport: a receiver with every allowed behaviour, and with errors."""

import asyncio
import shutil
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from laboratory import SECRETS
from receivers import Line, certificates, scripted
from wires import ack, oru, transport_to

from service.config.lis import LisSettings
from service.lis.exchange.mllp.transport import MllpTransport
from service.lis.exchange.transport import NoAnswer, Rejected


async def test_only_the_acknowledgement_of_this_message_counts() -> None:
    async def late(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-0", "AR"), ack("r-00"), ack("r-1"), ack("r-1"))
        await line.frame()
        await line.say(ack("r-2", "AE"))

    async with scripted(late) as port, transport_to(port) as wire:
        assert "MSA|AA|r-1" in await wire.deliver(oru("r-1"), "r-1")
        with pytest.raises(Rejected):
            await wire.deliver(oru("r-2"), "r-2")


async def test_another_messages_acknowledgement_alone_is_no_answer() -> None:
    async def other(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-0"))
        assert await line.reader.read() == b""

    async with scripted(other) as port, transport_to(port, hl7_timeout_s=0.3) as wire:
        with pytest.raises(NoAnswer, match="no answer within"):
            await wire.deliver(oru("r-1"), "r-1")


async def test_an_acknowledgement_may_come_in_pieces() -> None:
    async def slow(line: Line) -> None:
        await line.frame()
        for byte in b"\r\n\x0b" + ack("r-1").encode() + b"\x1c\r\n":
            line.writer.write(bytes([byte]))
            await line.writer.drain()
        await line.frame()
        await line.say(ack("r-2"))

    async with scripted(slow) as port, transport_to(port) as wire:
        await wire.deliver(oru("r-1"), "r-1")
        await wire.deliver(oru("r-2"), "r-2")


@pytest.mark.parametrize("rubbish", [b"", b"MSH|^~\\&|A\r", b"Muster Erika", ack("r-1").encode()[:-9], b"\xff" * 50])
async def test_rubbish_is_no_answer_and_the_next_message_goes_by_a_new_connection(rubbish: bytes) -> None:
    async def wrong(line: Line) -> None:
        await line.frame()
        await line.say(rubbish)
        assert await line.reader.read() == b""

    async def right(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-1"))

    async with scripted(wrong, right) as port, transport_to(port) as wire:
        with pytest.raises(NoAnswer) as none:
            await wire.deliver(oru("r-1"), "r-1")
        assert not any(secret in str(none.value) for secret in SECRETS)
        await wire.deliver(oru("r-1"), "r-1")


async def test_half_an_answer_is_no_answer() -> None:
    async def half(line: Line) -> None:
        await line.frame()
        line.writer.write(b"\x0b" + ack("r-1").encode())

    async with scripted(half) as port, transport_to(port) as wire:
        with pytest.raises(NoAnswer, match="within a frame"):
            await wire.deliver(oru("r-1"), "r-1")


async def test_an_answer_without_an_end_is_not_kept() -> None:
    async def endless(line: Line) -> None:
        await line.frame()
        line.writer.write(b"\x0b" + b"x" * 300_000)
        with suppress(ConnectionResetError):
            await line.reader.read()

    async with scripted(endless) as port, transport_to(port, hl7_max_bytes=1000) as wire:
        with pytest.raises(NoAnswer, match="more than 1000 bytes"):
            await wire.deliver(oru("r-1"), "r-1")


async def test_a_connection_that_was_closed_while_idle_is_made_anew_at_once() -> None:
    async def one(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-1"))

    async def reads_and_hangs_up(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-2"))
        await line.frame()

    async def two(line: Line) -> None:
        assert b"|r-3|" in await line.frame()
        await line.say(ack("r-3"))

    async with scripted(one, reads_and_hangs_up, two) as port, transport_to(port) as wire:
        for control_id in ("r-1", "r-2", "r-3"):
            await wire.deliver(oru(control_id), control_id)


async def test_nobody_there_is_no_answer() -> None:
    async with scripted() as port:
        pass
    async with transport_to(port) as wire:
        with pytest.raises(NoAnswer, match="ConnectionRefusedError"):
            await wire.deliver(oru("r-1"), "r-1")


@pytest.mark.parametrize(
    ("acks", "answers", "taken"),
    [
        ("original", ["AA"], True),
        ("original", ["CA", "AA"], True),
        ("original", ["CA", "AE"], False),
        ("accept", ["CA"], True),
        ("accept", ["CE"], False),
        ("application", ["AA"], True),
        ("application", ["CA", "AA"], True),
        ("application", ["CA", "AE"], False),
        ("both", ["CA", "AA"], True),
        ("both", ["AA"], True),
        ("both", ["CA", "AR"], False),
        ("both", ["CR"], False),
    ],
)
async def test_as_many_acknowledgements_are_waited_for_as_were_asked_for(
    acks: str, answers: list[str], taken: bool
) -> None:
    async def enhanced(line: Line) -> None:
        await line.frame()
        for code in answers:
            await line.say(ack("r-1", code))

    message = oru("r-1", hl7_acks=acks)
    async with scripted(enhanced) as port, transport_to(port) as wire:
        if taken:
            assert f"MSA|{answers[-1]}|r-1" in await wire.deliver(message, "r-1")
        else:
            with pytest.raises(Rejected, match=answers[-1]):
                await wire.deliver(message, "r-1")


async def test_a_message_that_was_accepted_is_not_sent_twice_by_the_wire() -> None:
    async def forgets(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-0", "CA"), ack("r-0"))
        await line.frame()
        await line.say(ack("r-1", "CA"))

    async with scripted(forgets) as port, transport_to(port) as wire:
        await wire.deliver(oru("r-0", hl7_acks="both"), "r-0")
        with pytest.raises(NoAnswer, match="closed the connection before it answered"):
            await wire.deliver(oru("r-1", hl7_acks="both"), "r-1")


async def test_an_application_acknowledgement_that_wants_to_be_accepted_is() -> None:
    async def careful(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-1", "CA"), ack("r-1", fields="|||AL|NE"))
        accepted = (await line.frame()).decode()
        assert "MSA|CA|a-r-1" in accepted

    async with scripted(careful) as port, transport_to(port) as wire:
        await wire.deliver(oru("r-1", hl7_acks="both"), "r-1")


async def test_one_message_is_in_flight_whoever_else_waits() -> None:
    seen: list[str] = []

    async def counts(line: Line) -> None:
        for _ in range(3):
            seen.append((await line.frame()).split(b"|")[9].decode())
            assert not line.reader._buffer  # type: ignore[attr-defined]
            await line.say(ack(seen[-1]))

    async with scripted(counts) as port, transport_to(port) as wire:
        await asyncio.gather(*(wire.deliver(oru(each), each) for each in ("r-1", "r-2", "r-3")))
    assert seen == ["r-1", "r-2", "r-3"]


async def test_a_delivery_that_is_given_up_leaves_no_answer_to_the_next() -> None:
    asked = asyncio.Event()

    async def first(line: Line) -> None:
        await line.frame()
        asked.set()
        assert await line.reader.read() == b""

    async def second(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-2"))

    async with scripted(first, second) as port, transport_to(port) as wire:
        given_up = asyncio.create_task(wire.deliver(oru("r-1"), "r-1"))
        await asked.wait()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await wire.deliver(oru("r-2"), "r-2")


async def test_the_bytes_are_of_the_character_set_that_the_message_names() -> None:
    async def latin(line: Line) -> None:
        assert b"M\xfcller ?" in await line.frame()
        await line.say(ack("r-1", "AE", err="ERR||PID^1|204|E||||M\xfcller").encode("latin-1"))

    message = oru("r-1", hl7_charset="8859/1").replace("Muster", "Müller Ł")
    async with scripted(latin) as port, transport_to(port) as wire:
        with pytest.raises(Rejected, match="204 unknown key identifier at PID") as rejected:
            await wire.deliver(message, "r-1")
    assert "Müller" in rejected.value.reply


def test_a_wire_to_nobody_is_not_made() -> None:
    with pytest.raises(ValueError, match="MARROWLENS_LIS_HL7_TO"):
        MllpTransport(LisSettings())


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    files, new = certificates(tmp_path / "ours"), certificates(tmp_path / "new")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=new.ca)
    context.load_cert_chain(files.server, files.server_key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def taken(line: Line) -> None:
        await line.frame()
        await line.say(ack("r-1"))

    told = {"hl7_tls_ca": files.ca, "hl7_tls_cert": files.client, "hl7_tls_key": files.client_key}
    async with scripted(taken, tls=context) as port, transport_to(port, **told) as wire:
        with pytest.raises(NoAnswer):
            await wire.deliver(oru("r-1"), "r-1")
        for name in ("client", "client_key"):
            shutil.copy(getattr(new, name), getattr(files, name))
        assert "MSA|AA|r-1" in await wire.deliver(oru("r-1"), "r-1")
