"""The order listener: who may connect, connections per sender, and idle time."""

import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import forks
import pytest
import uvloop
from ordering import GOOD, OrderRecorder, line_to, listening, said, still_takes
from pydantic import ValidationError
from receivers import Line, certificates

from service.config.lis import LisSettings
from service.lis.exchange.mllp.listener import ConnectionSlots, OrderListener, holder_of


def counted(recorder: OrderRecorder, how: str) -> float | None:
    return recorder.registry.get_sample_value("marrowlens_lis_order_connections_ended_total", {"how": how})


def open_now(recorder: OrderRecorder) -> float | None:
    return recorder.registry.get_sample_value("marrowlens_lis_order_connections")


async def ended(line: Line) -> bool:
    """Whether the other side closes the connection; waits for it."""
    with suppress(ConnectionError):
        return await line.reader.read() == b""
    return True


async def until(true: Callable[[], bool]) -> None:
    """Run the loop until a condition holds."""
    for _ in range(100_000):
        if true():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


@asynccontextmanager
async def lines_to(
    listener: OrderListener, count: int, host: str = "127.0.0.1", **tls: Any
) -> AsyncIterator[list[Line]]:
    """Connections from one address, one after another."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(line_to(listener, local_addr=(host, 0), **tls)) for _ in range(count)]


@pytest.mark.parametrize("address", ["0.0.0.0:2576", "[::]:2576", "192.0.2.1:2576", "lis.example:2576", "0:2576"])
@pytest.mark.parametrize("with_tls", [False, True])
def test_an_address_that_others_reach_asks_for_certificates_or_consent(
    address: str, with_tls: bool, tmp_path: Path
) -> None:
    tls = {"hl7_tls_cert": tmp_path / "a", "hl7_tls_key": tmp_path / "b"} if with_tls else {}
    with pytest.raises(ValidationError, match="MARROWLENS_LIS_HL7_ALLOW_ANONYMOUS=true"):
        LisSettings(hl7_listen=address, **tls)
    assert LisSettings(hl7_listen=address, hl7_allow_anonymous=True, **tls).hl7_listen == address
    if with_tls:
        assert LisSettings(hl7_listen=address, hl7_listen_ca=tmp_path / "c", **tls).hl7_listen == address


@pytest.mark.parametrize("address", ["127.0.0.1:2576", "localhost:2576", "[::1]:2576", "127.8.9.10:0"])
def test_an_address_of_this_machine_alone_asks_for_nothing(address: str) -> None:
    assert LisSettings(hl7_listen=address).hl7_listen == address


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["config", "check"], ["lis", "deliver"]])
def test_the_start_and_the_check_say_the_same(command: list[str], tmp_path: Path) -> None:
    told = {"MARROWLENS_LIS_DATABASE": f"sqlite:///{tmp_path / 'lab.db'}", "MARROWLENS_LIS_HL7_LISTEN": "0.0.0.0:0"}
    ran = forks.run(command, {**os.environ, **told})
    assert ran.returncode == 2
    assert "MARROWLENS_LIS_HL7_LISTEN=0.0.0.0:0 can be reached by other machines" in ran.stderr
    assert "MARROWLENS_LIS_HL7_LISTEN_CA" in ran.stderr
    assert not (tmp_path / "lab.db").exists()


async def test_a_silent_connection_is_closed_and_noise_prolongs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    recorder = OrderRecorder()
    async with listening(recorder, hl7_idle_s=0.3) as listener:
        async with line_to(listener) as line:
            assert await ended(line)
        async with line_to(listener) as line:
            for _ in range(1000):
                line.writer.write(b"\r")
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        assert await ended(line)
                        break
            else:
                pytest.fail("noise kept the connection open")
        assert await still_takes(listener)
        await until(lambda: open_now(recorder) == 0)
        assert (counted(recorder, "idle"), counted(recorder, "closed")) == (2, 1)
    assert caplog.text.count("idle for 0.3 s") == 1  # the second one within a minute is counted alone


async def test_a_message_that_drips_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    recorder = OrderRecorder()
    async with listening(recorder, hl7_timeout_s=0.3) as listener, line_to(listener) as line:
        line.writer.write(b"\x0b")
        for _ in range(1000):
            line.writer.write(b"M")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    assert await ended(line)
                    break
        else:
            pytest.fail("a dripping message kept the connection open")
        await until(lambda: counted(recorder, "timeout") == 1)
    assert "time-out after 0.3 s" in caplog.text


async def test_one_address_cannot_hold_every_slot(caplog: pytest.LogCaptureFixture) -> None:
    recorder = OrderRecorder()
    async with listening(recorder, hl7_max_connections=6, hl7_max_connections_per_sender=4) as listener:
        async with lines_to(listener, 4, "127.0.0.2") as silent:
            async with lines_to(listener, 3, "127.0.0.2") as more:
                assert [await ended(line) for line in more] == [True, True, True]
            for _ in range(3):
                assert await still_takes(listener)
            await silent[0].say(GOOD)
            assert said(await silent[0].frame()) == ["AA", "ORD-1"]
            assert (counted(recorder, "refused"), open_now(recorder)) == (3, 4)
        await until(lambda: open_now(recorder) == 0)
        async with line_to(listener, local_addr=("127.0.0.2", 0)) as line:
            await line.say(GOOD)
            assert said(await line.frame()) == ["AA", "ORD-1"]
    assert caplog.text.count("connection from 127.0.0.2 refused") == 1


async def test_where_every_slot_is_silent_the_time_limit_silent_gives_way() -> None:
    recorder = OrderRecorder()
    async with listening(recorder, hl7_max_connections=4, hl7_max_connections_per_sender=2) as listener:
        async with lines_to(listener, 2, "127.0.0.2") as first, lines_to(listener, 2, "127.0.0.3") as second:
            await first[0].say(GOOD)  # now it is the other one that has been silent longest
            await first[0].frame()
            assert await still_takes(listener)
            assert await ended(first[1])
            for line in (first[0], *second):
                await line.say(GOOD)
                assert said(await line.frame()) == ["AA", "ORD-1"]
        assert counted(recorder, "displaced") == 1


async def test_senders_who_all_come_at_once_leave_every_slot_free() -> None:
    recorder = OrderRecorder()
    async with listening(recorder, hl7_max_connections=4, hl7_max_connections_per_sender=50) as listener:
        waiting = [socket.create_connection(listener.address) for _ in range(20)]  # before the loop takes the first
        await until(lambda: counted(recorder, "displaced") == 16)
        for each in waiting:
            each.close()
        await until(lambda: open_now(recorder) == 0)
        assert await still_takes(listener)


async def test_who_is_being_answered_gives_no_slot_away() -> None:
    recorder = OrderRecorder()
    recorder.open.clear()
    async with listening(recorder, hl7_max_connections=2) as listener, lines_to(listener, 2, "127.0.0.2") as busy:
        for line in busy:
            await line.say(GOOD)
        await recorder.asked.wait()
        async with line_to(listener) as line:
            await until(lambda: len(listener._idle) == 0 or bool(counted(recorder, "refused")))
            assert await ended(line)
        recorder.open.set()
        assert [said(await line.frame()) for line in busy] == [["AA", "ORD-1"]] * 2


async def test_connections_that_never_finish_tls_are_counted_and_give_way(tmp_path: Path) -> None:
    ours, recorder = certificates(tmp_path / "ours"), OrderRecorder()
    told = {"hl7_tls_cert": ours.server, "hl7_tls_key": ours.server_key, "hl7_listen_ca": ours.ca}
    async with listening(recorder, hl7_max_connections=4, hl7_max_connections_per_sender=2, **told) as listener:
        async with lines_to(listener, 2, "127.0.0.2") as first, lines_to(listener, 2, "127.0.0.3"):
            first[0].writer.write(b"\x16\x03\x01")  # the beginning of a handshake
            async with line_to(listener, ssl=shown(ours.ca, ours)) as line:
                await line.say(GOOD)
                assert said(await line.frame()) == ["AA", "ORD-1"]
            async with lines_to(listener, 1, "127.0.0.2") as more:
                await until(lambda: (counted(recorder, "refused") or 0) + (counted(recorder, "displaced") or 0) >= 1)
                del more
    async with listening(recorder, hl7_timeout_s=0.3, **told) as listener, line_to(listener) as line:
        assert await ended(line)
        await until(lambda: bool(counted(recorder, "tls")))


async def test_a_certificate_is_one_sender_from_whatever_address_and_names_itself(tmp_path: Path) -> None:
    ours, recorder = certificates(tmp_path / "ours"), OrderRecorder()
    told = {"hl7_tls_cert": ours.server, "hl7_tls_key": ours.server_key, "hl7_listen_ca": ours.ca}
    async with listening(recorder, hl7_max_connections_per_sender=2, **told) as listener:
        tls = {"ssl": shown(ours.ca, ours)}
        async with lines_to(listener, 1, "127.0.0.2", **tls) as one, lines_to(listener, 1, "127.0.0.3", **tls) as two:
            for line in (*one, *two):
                await line.say(GOOD)
                assert said(await line.frame()) == ["AA", "ORD-1"]
            async with lines_to(listener, 1, "127.0.0.4", **tls) as third:
                assert await ended(third[0])
                await until(lambda: counted(recorder, "refused") == 1)
    peers = [identity.peer for identity, _ in recorder.taken]
    assert [(peer.address, peer.certificate) for peer in peers] == [
        ("127.0.0.2", "CN=client"),
        ("127.0.0.3", "CN=client"),
    ]


def test_it_is_so_on_uvloop_too(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for number, same in enumerate(
            (
                test_a_certificate_is_one_sender_from_whatever_address_and_names_itself,
                test_connections_that_never_finish_tls_are_counted_and_give_way,
                test_a_renewed_certificate_is_used_for_the_next_connections,
            )
        ):
            (tmp_path / str(number)).mkdir()
            runner.run(same(tmp_path / str(number)))
        runner.run(test_where_every_slot_is_silent_the_time_limit_silent_gives_way())
        runner.run(test_senders_who_all_come_at_once_leave_every_slot_free())


async def test_without_certificates_a_sender_is_its_address_and_msh_3_a_claim() -> None:
    recorder = OrderRecorder()
    async with listening(recorder) as listener:
        assert await still_takes(listener)
    [(identity, _)] = recorder.taken
    assert (identity.peer.address, identity.peer.certificate, identity.sender) == ("127.0.0.1", None, "LIS|LAB")


async def test_a_renewed_certificate_is_used_for_the_next_connections(tmp_path: Path) -> None:
    old, new = certificates(tmp_path / "old"), certificates(tmp_path / "new")
    told = {"hl7_tls_cert": old.server, "hl7_tls_key": old.server_key, "hl7_listen_ca": old.ca}
    async with listening(OrderRecorder(), **told) as listener:
        async with line_to(listener, ssl=shown(old.ca, old)) as line:
            await line.say(GOOD)
            assert said(await line.frame()) == ["AA", "ORD-1"]
            known = shown(old.ca, old)
            old.server.write_text("not a certificate yet")
            async with line_to(listener, ssl=known) as other:
                await other.say(GOOD)
                assert said(await other.frame()) == ["AA", "ORD-1"]
            for name in ("ca", "server", "server_key"):
                shutil.copy(getattr(new, name), getattr(old, name))
            async with line_to(listener, ssl=shown(new.ca, new)) as other:
                await other.say(GOOD)
                assert said(await other.frame()) == ["AA", "ORD-1"]
            await line.say(GOOD)
            assert said(await line.frame()) == ["AA", "ORD-1"]


async def test_a_name_is_listened_at_and_an_address_that_is_taken_is_told() -> None:
    recorder = OrderRecorder()
    async with listening(recorder, hl7_listen="localhost:0") as listener:
        assert await still_takes(listener)
    with socket.create_server(("127.0.0.1", 0)) as other:
        listens = LisSettings(hl7_listen=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(OSError, match="in use"):
            async with listening(recorder, **listens.model_dump(include={"hl7_listen"})):
                pass


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_whose_slots_an_address_takes(one: str, other: str, same: bool) -> None:
    assert (holder_of(one) == holder_of(other)) is same


def test_a_slot_that_is_given_back_is_free() -> None:
    slots = ConnectionSlots(2)
    assert [slots.take("a"), slots.take("a"), slots.take("a"), slots.take("b")] == [True, True, False, True]
    slots.release("a")
    assert slots.take("a")


def shown(ca: Path, own: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(own.client, own.client_key)
    return context
