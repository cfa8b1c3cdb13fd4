"""Orders over MLLP: python-hl7's client and raw bytes against the listener."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import hl7.mllp
import pytest
from laboratory import OBR, ORC, PID, SECRETS, SPM, order
from ordering import ENHANCED, GOOD, OrderRecorder, line_to, listening, said
from receivers import certificates, node_sender

from service.config.lis import LisSettings
from service.lis.exchange.mllp.listener import OrderListener
from service.lis.metrics import ConnectionMetrics
from service.telemetry.metric_registry import MetricRegistry


async def test_python_hl7s_client_places_orders_one_after_another() -> None:
    recorder = OrderRecorder()
    async with listening(recorder) as listener:
        reader, writer = await hl7.mllp.open_hl7_connection(*listener.address, encoding="utf-8")
        for number in (1, 2, 3):
            writer.writemessage(hl7.parse(order(PID, SPM, ORC, OBR, f10=f"ORD-{number}")))
            await writer.drain()
            answer = await reader.readmessage()
            assert [str(field) for field in answer.segment("MSA")][1:] == ["AA", f"ORD-{number}"]
            assert str(answer.segment("MSH")[9]) == "ORL^O34^ORL_O34"
        writer.close()
        await writer.wait_closed()
    assert [identity.control_id for identity, _ in recorder.taken] == ["ORD-1", "ORD-2", "ORD-3"]
    identity, (taken,) = recorder.taken[0]
    assert (identity.sender, taken.number, taken.patient.family) == ("LIS|LAB", "M26-0042", "Muster")


@pytest.mark.parametrize("script", ["simple-hl7-sender.js", "node-hl7-sender.js"])
async def test_nodes_clients_place_orders_and_read_the_answers(script: str, tmp_path: Path) -> None:
    recorder = OrderRecorder()
    messages = [
        order(PID, SPM, ORC, OBR, f10="ORD-1"),
        order(PID.replace("100234", ""), SPM, ORC, OBR, f10="ORD-2"),
        order(PID, ORC, OBR, kind="ORM^O01", f12="2.3", f10="ORD-3"),
        order(PID, SPM, ORC, OBR, f12="2.9", f10="ORD-4"),
        order(PID, ORC, OBR, SPM, kind="OML^O21^OML_O21", f10="ORD-5"),
    ]
    async with listening(recorder) as listener:
        answers = await node_sender(script, tmp_path, listener.address[1], messages)
    assert answers == ["AA ORD-1", "AE ORD-2", "AA ORD-3", "AR ORD-4", "AA ORD-5"]
    assert [identity.control_id for identity, _ in recorder.taken] == ["ORD-1", "ORD-3", "ORD-5"]


async def test_the_same_message_is_the_same_and_another_is_another() -> None:
    recorder = OrderRecorder()
    async with listening(recorder) as listener, line_to(listener) as line:
        for message in (GOOD, GOOD, GOOD.replace("P-77", "P-78")):
            await line.say(message)
            assert said(await line.frame()) == ["AA", "ORD-1"]
    first, second, third = (identity for identity, _ in recorder.taken)
    assert first == second != third
    assert first.control_id == third.control_id


@pytest.mark.parametrize(
    ("message", "code", "kind", "error"),
    [
        (order(PID.replace("100234", ""), SPM, ORC, OBR), "AE", "ORL^O34^ORL_O34", ["PID^1^3", "101"]),
        (order(PID, SPM, "ORC|CA|P-77"), "AE", "ORL^O34^ORL_O34", ["SPM^1^2", "204"]),
        (order(PID, SPM, ORC, OBR, f12="3.0"), "AR", "ORL^O34^ORL_O34", ["MSH^1^12", "203"]),
        (order(PID, SPM, ORC, OBR, f18="UNICODE UTF-16"), "AR", "ORL^O34^ORL_O34", ["MSH^1^18", "103"]),
        (order(PID, SPM, ORC, OBR, f11="T"), "AR", "ORL^O34^ORL_O34", ["MSH^1^11", "202"]),
        (order(PID, SPM, ORC, OBR, kind="SIU^S12^SIU_S12"), "AR", "ACK^S12^ACK", ["MSH^1^9^1^1", "200"]),
        (order(PID, SPM.replace("20260504", "20260599"), ORC, OBR), "AE", "ORL^O34^ORL_O34", ["SPM^1^17", "102"]),
    ],
)
async def test_a_bad_order_is_answered_and_the_next_is_taken(
    message: str, code: str, kind: str, error: list[str]
) -> None:
    recorder = OrderRecorder()
    async with listening(recorder) as listener, line_to(listener) as line:
        await line.say(message)
        answer = await line.frame()
        assert said(answer) == [code, "ORD-1"]
        assert said(answer, "MSH")[8] == kind
        err = said(answer, "ERR")
        assert [err[1], err[2].partition("^")[0], err[3]] == [*error, "E"]
        assert err[7] and not any(secret in err[7] for secret in SECRETS)
        await line.say(GOOD)
        assert said(await line.frame()) == ["AA", "ORD-1"]
    assert len(recorder.taken) == 1


async def test_many_messages_at_once_are_answered_in_their_order() -> None:
    async with listening(OrderRecorder()) as listener, line_to(listener) as line:
        numbers = [f"ORD-{number}" for number in range(20)]
        await line.say(*(order(PID, SPM, ORC, OBR, f10=number) for number in numbers))
        assert [said(await line.frame())[1] for _ in numbers] == numbers


async def test_a_message_may_come_byte_by_byte_with_line_ends_between() -> None:
    async with listening(OrderRecorder()) as listener, line_to(listener) as line:
        for byte in b"\r\n\x00\x0b" + GOOD.encode() + b"\x1c\r\r\n":
            line.writer.write(bytes([byte]))
            await line.writer.drain()
        assert said(await line.frame()) == ["AA", "ORD-1"]


async def test_an_accept_acknowledgement_comes_once_the_order_is_in_safe_keeping() -> None:
    recorder = OrderRecorder()
    recorder.open.clear()
    async with listening(recorder) as listener, line_to(listener) as line:
        await line.say(ENHANCED)
        await recorder.asked.wait()
        first = asyncio.create_task(line.frame())
        done, _ = await asyncio.wait({first}, timeout=0.1)
        assert not done
        recorder.open.set()
        assert said(await first) == ["CA", "ORD-1"]
        assert len(recorder.taken) == 1
        answer = await line.frame()
        assert (said(answer), said(answer, "MSH")[8]) == (["AA", "ORD-1"], "ORL^O34^ORL_O34")


async def test_who_wants_no_answer_gets_none() -> None:
    async with listening(OrderRecorder()) as listener, line_to(listener) as line:
        await line.say(order(PID, SPM, ORC, OBR, f15="NE", f16="NE"), order(SPM, f15="AL", f16="AL", f10="ORD-2"))
        answer = await line.frame()
        assert (said(answer), said(answer, "MSH")[8]) == (["CE", "ORD-2"], "ACK^O33^ACK")


async def test_an_answer_is_in_the_characters_of_the_message() -> None:
    async with listening(OrderRecorder()) as listener, line_to(listener) as line:
        await line.say(order(PID.replace("Erika", "Ägidia"), SPM, ORC, OBR, f18="8859/1").encode("latin-1"))
        assert b"Muster^\xc4gidia" in await line.frame()


async def test_the_listener_ends_after_what_it_is_taking_and_before_anything_else() -> None:
    recorder = OrderRecorder()
    recorder.open.clear()
    async with listening(recorder) as listener:
        address = listener.address
        async with line_to(listener) as busy, line_to(listener) as idle:
            await busy.say(GOOD, GOOD)
            await recorder.asked.wait()
            closing = asyncio.create_task(listener.close())
            assert await idle.reader.read() == b""
            recorder.open.set()
            assert said(await busy.frame()) == ["AA", "ORD-1"]
            assert await busy.reader.read() == b""
            await closing
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
    assert len(recorder.taken) == 1


async def test_with_an_authority_only_its_senders_are_heard(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    told = {"hl7_tls_cert": ours.server, "hl7_tls_key": ours.server_key, "hl7_listen_ca": ours.ca}
    async with listening(OrderRecorder(), **told) as listener:
        for known in (others, None):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                async with line_to(listener, ssl=_context(ours.ca, known)) as line:
                    await line.say(GOOD)
                    await line.frame()
        async with line_to(listener) as line:
            await line.say(GOOD)
            with suppress(ConnectionError):
                assert b"MSA" not in await line.reader.read()
        async with line_to(listener, ssl=_context(ours.ca, ours)) as line:
            await line.say(GOOD)
            assert said(await line.frame()) == ["AA", "ORD-1"]


def _context(ca: Path, shown: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if shown:
        context.load_cert_chain(shown.client, shown.client_key)
    return context


def test_a_listener_without_an_address_is_not_made() -> None:
    with pytest.raises(ValueError, match="MARROWLENS_LIS_HL7_LISTEN"):
        OrderListener(LisSettings(), OrderRecorder().take, ConnectionMetrics(MetricRegistry()))
    with pytest.raises(RuntimeError, match="the listener is not bound"):
        _ = OrderListener(
            LisSettings(hl7_listen="127.0.0.1:0"), OrderRecorder().take, ConnectionMetrics(MetricRegistry())
        ).address
