"""Invalid and hostile order senders: each is answered or disconnected, and other senders are served."""

import asyncio
from contextlib import suppress

import pytest
from laboratory import OBR, ORC, PID, SPM, order
from ordering import GOOD, OrderRecorder, line_to, listening, said, still_takes
from peak_memory import peak_bytes

from service.lis.exchange.mllp.framing import MAX_NOISE_BYTES


@pytest.mark.parametrize(
    "rubbish", [b"hello", b"\x00" * 50, b"GET / HTTP/1.1\r\n\r\n", b"MSH|^~\\&", b"PID|1||100234\r"]
)
async def test_what_is_no_message_is_rejected_and_the_next_is_taken(rubbish: bytes) -> None:
    async with listening(OrderRecorder()) as listener, line_to(listener) as line:
        await line.say(rubbish)
        answer = await line.frame()
        assert said(answer)[0] == "AR"
        assert said(answer, "ERR")[2].startswith("100^")
        await line.say(GOOD)
        assert said(await line.frame()) == ["AA", "ORD-1"]


async def test_an_empty_frame_keeps_the_connection_alive_and_has_no_answer() -> None:
    async with listening(OrderRecorder()) as listener, line_to(listener) as line:
        await line.say(b"")
        await line.say(b"\r\n")
        await line.say(GOOD)
        assert said(await line.frame()) == ["AA", "ORD-1"]


async def test_half_a_message_that_is_begun_anew_is_forgotten() -> None:
    recorder = OrderRecorder()
    async with listening(recorder) as listener, line_to(listener) as line:
        line.writer.write(b"\x0b" + order(PID.replace("100234", "999"), SPM).encode())
        await line.say(GOOD)
        assert said(await line.frame()) == ["AA", "ORD-1"]
    ((_, (taken,)),) = recorder.taken
    assert taken.patient.identifier == "100234"


@pytest.mark.parametrize("half", [b"\x0b", b"\x0b" + GOOD.encode(), b"\x0b" + GOOD.encode() + b"\x1c"])
async def test_a_message_without_an_end_closes_its_connection_and_nothing_else(
    half: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = OrderRecorder()
    async with listening(recorder, hl7_timeout_s=0.5) as listener:
        async with line_to(listener) as line, line_to(listener) as other:
            line.writer.write(half)
            assert await line.reader.read() == b""
            assert "time-out after 0.5 s" in caplog.text
            await other.say(GOOD)  # silent for longer than that, and still heard
            assert said(await other.frame()) == ["AA", "ORD-1"]
        async with line_to(listener) as line:
            line.writer.write(half)
            line.writer.write_eof()
            assert await line.reader.read() == b""
        assert await still_takes(listener)
    assert len(recorder.taken) == 2


async def test_noise_is_passed_over_up_to_a_bound() -> None:
    async with listening(OrderRecorder()) as listener:
        async with line_to(listener) as line:
            line.writer.write(b"-" * MAX_NOISE_BYTES)
            await line.say(GOOD)
            assert said(await line.frame()) == ["AA", "ORD-1"]
        async with line_to(listener) as line:
            line.writer.write(b"-" * (MAX_NOISE_BYTES + 70_000))
            with suppress(ConnectionError):
                assert await line.reader.read() == b""
        assert await still_takes(listener)


@pytest.mark.parametrize("end", [b"\x1c\r", b""])
async def test_ten_megabytes_in_a_frame_are_rejected_and_not_kept(end: bytes) -> None:
    recorder, piece, peaks_bytes = OrderRecorder(), b"x" * 65536, []

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x0b" + GOOD.encode() + b"NTE|1||")
        for _ in range(160):
            writer.write(piece)
            await writer.drain()
        writer.write(end)
        await writer.drain()

    async with listening(recorder, hl7_max_bytes=100_000) as listener:
        for _ in range(2):
            async with line_to(listener) as line:
                peaks_bytes.append(await peak_bytes(send(line.writer)))
                answer = await line.frame()
                assert said(answer) == ["AR", "ORD-1"]
                assert said(answer, "ERR")[2].startswith("207^")
                line.writer.write_eof()
                assert await line.reader.read() == b""
        assert await still_takes(listener)
    assert min(peaks_bytes) < 2_000_000
    assert len(recorder.taken) == 1


async def test_a_message_of_delimiters_is_rejected() -> None:
    async with listening(OrderRecorder(), hl7_max_bytes=2_000_000) as listener, line_to(listener) as line:
        await line.say(order(PID + "|" * 1_000_000, SPM, ORC, OBR))
        assert said(await line.frame()) == ["AR", "ORD-1"]


async def test_a_failure_of_the_laboratory_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    recorder = OrderRecorder()
    recorder.fails = RuntimeError("INSERT INTO specimens VALUES ('Muster', 'Erika', '100234')")
    async with listening(recorder) as listener, line_to(listener) as line:
        await line.say(GOOD)
        answer = await line.frame()
        assert said(answer) == ["AE", "ORD-1"]
        assert said(answer, "ERR")[2].startswith("207^")
        assert b"INSERT" not in answer and b"Muster" not in answer
        assert "OML^O33, control id ORD-1 failed: RuntimeError at ordering.py:" in caplog.text
        recorder.fails = None
        await line.say(GOOD)
        assert said(await line.frame()) == ["AA", "ORD-1"]


async def test_a_control_id_is_logged_only_if_it_looks_like_one(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(OrderRecorder()) as listener, line_to(listener) as line:
        await line.say(order(PID, SPM, ORC, OBR, f10="Muster Erika\\X0A\\orders: all is well"))
        await line.frame()
        await line.say(order(PID, SPM, ORC, OBR, f10="Erika Muster", kind="Erika^Muster"))
        await line.frame()
    assert "control id of" in caplog.text
    assert "a message of another type" in caplog.text
