"""Audit rows for reads of patients' data, and digests of replaced values."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forks
import pytest
from conftest import Draw
from lab import open_request, return_to, use_cases, user
from serving import client, refused
from sqlalchemy import select, text

from service.config.lis import LisSettings
from service.lis.domain.report import Order, Patient
from service.lis.schemas import ChangeSpecimen
from service.lis.storage import audit, audit_checks
from service.lis.storage.database import Database
from service.lis.storage.digests import digest_of_value
from service.lis.storage.tables import AuditRow, SpecimenRow

PATIENT = {"identifier": "SECRET-100234", "family": "Canaryname", "given": "Erika", "birth_date": "1964-08-12"}
WHO = {"X-Acting-User": "m.muster"}


def command(url: str, *words: str, typed: str = "", **told: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "MARROWLENS_LIS_DATABASE": url, "LOGNAME": "operator", **told}
    return forks.run(words, environment, typed=typed)


def rows(url: str, action: str) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Actor, specimen and details of each row of an action."""
    database = Database(url)
    with database.reading() as session:
        found = [(row.actor, row.specimen_id, json.loads(row.details)) for row in audit.read_rows(session, action)]
    database.close()
    return found


def test_every_look_leaves_one_row_with_who_and_what_and_none_of_the_data(
    artefact: Path, database_url: str, tmp_path: Path, draw: Draw
) -> None:
    lis = LisSettings(database=database_url, audit_reads=True, pictures=tmp_path / "pictures")
    with client(artefact, lis=lis) as http:
        made = http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}, headers=WHO).json()
        at = f"/specimens/{made['id']}"
        added = http.post(f"{at}/cells", files={"images": draw(1)}, headers=WHO).json()
        signed = {"revision": added["revision"], "accept_unread": True, "accept_below_target": True}
        assert http.post(f"{at}/sign", json=signed, headers=WHO).status_code == 200
        polled = http.get(f"{at}/revision")  # without a name: it holds no data
        assert polled.json() == {"revision": added["revision"] + 1, "present": []}
        assert rows(database_url, "look") == []
        looks = {
            "": "specimen",
            "/differential": "differential",
            "/cells?only=unread": "cells",
            "/cells/1": "cells/1",
            "/cells/1/picture?kind=picture": "cells/1/picture",
            "/reports/1": "reports/1",
            "/reports/1/pdf": "reports/1/pdf",
            "/comparison": "comparison",
            "/comment-templates": "comment-templates",
            "/audit": "audit",
        }
        for path in looks:
            assert http.get(at + path, headers={"X-Acting-User": "Dr. A. Beispiel"}).status_code == 200, path
        assert http.get("/specimens?number=BM-1", headers={"X-Acting-User": "scanner"}).status_code == 200
    found = rows(database_url, "look")
    assert [(actor, specimen, details["what"]) for actor, specimen, details in found] == [
        *(("Dr. A. Beispiel", made["id"], what) for what in looks.values()),
        ("scanner", None, "list"),
    ]
    said = json.dumps(found)
    assert not [word for word in (*PATIENT.values(), "BM-1") if word in said]
    assert all(set(details) == {"what", "identity"} for _, _, details in found)


def test_the_worklist_and_a_preview_are_looks(artefact: Path, database_url: str, draw: Draw) -> None:
    with client(artefact, lis=LisSettings(database=database_url, audit_reads=True)) as http:
        made = http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}, headers=WHO).json()
        at = f"/specimens/{made['id']}"
        added = http.post(f"{at}/cells", files={"images": draw(1)}, headers=WHO).json()
        wanted = {"revision": added["revision"], "accept_unread": True, "accept_below_target": True}
        assert http.post(f"{at}/preview", json=wanted, headers=WHO).status_code == 200
        assert http.get("/worklist", headers=WHO).status_code == 200
        assert http.get(f"{at}/revision").json() == {"revision": added["revision"], "present": []}
    found = [(specimen, details["what"]) for _, specimen, details in rows(database_url, "look")]
    assert found == [(made["id"], "preview"), (None, "list")]


def test_no_look_without_a_name_and_no_row_of_what_is_not_there(artefact: Path, database_url: str) -> None:
    with client(artefact, lis=LisSettings(database=database_url, audit_reads=True)) as http:
        made = http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}, headers=WHO).json()
        refused(http.get(f"/specimens/{made['id']}"), 422, "invalid-parameter")
        refused(
            http.get(f"/specimens/{made['id']}", headers={"X-Acting-User": "m\u200bm".encode()}),
            422,
            "invalid-parameter",
        )
        refused(http.get(f"/specimens/{'0' * 32}", headers=WHO), 404, "unknown-specimen")
        for path in (
            "not-an-id",
            "%00",
            f"{made['id']}/cells/x",
            f"{made['id']}/cells/%00",
            f"{made['id']}/reports/-1",
        ):
            refused(http.get(f"/specimens/{path}", headers=WHO), 422, "invalid-parameter")
    assert rows(database_url, "look") == []


def test_a_look_that_cannot_be_written_down_is_not_answered(artefact: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    with client(artefact, lis=LisSettings(database=url, audit_reads=True)) as http:
        made = http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}, headers=WHO).json()
        database = Database(url)
        with database.writing() as session:
            session.execute(text("DELETE FROM audit_head"))
        database.close()
        answer = http.get(f"/specimens/{made['id']}", headers=WHO)
        assert answer.status_code >= 500 and "Canaryname" not in answer.text


def test_without_the_setting_a_look_leaves_no_row_and_needs_no_name(artefact: Path, database_url: str) -> None:
    with client(artefact, lis=LisSettings(database=database_url)) as http:
        made = http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}, headers=WHO).json()
        assert http.get(f"/specimens/{made['id']}").status_code == 200
    assert rows(database_url, "look") == []


def test_a_change_leaves_a_digest_of_what_it_replaced_and_verifies(database_url: str) -> None:
    with use_cases(database_url) as front:
        opened = front.open(open_request(patient=Patient(**PATIENT)), user("m.muster"))
        new = ChangeSpecimen(revision=1, patient=Patient(identifier="2"), order=Order(), megakaryocytes=3)
        front.change(opened.id, new, user("m.muster"))
        front.change(opened.id, ChangeSpecimen(revision=2, patient=Patient(identifier="2")), user("m.muster"))
        first, second = (details for _, _, details in rows(database_url, "change"))
        # Of three fields two had another value before.
        assert (set(first["before"]), first["fields"]) == (
            {"patient", "megakaryocytes"},
            ["patient", "order", "megakaryocytes"],
        )
        assert second["before"] == {}
        with front.database.reading() as session:
            key = session.scalars(select(SpecimenRow.digest_key)).one() or ""
            stored = {**PATIENT, "birth_date": "1964-08-12"}
            assert first["before"]["patient"] == digest_of_value(key, opened.id, 2, "patient", stored)
            end, faults = audit.verify(session)
            assert (end.number, faults, audit_checks.verify(session).mismatches) == (3, [], [])
            trail = json.dumps([row.details for row in session.scalars(select(AuditRow))])
    assert len(key) == 64 and key not in trail
    for guess in (stored, ["", 2, "patient", stored], [opened.id, 2, "patient", stored]):
        for written in (json.dumps(guess), json.dumps(guess, sort_keys=True)):
            assert hashlib.sha256(written.encode()).hexdigest() not in trail


def test_equal_values_have_two_digests_and_each_specimen_its_own_key(tmp_path: Path) -> None:
    digests, keys = set[str](), set[str]()
    for name in ("one", "two"):
        url = f"sqlite:///{tmp_path / name}.db"
        with use_cases(url) as front:
            for number in ("BM-1", "BM-2"):
                opened = front.open(open_request(number, patient=Patient(identifier="1")), user("m.muster"))
                front.change(opened.id, ChangeSpecimen(revision=1, patient=Patient(identifier="2")), user("m.muster"))
            with front.database.reading() as session:
                keys.update(session.scalars(select(SpecimenRow.digest_key)))
        digests.update(details["before"]["patient"] for _, _, details in rows(url, "change"))
    assert (len(digests), len(keys)) == (4, 4)


@pytest.mark.slow
def test_a_value_is_compared_with_what_a_row_replaced(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    with use_cases(url) as front:
        opened = front.open(open_request(patient=Patient(**PATIENT)), user("m.muster"))
        front.change(opened.id, ChangeSpecimen(revision=1, patient=Patient(identifier="2")), user("m.muster"))
    for typed, row, code, said in (
        (json.dumps(dict(reversed(PATIENT.items()))), "2", 0, "row 2 replaced this value of patient"),
        (json.dumps(PATIENT | {"given": "Erica"}), "2", 1, "row 2 replaced another value"),
        ("{", "2", 2, "not valid JSON"),
        ("{}", "1", 2, "row 1 has no digest"),
        ("{}", "99", 2, "row 99 has no digest"),
    ):
        done = command(url, "audit", "compare", row, typed=typed)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
    assert command(url, "audit", "verify").returncode == 0


@pytest.mark.slow
def test_a_message_that_a_command_shows_is_a_look(artefact: Path, tmp_path: Path, draw: Draw) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    with client(artefact, lis=LisSettings(database=url, hl7_to="127.0.0.1:9", deliver=False)) as http:
        http.headers.update(WHO)
        made = http.post("/specimens", json={"number": "BM-1", "patient": PATIENT}).json()
        added = http.post(f"/specimens/{made['id']}/cells", files={"images": draw(1)}).json()
        wanted = {"revision": added["revision"], "accept_unread": True, "accept_below_target": True}
        http.post(f"/specimens/{made['id']}/sign", json=wanted)
        [version] = http.get(f"/specimens/{made['id']}").json()["versions"]
    control_id = version["messages"][0]["control_id"]
    assert "Canaryname" in command(url, "lis", "show", control_id, "--message").stdout
    assert rows(url, "look") == []
    told = {"MARROWLENS_LIS_AUDIT_READS": "true"}
    assert command(url, "lis", "show", **told).returncode == 0
    assert "Canaryname" in command(url, "lis", "show", control_id, "--message", **told).stdout
    listed, shown = [(actor, specimen, details["what"]) for actor, specimen, details in rows(url, "look")]
    assert listed == ("operator", None, "messages")  # a reason may quote a patient
    assert shown == ("operator", made["id"], f"message {control_id}")


def test_a_database_of_the_first_version_gets_its_key_and_its_rows_still_verify(database_url: str) -> None:
    with use_cases(database_url) as front:
        opened = front.open(open_request(), user("m.muster"))
        with front.database.writing() as session:  # as it was before
            return_to(session, "0001")
        assert not front.database.is_current()
        front.database.migrate()
        front.change(opened.id, ChangeSpecimen(revision=1, patient=Patient(identifier="2")), user("m.muster"))
        with front.database.reading() as session:
            assert audit.verify(session)[1] == []
