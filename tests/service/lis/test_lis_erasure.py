"""Erasure and retention: a patient's data go, the counts and a trail that verifies stay."""

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from conftest import Draw
from lab import classified, manifest, open_request, sign_request, use_cases, user
from serving import client, refused
from sqlalchemy import select, text, update
from starlette.testclient import TestClient
from typer.testing import CliRunner

from service.cli.main import app as command_line
from service.config.lis import LisSettings
from service.errors import Conflict, UnknownSpecimen, WrongState
from service.lis.domain import erasure
from service.lis.picture_store import KINDS, PictureStore
from service.lis.retention import Retention
from service.lis.schemas import WithReason
from service.lis.storage import audit, audit_checks, outbox
from service.lis.storage.tables import MessageRow, TakenMessageRow
from service.lis.use_cases import UseCases

WHO = {"X-Acting-User": "m.muster"}
CANARY = "Canaryname"
PATIENT = {"identifier": f"{CANARY}-1", "family": CANARY, "given": CANARY, "birth_date": "1970-01-02"}


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url) as opened:
        yield opened


def signed(front: UseCases, artefact: Path, number: str, name: str | None = None) -> str:
    opened = front.open(open_request(number, patient=PATIENT), user("m.muster"))
    cells = [classified("EBO", name=name, key=f"{CANARY}.png"), classified("PMO")]
    revision, *_ = front.add(opened.id, cells, manifest(artefact), user("scanner"))
    front.sign(opened.id, sign_request(revision, comment=CANARY), user("dr.beispiel"))
    return opened.id


def erase(front: UseCases, specimen: str) -> tuple[object, object]:
    wanted = WithReason(revision=front.get(specimen).revision, reason="case 17")
    return front.erase(specimen, wanted, user("m.muster"))


def verified(front: UseCases) -> list[str]:
    """What was erased, as the checks name it; they find nothing wrong."""
    with front.database.reading() as session:
        found, (_, mismatches) = audit_checks.verify(session), audit.verify(session)
    assert (found.mismatches, mismatches) == ([], [])
    return found.erased


def everything(front: UseCases) -> str:
    """All rows of all tables."""
    with front.database.reading() as session:
        tables = ("specimens", "patient_numbers", "reports", "outbox", "cells", "readings", "audit", "taken_messages")
        return "\n".join(str(row) for table in tables for row in session.execute(text(f"SELECT * FROM {table}")).all())


def test_nothing_of_the_patient_is_left_and_the_trail_verifies(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, f"{CANARY}-7")
    assert CANARY in everything(front)
    _, pictures = erase(front, specimen)
    assert CANARY not in everything(front)
    assert len(list(pictures)) == 2  # type: ignore[call-overload]
    found = front.get(specimen)
    assert (found.state, found.number, found.patient.identifier) == ("erased", f"erased-{specimen}", "erased")
    assert found.differential.counted == 2
    [said] = verified(front)
    assert specimen in said and "m.muster" in said and "case 17" in said
    for action in (lambda: front.report(specimen, 1), lambda: front.cell(specimen, 9)):
        with pytest.raises(UnknownSpecimen):
            action()
    assert front.list(None, None, None, 10, f"{CANARY}-1").specimens == []


def test_nothing_of_the_patient_is_left_in_a_file_of_sqlite(artefact: Path, tmp_path: Path) -> None:
    with use_cases(f"sqlite:///{tmp_path / 'lab.db'}") as front:
        one = signed(front, artefact, f"{CANARY}-1")
        assert CANARY in _files(tmp_path)
        erase(front, one)
        assert CANARY not in _files(tmp_path)  # while the service is running
        other = signed(front, artefact, f"{CANARY}-2")
        with front.database.writing() as session:
            claimed = outbox.claim(session, "plain", "worker", timedelta(minutes=5))
            assert claimed is not None
            outbox.mark_delivered(session, claimed.row, f"MSA|AA {CANARY}")
        retention = Retention(front.database, settings(patient_days=10))
        retention._patient_days = -1  # as if eleven days had passed
        assert retention.erase_patients(None) == 1
        assert front.get(other).state == "erased"
        retention.empty_log()
        assert CANARY not in _files(tmp_path)


def test_a_log_in_use_does_not_stop_an_erasure(artefact: Path, tmp_path: Path) -> None:
    with use_cases(f"sqlite:///{tmp_path / 'lab.db'}") as front:
        specimen = signed(front, artefact, f"{CANARY}-1")
        with front.database.reading() as session:
            session.execute(text("SELECT * FROM specimens")).all()
            erase(front, specimen)
        assert CANARY in _files(tmp_path)
        Retention(front.database, settings()).empty_log()
        assert CANARY not in _files(tmp_path)


def _files(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.iterdir())


def test_what_is_open_is_not_erased_and_an_erased_specimen_is_not_changed(front: UseCases, artefact: Path) -> None:
    opened = front.open(open_request("BM-2"), user("m.muster")).id
    with pytest.raises(WrongState, match="sign or cancel it first"):
        erase(front, opened)
    specimen = signed(front, artefact, "BM-1")
    erase(front, specimen)
    for again in (
        lambda: erase(front, specimen),
        lambda: front.amend(specimen, WithReason(revision=4, reason="again"), user("m.muster")),
    ):
        with pytest.raises(WrongState):
            again()
    assert front.open(open_request("BM-1"), user("m.muster")).state == "open"  # its number is free


def test_a_report_that_is_being_sent_is_not_erased(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, "BM-1")
    with front.database.writing() as session:
        claimed = outbox.claim(session, "plain", "worker", timedelta(minutes=5))
    with pytest.raises(Conflict, match="being sent"):
        erase(front, specimen)
    assert claimed is not None
    with front.database.writing() as session:
        outbox.mark_delivered(session, claimed.row, f"MSA|AA {CANARY}")
    erase(front, specimen)
    assert CANARY not in everything(front) and verified(front)


def test_an_undelivered_report_is_dropped_with_the_patient(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, "BM-1")
    erase(front, specimen)
    with front.database.writing() as session:
        assert outbox.claim(session, "plain", "worker", timedelta(minutes=5)) is None
        assert session.scalars(select(MessageRow.state)).all() == ["dropped"]
    assert verified(front)


def test_a_picture_of_two_specimens_stays_until_both_are_erased(front: UseCases, artefact: Path) -> None:
    first, second = (signed(front, artefact, number, name="shared") for number in ("BM-1", "BM-2"))
    [_, pictures], [_, more] = erase(front, first), erase(front, second)
    assert (len(list(pictures)), len(list(more))) == (1, 2)  # type: ignore[call-overload]


def test_a_shared_picture_is_shown_at_the_other_specimen_only(artefact: Path, tmp_path: Path, draw: Draw) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    draws = {"fhir_url": "http://127.0.0.1:9/fhir", "fhir_pictures": True, "deliver": False}
    with client(artefact, lis=LisSettings(database=url, **draws)) as http:  # type: ignore[arg-type]
        http.headers.update(WHO)
        erased, other = (_signed_over_http(http, number, draw(1), draw(seed)) for number, seed in (("1", 2), ("2", 3)))
        shown = [f"/specimens/{specimen}/cells/1/picture?kind=" for specimen in (erased, other)]
        assert {http.get(path + kind).status_code for path in shown for kind in KINDS} == {200}
        http.post(f"/specimens/{erased}/erase", json={"revision": 3, "reason": "case 17"}).raise_for_status()
        for place, kind in product((1, 2), KINDS):
            gone = http.get(f"/specimens/{erased}/cells/{place}/picture", params={"kind": kind})
            assert "no such picture" in refused(gone, 404, "unknown-specimen").detail
        assert {http.get(shown[1] + kind).status_code for kind in KINDS} == {200}
        [row] = [each for each in http.get(f"/specimens/{erased}/audit").json()["entries"] if each["action"] == "erase"]
        assert (row["details"]["places"], row["details"]["pictures"]) == (2, 1)
        assert http.get(f"/specimens/{erased}/cells").json()["cells"][0]["place"] == 1  # classes stay
    said = CliRunner().invoke(command_line, ["audit", "verify"], env={"MARROWLENS_LIS_DATABASE": url})
    assert said.exit_code == 0, said.output
    assert "pictures of 2 cells except those that another specimen has" in said.output


def _signed_over_http(http: TestClient, number: str, *pictures: bytes) -> str:
    specimen = str(http.post("/specimens", json={"number": number, "patient": PATIENT}).json()["id"])
    files = [("images", (f"{n}.png", picture)) for n, picture in enumerate(pictures)]
    http.post(f"/specimens/{specimen}/cells", files=files).raise_for_status()
    body = {"revision": 2, "accept_unread": True, "accept_below_target": True}
    http.post(f"/specimens/{specimen}/sign", json=body).raise_for_status()
    return specimen


def test_a_picture_goes_although_another_specimen_had_it_by_mistake(front: UseCases, artefact: Path) -> None:
    first, second = (signed(front, artefact, number, name="shared") for number in ("BM-1", "BM-2"))
    wanted = WithReason(revision=front.get(second).revision, reason="another patient's")
    amended = front.amend(second, wanted, user("m.muster"))
    front.remove(second, 1, WithReason(revision=amended.revision, reason="another patient's"), user("m.muster"))
    _, pictures = erase(front, first)
    assert len(list(pictures)) == 2  # type: ignore[call-overload]


def test_an_edited_row_of_an_erasure_is_found(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, "BM-1")
    erase(front, specimen)
    with front.database.writing() as session:
        session.execute(text("UPDATE reports SET document = '{}'"))
        session.execute(text("UPDATE outbox SET reply = 'MSA|AR'"))
    with front.database.reading() as session:
        found = " ".join(each.what for each in audit_checks.verify(session).mismatches)
    assert "the text of report" in found and "the erased reply" in found


def settings(**days: object) -> LisSettings:
    return LisSettings(database="sqlite:///unused", **days)  # type: ignore[arg-type]


def test_patients_are_erased_after_their_days_but_not_while_a_report_waits(
    front: UseCases, artefact: Path, tmp_path: Path
) -> None:
    specimen = signed(front, artefact, "BM-1", name="shown")
    cells = front.cells(specimen, None, None, 0, 10).cells
    pictures = PictureStore(tmp_path / "pictures", 30)
    pictures.settle([pictures.stage(cells[0].sha256, b"picture")], set)  # the other one has vanished
    retention = Retention(front.database, settings(patient_days=10))
    later = datetime.now(UTC) + timedelta(days=11)
    with front.database.reading() as session:
        assert erasure.due(session, later, 10) == []  # its report waits
    with front.database.writing() as session:
        claimed = outbox.claim(session, "plain", "worker", timedelta(minutes=5))
        assert claimed is not None
        outbox.mark_delivered(session, claimed.row, "MSA|AA")
    with front.database.reading() as session:
        assert erasure.due(session, later, 10) == [specimen]
    assert retention.erase_patients(pictures) == 0
    assert front.get(specimen).state == "signed"
    retention._patient_days = -1  # as if eleven days had passed
    assert retention.erase_patients(pictures) == 1
    assert (front.get(specimen).state, pictures.get(cells[0].sha256)) == ("erased", None)
    assert "retention" in verified(front)[0]
    assert Retention(front.database, settings()).erase_patients(pictures) == 0


def test_messages_expire_after_their_days(front: UseCases, artefact: Path) -> None:
    delivered, waits = signed(front, artefact, "BM-1"), signed(front, artefact, "BM-2")
    with front.database.writing() as session:
        claimed = outbox.claim(session, "plain", "worker", timedelta(minutes=5))
        assert claimed is not None
        outbox.mark_delivered(session, claimed.row, "MSA|AA")
        session.add(TakenMessageRow(sender="LIS", control_id="1", sha256="x", at=datetime.now(UTC)))
    retention = Retention(front.database, settings(message_days=10))
    assert retention.expire_messages() == 0
    with front.database.writing() as session:
        ago = datetime.now(UTC) - timedelta(days=11)
        session.execute(update(TakenMessageRow).values(at=ago))
        session.execute(update(MessageRow).where(MessageRow.state == "delivered").values(settled_at=ago))
    assert (retention.expire_messages(), retention.expire_messages()) == (1, 0)
    with front.database.reading() as session:
        assert [bool(each) for each in session.scalars(select(MessageRow.message).order_by(MessageRow.row))] == [
            False,
            True,
        ]
        assert session.scalars(select(TakenMessageRow)).all() == []
    [said] = verified(front)
    assert "1 delivered message and 1 id of messages received" in said
    assert front.report(delivered, 1) and front.report(waits, 1)


def test_over_http_and_by_the_command(artefact: Path, tmp_path: Path, draw: Draw) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    with client(artefact, lis=LisSettings(database=url)) as http:
        http.headers.update(WHO)
        for number in ("BM-1", "BM-2"):
            made = http.post("/specimens", json={"number": number, "patient": PATIENT})
            assert made.status_code == 201, made.text
            assert made.headers["Location"] == f"/specimens/{made.json()['id']}"
            specimen = made.json()["id"]
            seed = 1 if number == "BM-1" else 2
            http.post(f"/specimens/{specimen}/cells", files={"images": draw(seed)}).raise_for_status()
            body = {"revision": 2, "accept_unread": True, "accept_below_target": True}
            assert http.post(f"/specimens/{specimen}/sign", json=body).status_code == 200
        stored = tmp_path / "lab.db.pictures"
        assert len(list(stored.glob("??/*"))) == 2
        early = http.post(f"/specimens/{specimen}/erase", json={"revision": 2, "reason": "case 17"})
        assert (early.status_code, early.json()["type"].rpartition(":")[2]) == (409, "stale-revision")
        done = http.post(f"/specimens/{specimen}/erase", json={"revision": 3, "reason": "case 17"})
        assert (done.status_code, done.json()["state"]) == (200, "erased"), done.text
        assert http.get(f"/specimens/{specimen}/reports/1").status_code == 404
        assert http.get(f"/specimens/{specimen}/cells/1/picture").status_code == 404
        assert http.get(f"/specimens/{specimen}").json()["patient"] == {"identifier": "erased"}

    def command(*words: str) -> str:
        done = CliRunner().invoke(command_line, words, env={"MARROWLENS_LIS_DATABASE": url})
        assert done.exit_code == 0, done.output
        return done.output

    assert "erased" in command("lis", "erase", "BM-1", "--why", "case 18")
    assert list(stored.glob("??/*")) == []
    said = command("audit", "verify")
    assert said.count("erased specimen") == 2 and "case 18" in said
    with sqlite3.connect(tmp_path / "lab.db") as connection:
        details = [json.loads(row) for (row,) in connection.execute("SELECT details FROM audit WHERE action = 'erase'")]
    connection.close()
    assert all(CANARY not in json.dumps(each) for each in details) and len(details) == 2
    # Deleted text is overwritten, not only unlinked.
    assert CANARY.encode() not in (tmp_path / "lab.db").read_bytes()
