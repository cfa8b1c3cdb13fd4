"""The MLLP transport with independent receivers, for every acknowledgement mode, charset and TLS setting."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import hl7.mllp
import pytest
from receivers import Receiver, certificates, hl7apy_receiver, node_receiver
from typer.testing import CliRunner
from wires import oru, transport_to

from service.app import create_app
from service.cli.main import app
from service.config.lis import LaboratoryConfigError, LisSettings
from service.config.settings import Settings
from service.lis.exchange.mllp.transport import MllpTransport
from service.lis.exchange.transport import NoAnswer, Rejected

NODE_RECEIVERS = ["simple-hl7-receiver.js", "node-hl7-receiver.js"]


def messages(receiver: Receiver) -> list[str]:
    """The messages of a receiver, each once.

    node-hl7-server 2.5.0 never forgets what came before by the same connection: it takes and answers it again with each
    message. Those answers are late ones.
    """
    return list(dict.fromkeys(each["raw"].strip("\x0b\x1c\r") for each in receiver.received()))


@pytest.mark.parametrize("script", NODE_RECEIVERS)
async def test_reports_arrive_whole_one_after_another(script: str, tmp_path: Path) -> None:
    with node_receiver(script, tmp_path, "AA") as receiver:
        async with transport_to(receiver.port) as wire:
            for control_id in ("r-1", "r-2", "r-3"):
                assert f"MSA|AA|{control_id}" in await wire.deliver(oru(control_id), control_id)
        received = messages(receiver)
    assert received == [oru(control_id).rstrip("\r") for control_id in ("r-1", "r-2", "r-3")]


async def test_simple_hl7_reads_the_values_that_were_sent(tmp_path: Path) -> None:
    with node_receiver(NODE_RECEIVERS[0], tmp_path, "AA") as receiver:
        async with transport_to(receiver.port) as wire:
            await wire.deliver(oru("r-1"), "r-1")
        (received,) = receiver.received()
    assert (received["type"], received["event"]) == ("ORU", "R01")
    assert ["BLA^Blast^99MARROWLENS^11150-0^Blast^LN", "1.2"] in received["results"]


@pytest.mark.parametrize("script", NODE_RECEIVERS)
@pytest.mark.parametrize("answer", ["AE", "AR"])
async def test_a_no_is_final(script: str, answer: str, tmp_path: Path) -> None:
    with node_receiver(script, tmp_path, answer) as receiver:
        async with transport_to(receiver.port) as wire:
            for control_id in ("r-1", "r-2"):
                with pytest.raises(Rejected, match=f"^{answer}; no reason given$") as rejected:
                    await wire.deliver(oru(control_id), control_id)
                assert f"MSA|{answer}|{control_id}" in rejected.value.reply
        assert len(messages(receiver)) == 2


@pytest.mark.parametrize("script", NODE_RECEIVERS)
async def test_silence_is_no_answer(script: str, tmp_path: Path) -> None:
    with node_receiver(script, tmp_path, "silent") as receiver:
        async with transport_to(receiver.port, hl7_timeout_s=0.3) as wire:
            with pytest.raises(NoAnswer, match=r"^no answer within 0\.3 s$"):
                await wire.deliver(oru("r-1"), "r-1")


async def test_hl7apy_takes_what_is_sent_by_its_strict_rules_and_closes_each_time() -> None:
    with hl7apy_receiver() as (port, taken):
        async with transport_to(port) as wire:
            for control_id in ("r-1", "r-2", "r-3"):
                await wire.deliver(oru(control_id, hl7_message="OUL_R22"), control_id)
            with pytest.raises(NoAnswer):  # its own way to refuse is to hang up
                await wire.deliver(oru("r-4").replace("Muster^Erika^^^^^L", ""), "r-4")
    assert [each.split("|")[9] for each in taken] == ["r-1", "r-2", "r-3"]


async def test_python_hl7_takes_reports() -> None:
    ended = asyncio.Event()

    async def converse(reader: Any, writer: Any) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.writemessage((await reader.readmessage()).create_ack())
                await writer.drain()
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await hl7.mllp.start_hl7_server(converse, "127.0.0.1", 0, encoding="utf-8") as server:
        async with transport_to(server.sockets[0].getsockname()[1]) as wire:
            for control_id in ("r-1", "r-2"):
                await wire.deliver(oru(control_id), control_id)
        await ended.wait()


async def test_tls_is_spoken_with_whom_the_authority_vouches_for(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    pem = (ours.server_key, ours.server, ours.ca)
    shown = {"hl7_tls_cert": ours.client, "hl7_tls_key": ours.client_key}
    with node_receiver("node-hl7-receiver.js", tmp_path, "AA", *pem) as receiver:
        async with transport_to(receiver.port, hl7_tls_ca=ours.ca, **shown) as wire:
            for control_id in ("r-1", "r-2"):
                await wire.deliver(oru(control_id), control_id)
        for told in (
            {"hl7_tls_ca": others.ca, **shown},  # an authority that does not know the receiver
            {"hl7_tls_ca": ours.ca},  # no certificate of our own
            {"hl7_tls_ca": ours.ca, "hl7_tls_cert": others.client, "hl7_tls_key": others.client_key},
            {"hl7_timeout_s": 1.0},  # no TLS at all
        ):
            async with transport_to(receiver.port, **told) as wire:
                with pytest.raises(NoAnswer):
                    await wire.deliver(oru("r-3"), "r-3")
        assert len(messages(receiver)) == 2


async def test_the_name_in_the_certificate_is_checked(tmp_path: Path) -> None:
    elsewhere = certificates(tmp_path / "elsewhere", host="127.0.0.2")
    pem = (elsewhere.server_key, elsewhere.server, elsewhere.ca)
    shown = {"hl7_tls_cert": elsewhere.client, "hl7_tls_key": elsewhere.client_key}
    with node_receiver("node-hl7-receiver.js", tmp_path, "AA", *pem) as receiver:
        async with transport_to(receiver.port, hl7_tls_ca=elsewhere.ca, **shown) as wire:
            with pytest.raises(NoAnswer, match="certificate is invalid: IP address mismatch"):
                await wire.deliver(oru("r-1"), "r-1")
    with pytest.raises(ssl.SSLError):
        MllpTransport(LisSettings(hl7_to="127.0.0.1:1", hl7_tls_ca=elsewhere.server_key))


@pytest.mark.parametrize("name", ["hl7_to", "hl7_listen", "astm_to", "fhir_url"])
def test_a_connection_without_a_laboratory_stops_the_start(name: str, artefact: Path) -> None:
    address = "http://127.0.0.1:1/fhir" if name == "fhir_url" else "127.0.0.1:2575"
    settings = Settings(artefact=artefact, lis=LisSettings(**{name: address}))
    setting = f"MARROWLENS_LIS_{name.upper()}"
    with pytest.raises(LaboratoryConfigError, match=f"{setting} needs MARROWLENS_LIS_DATABASE"):
        create_app(settings)
    result = CliRunner().invoke(app, ["config", "check"], env={setting: address})
    assert result.exit_code != 0
    assert f"{setting} needs MARROWLENS_LIS_DATABASE" in " ".join(result.output.split())
