"""A restored backup: nothing is delivered until a person has decided about each message; F never follows C."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from conftest import Draw
from databases import free_port
from receivers import hl7apy_receiver
from serving import Served, served
from signed_specimens import WHO, state, until
from typer.testing import CliRunner

from service.cli.main import app as command_line

SIGN = {"accept_unread": True, "accept_below_target": True}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {
        "lis_database": f"sqlite:///{tmp_path / 'lab.db'}",
        "lis_hl7_to": f"127.0.0.1:{free_port()}",
        "lis_retry_first_s": "0.05",
        "lis_retry_most_s": "0.1",
    }


def command(settings: dict[str, str], *words: str, code: int = 0) -> str:
    environment = {f"MARROWLENS_{name.upper()}": value for name, value in settings.items()}
    done = CliRunner().invoke(command_line, words, env=environment)
    assert done.exit_code == code, done.output
    return done.output


def client(service: Served) -> httpx.Client:
    service.wait_listening()
    return httpx.Client(base_url=service.url, headers=WHO, timeout=30)


def sign(http: httpx.Client, specimen: str) -> None:
    revision = http.get(f"/specimens/{specimen}").json()["revision"]
    http.post(f"/specimens/{specimen}/sign", json={"revision": revision, **SIGN}).raise_for_status()


def amended(http: httpx.Client, specimen: str) -> None:
    revision = http.get(f"/specimens/{specimen}").json()["revision"]
    body = {"revision": revision, "reason": "read again"}
    http.post(f"/specimens/{specimen}/amend", json=body).raise_for_status()
    sign(http, specimen)


def statuses(messages: list[str]) -> list[str]:
    """OBR-25 of each message."""
    return [re.findall(r"OBR(?:\|[^|\r]*){24}\|([PFC])", message)[0] for message in messages]


@pytest.mark.slow
def test_a_restored_final_report_does_not_follow_its_correction(
    artefact: Path, tmp_path: Path, draw: Draw, settings: dict[str, str]
) -> None:
    database, backup = tmp_path / "lab.db", tmp_path / "backup.db"
    with served(artefact, **settings, lis_deliver="false") as service, client(service) as http:  # F waits
        specimen = http.post("/specimens", json={"number": "BM-1", "patient": {"identifier": "1"}}).json()["id"]
        http.post(f"/specimens/{specimen}/cells", files={"images": draw(1)}).raise_for_status()
        sign(http, specimen)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    with hl7apy_receiver() as (port, taken):
        settings["lis_hl7_to"] = f"127.0.0.1:{port}"
        with served(artefact, **settings) as service, client(service) as http:
            until(http, f"/specimens/{specimen}", lambda found: state(found) == ["delivered"])
            amended(http, specimen)
            until(http, f"/specimens/{specimen}", lambda found: state(found) == ["delivered"] * 2)
        assert statuses(taken) == ["F", "C"]
        for ending in ("-wal", "-shm"):
            database.with_name(f"lab.db{ending}").unlink(missing_ok=True)
        shutil.copy(backup, database)

        off = settings | {"lis_delivery": "off"}
        with served(artefact, **off) as service, client(service) as http:
            service.wait_said("delivery is off: 1 waiting message held")
            held = until(http, f"/specimens/{specimen}", lambda found: state(found) == ["held"])
            amended(http, specimen)
            assert 'marrowlens_lis_outbox_messages{channel="hl7"}' in http.get("/metrics").text
        control_id = held["versions"][0]["messages"][0]["control_id"]
        [depth] = json.loads(command(off, "lis", "status", "--json"))
        assert (depth["held"], depth["waiting"]) == ([control_id], 1)
        assert "the receiver may already have" in command(off, "lis", "status")
        assert control_id in command(off, "lis", "show")
        assert "DELIVERY=off" in command(off, "lis", "deliver", code=2)
        assert len(taken) == 2

        # The receiver has F: its number is confirmed there. The new correction then leaves, and F does not.
        assert "1 confirmed" in command(settings, "lis", "confirm", control_id)
        with served(artefact, **settings) as service, client(service) as http:
            until(http, f"/specimens/{specimen}", lambda found: state(found) == ["delivered"] * 2)
        assert "is delivered" in command(settings, "lis", "retry", control_id, code=2)
    assert statuses(taken) == ["F", "C", "C"]
    command(settings, "audit", "verify")


@pytest.mark.slow
def test_a_held_report_is_sent_in_its_order_or_not_at_all(artefact: Path, draw: Draw, settings: dict[str, str]) -> None:
    with served(artefact, **settings) as service, client(service) as http:
        for number in ("BM-1", "BM-2"):
            made = http.post("/specimens", json={"number": number, "patient": {"identifier": number}}).json()["id"]
            http.post(f"/specimens/{made}/cells", files={"images": draw(1)}).raise_for_status()
            sign(http, made)
            amended(http, made)
    command(settings | {"lis_delivery": "off"}, "lis", "status")  # a command holds nothing
    with served(artefact, **settings, lis_delivery="off") as service:
        service.wait_listening()
    [depth] = json.loads(command(settings, "lis", "status", "--json"))
    first, first_again, second, second_again = depth["held"]
    with hl7apy_receiver() as (port, taken):
        settings["lis_hl7_to"] = f"127.0.0.1:{port}"
        command(settings, "lis", "retry", first_again, second_again)
        command(settings, "lis", "retry", first)
        command(settings, "lis", "drop", second, "--why", "the receiver has it")
        with served(artefact, **settings) as service, client(service) as http:
            for each in http.get("/specimens").json()["specimens"]:
                wanted = {"BM-1": ["delivered"] * 2, "BM-2": ["dropped", "delivered"]}[each["number"]]
                until(http, f"/specimens/{each['id']}", lambda found, wanted=wanted: state(found) == wanted)
    assert sorted(statuses(taken)) == ["C", "C", "F"]
    of_first = [status for status, message in zip(statuses(taken), taken, strict=True) if "BM-1" in message]
    assert of_first == ["F", "C"]
    assert "is dropped" in command(settings, "lis", "retry", second, code=2)
