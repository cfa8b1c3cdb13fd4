"""The laboratory end to end with real processes: order (python-hl7), specimen (HTTP), result (simple-hl7 from npm)."""

import asyncio
import json
import os
import sqlite3
import subprocess
from pathlib import Path

import forks
import hl7
import hl7.mllp
import httpx
import pytest
from astm_peer import astm_receiver
from conftest import Draw
from databases import free_port
from fhir_peer import TOKEN, sekmet
from laboratory import OBR, ORC, PID, SPM, order
from receivers import node_receiver
from serving import Served, served
from signed_specimens import SECRETS, WHO, ordered, signed, state, until


def command(settings: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARROWLENS_")}
    environment |= {f"MARROWLENS_{name.upper()}": value for name, value in settings.items()}
    return forks.run(words, environment)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {
        "lis_database": f"sqlite:///{tmp_path / 'lab.db'}",
        "lis_hl7_listen": f"127.0.0.1:{free_port()}",
        "lis_retry_first_s": "0.05",
        "lis_hl7_timeout_s": "5",
    }


def order_port(settings: dict[str, str]) -> int:
    return int(settings["lis_hl7_listen"].split(":")[1])


def clean(service: Served) -> bool:
    """Whether a text holds no patient data."""
    return not any(word in line for line in service.lines for word in SECRETS)


def test_from_an_order_to_a_result_in_the_receiver(
    artefact: Path, tmp_path: Path, draw: Draw, settings: dict[str, str]
) -> None:
    with node_receiver("simple-hl7-receiver.js", tmp_path, "AA") as receiver:
        settings["lis_hl7_to"] = f"127.0.0.1:{receiver.port}"
        with served(artefact, **settings) as service:
            service.wait_listening()
            [answer] = asyncio.run(ordered(order_port(settings), order(PID, SPM, ORC, OBR)))
            assert "MSA|AA|ORD-1" in answer
            with httpx.Client(base_url=service.url, headers=WHO, timeout=30) as http:
                specimen = signed(http, draw)
                until(http, f"/specimens/{specimen}", lambda found: state(found) == ["delivered"])
                report = http.get(f"/specimens/{specimen}/reports/1").json()
            assert clean(service), service.lines
        [message] = [hl7.parse(each["raw"]) for each in receiver.received()]
    assert str(message.segment("PID")[3]).startswith("100234^")
    assert (str(message.segment("ORC")[2]), str(message.segment("OBR")[3])) == ("P-77", "F-12")
    assert (str(message.segment("OBR")[25]), "beispiel" in str(message.segment("OBR")[32])) == ("F", True)
    counted = [str(obx[5]) for obx in message.segments("OBX") if str(obx[3]).startswith("COUNTED^")]
    assert counted == [str(report["differential"]["counted"])]
    verified = command(settings, "audit", "verify")
    assert (verified.returncode, verified.stdout.split(":")[0]) == (0, "4")  # order, cells, signature, delivery


@pytest.mark.slow
def test_a_refused_report_is_a_dead_letter_that_the_commands_show_and_send_again(
    artefact: Path, tmp_path: Path, draw: Draw, settings: dict[str, str]
) -> None:
    with node_receiver("simple-hl7-receiver.js", tmp_path, "AE") as receiver:
        settings["lis_hl7_to"] = f"127.0.0.1:{receiver.port}"
        with served(artefact, **settings) as service:
            service.wait_listening()
            asyncio.run(ordered(order_port(settings), order(PID, SPM, ORC, OBR)))
            with httpx.Client(base_url=service.url, headers=WHO, timeout=30) as http:
                specimen = signed(http, draw)
                dead = until(http, f"/specimens/{specimen}", lambda found: state(found) == ["dead"])
                [message] = dead["versions"][0]["messages"]
                assert (message["attempts"], message["reason"].startswith("AE")) == (1, True)
            assert clean(service), service.lines
    assert json.loads(command(settings, "lis", "status", "--json").stdout) == [
        {"channel": "hl7", "waiting": 0, "dead": 1, "oldest_s": 0.0, "held": []}
    ]
    shown = command(settings, "lis", "show")
    assert message["control_id"] in shown.stdout and not any(word in shown.stdout for word in SECRETS)
    one = command(settings, "lis", "show", message["control_id"])
    assert f"MSA|AE|{message['control_id']}" in one.stdout and "Muster" not in one.stdout
    assert "Muster" in command(settings, "lis", "show", "--message", message["control_id"]).stdout
    with node_receiver("simple-hl7-receiver.js", tmp_path, "AA") as receiver:
        assert command(settings, "lis", "retry", "--all").stdout == "1 queued again\n"
        again = command(settings, "lis", "retry", message["control_id"])
        assert (again.returncode, "is waiting" in again.stderr) == (2, True)
        settings["lis_hl7_to"] = f"127.0.0.1:{receiver.port}"
        with served(artefact, **settings) as service:
            service.wait_listening()
            with httpx.Client(base_url=service.url, timeout=30) as http:
                until(http, f"/specimens/{specimen}", lambda found: state(found) == ["delivered"])
        [received] = receiver.received()
    assert f"|{message['control_id']}|" in received["raw"]


@pytest.mark.slow
def test_a_message_is_dropped_with_a_reason_that_stays(artefact: Path, draw: Draw, settings: dict[str, str]) -> None:
    settings["lis_hl7_to"] = f"127.0.0.1:{free_port()}"  # nobody is there
    with served(artefact, **settings) as service:
        service.wait_listening()
        asyncio.run(ordered(order_port(settings), order(PID, SPM, ORC, OBR)))
        with httpx.Client(base_url=service.url, headers=WHO, timeout=30) as http:
            specimen = signed(http, draw)
            tried = until(
                http,
                f"/specimens/{specimen}",
                lambda found: found["versions"][0]["messages"][0]["attempts"] >= 3,
            )
            [message] = tried["versions"][0]["messages"]
            assert message["state"] == "waiting"
            metrics = until_metric(http, 'marrowlens_lis_outbox_messages{channel="hl7"} 1.0')
            assert 'marrowlens_lis_delivery_attempts_total{channel="hl7",outcome="unanswered"}' in metrics
        assert service.stop() == 0
    dropped = command(settings, "lis", "drop", message["control_id"], "--why", "the receiver is gone")
    assert (dropped.returncode, dropped.stdout) == (0, "1 dropped\n")
    assert command(settings, "lis", "status").stdout == "no waiting messages, no dead letters\n"
    assert command(settings, "audit", "verify").returncode == 0


def until_metric(http: httpx.Client, line: str) -> str:
    for _ in range(20_000):
        if line in (text := http.get("/metrics").text):
            return text
    raise AssertionError(f"{line} never came")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lis_database": "mysql://host/lab"}, "MARROWLENS_LIS_DATABASE: unsupported database mysql"),
        ({"lis_database": "postgresql+psycopg://x:word@127.0.0.1:9/x"}, "MARROWLENS_LIS_DATABASE: the database does"),
        ({"lis_me_myeloid": "granulocytic,BLASTS"}, "MARROWLENS_LIS_ME_MYELOID, MARROWLENS_LIS_ME_ERYTHROID: BLASTS"),
        ({"lis_codes": "/nowhere.csv"}, "MARROWLENS_LIS_CODES: /nowhere.csv"),
        ({"lis_hl7_tls_ca": "/nowhere.pem", "lis_hl7_to": "127.0.0.1:9"}, "MARROWLENS_LIS_HL7_TLS_CA"),
        ({"lis_hl7_listen": "192.0.2.1:2575"}, "MARROWLENS_LIS_HL7_LISTEN"),
        ({"lis_pictures": "/proc/pictures"}, "MARROWLENS_LIS_PICTURES"),
    ],
)
def test_a_setting_that_cannot_be_used_is_said_in_a_line(
    artefact: Path, settings: dict[str, str], changed: dict[str, str], said: str
) -> None:
    with served(artefact, **(settings | changed)) as service:
        assert service.wait_ended() == 2
    assert len(service.lines) == 1, service.lines
    assert said in service.lines[0] and "word" not in service.lines[0]


@pytest.mark.parametrize(
    "words", [("lis", "status"), ("lis", "show"), ("lis", "retry", "--all"), ("lis", "deliver"), ("audit", "verify")]
)
def test_the_commands_ask_for_a_laboratory(words: tuple[str, ...]) -> None:
    done = command({}, *words)
    assert (done.returncode, "set MARROWLENS_LIS_DATABASE" in done.stderr) == (2, True)


@pytest.mark.slow
def test_an_edited_trail_is_told_by_the_command(artefact: Path, settings: dict[str, str]) -> None:
    with served(artefact, **settings) as service:
        service.wait_listening()
        asyncio.run(ordered(order_port(settings), order(PID, SPM, ORC, OBR)))
    before = command(settings, "audit", "verify")
    path = settings["lis_database"].removeprefix("sqlite:///")

    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE audit SET actor = 'somebody else'")
    connection.close()
    after = command(settings, "audit", "verify", "--known", before.stdout.strip())
    assert (before.returncode, after.returncode) == (0, 1)
    assert "row 1: was edited" in after.stderr
    assert command(settings, "audit", "verify", "--known", "nonsense").returncode == 2


def test_one_signature_reaches_receivers_of_every_kind(
    artefact: Path, tmp_path: Path, draw: Draw, settings: dict[str, str]
) -> None:
    with (
        node_receiver("simple-hl7-receiver.js", tmp_path, "AA") as hl7_receiver,
        sekmet(tmp_path) as fhir,
        astm_receiver() as astm,
    ):
        settings |= {
            "lis_hl7_to": f"127.0.0.1:{hl7_receiver.port}",
            "lis_astm_to": f"127.0.0.1:{astm.port}",
            "lis_fhir_url": fhir.url,
            "lis_fhir_token": TOKEN,
            "lis_fhir_patient_systems": "HOSPITAL=urn:oid:1.2.3.4",
            "lis_pictures": str(tmp_path / "pictures"),
            "lis_fhir_pictures": "true",
        }
        with served(artefact, **settings) as service:
            service.wait_listening()
            asyncio.run(ordered(order_port(settings), order(PID, SPM, ORC, OBR)))
            with httpx.Client(base_url=service.url, headers=WHO, timeout=30) as http:
                specimen = signed(http, draw)
                until(http, f"/specimens/{specimen}", lambda found: state(found) == ["delivered"] * 3)
                report = http.get(f"/specimens/{specimen}/reports/1").json()
                codes = {cell["code"] for cell in http.get(f"/specimens/{specimen}/cells").json()["cells"]}
            assert clean(service), service.lines
        counted = report["differential"]["counted"]
        [message] = [hl7.parse(each["raw"]) for each in hl7_receiver.received()]
        [told] = astm.told()["messages"]
        [diagnostic] = fhir.of_patient("DiagnosticReport", "100234")
        observations = {each["code"]["coding"][0]["code"]: each for each in fhir.of_patient("Observation", "100234")}
        media = fhir.of_patient("Media", "100234")
    [by_hl7] = [str(obx[5]) for obx in message.segments("OBX") if str(obx[3]).startswith("COUNTED^")]
    [by_astm] = [each["value"] for each in told["results"] if "COUNTED" in json.dumps(each)]
    by_fhir = observations["COUNTED"]["valueQuantity"]["value"]
    assert (by_hl7, by_astm, by_fhir) == (str(counted), str(counted), counted)
    assert diagnostic["status"] == "final"
    # Of each class one cell, as it was sent and with its evidence drawn over it.
    assert len(media) == 2 * len(codes)


@pytest.mark.slow
def test_all_dead_letters_are_sent_again_but_those_that_would_take_a_later_report_back(
    artefact: Path, tmp_path: Path, draw: Draw, settings: dict[str, str]
) -> None:
    with node_receiver("simple-hl7-receiver.js", tmp_path, "AE") as receiver:
        settings["lis_hl7_to"] = f"127.0.0.1:{receiver.port}"
        with served(artefact, **settings) as service:
            service.wait_listening()
            asyncio.run(ordered(order_port(settings), order(PID, SPM, ORC, OBR)))
            with httpx.Client(base_url=service.url, headers=WHO, timeout=30) as http:
                specimen = signed(http, draw)
                until(http, f"/specimens/{specimen}", lambda found: state(found) == ["dead"])
                http.post(f"/specimens/{specimen}/amend", json={"revision": 3, "reason": "again"}).raise_for_status()
                wish = {"revision": 4, "accept_unread": True, "accept_below_target": True}
                http.post(f"/specimens/{specimen}/sign", json=wish).raise_for_status()
                found = until(http, f"/specimens/{specimen}", lambda found: state(found) == ["dead", "dead"])
    first, second = (version["messages"][0]["control_id"] for version in found["versions"])
    with node_receiver("simple-hl7-receiver.js", tmp_path, "AA") as receiver:
        settings["lis_hl7_to"] = f"127.0.0.1:{receiver.port}"
        assert command(settings, "lis", "retry", second).stdout == "1 queued again\n"
        with served(artefact, **settings) as service:
            service.wait_listening()
            with httpx.Client(base_url=service.url, timeout=30) as http:
                until(http, f"/specimens/{specimen}", lambda found: state(found) == ["dead", "delivered"])
    everything = command(settings, "lis", "retry", "--all")
    assert (everything.returncode, everything.stdout) == (0, "0 queued again\n")
    assert f"{first} not sent: the specimen has a later report" in everything.stderr
    one = command(settings, "lis", "retry", first)
    assert (one.returncode, f"{first} not sent" in one.stderr) == (2, True)
