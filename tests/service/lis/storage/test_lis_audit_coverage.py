"""`audit verify` names whatever a report rests on, if it was altered beside the audit trail."""

import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from lab import classified, manifest, open_request, sign_request, use_cases, user
from typer.testing import CliRunner

from service.cli.main import app as command_line
from service.lis.domain.report import CellReading
from service.lis.schemas import ChangeSpecimen, ReadCells, WithReason
from service.lis.storage import outbox


@pytest.fixture(scope="module")
def written(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database: BM-1 is signed and delivered, its cell 1 was read, 2 not, 3 removed; BM-2 waits; BM-3 is open."""
    path = tmp_path_factory.mktemp("trail") / "lab.db"
    with use_cases(f"sqlite:///{path}") as front:
        for number in ("BM-1", "BM-2", "BM-3"):
            opened = front.open(open_request(number, order={"placer_number": f"P-{number}"}), user("m.muster")).id
            codes = ("PMO", "EBO", "LYT") if number == "BM-1" else ("EBO",)
            front.add(opened, [classified(code) for code in codes], manifest(artefact), user("scanner"))
            if number == "BM-1":
                reading = CellReading(place=1, version=1, code="MYB", why="smaller")
                front.read(opened, ReadCells(readings=[reading]), user("m.muster"))
                front.remove(opened, 3, WithReason(revision=3, reason="another patient's"), user("m.muster"))
            if number == "BM-2":
                change = ChangeSpecimen(revision=front.get(opened).revision, comment="No blasts.")
                front.change(opened, change, user("m.muster"))
            if number != "BM-3":
                front.sign(opened, sign_request(front.get(opened).revision), user("dr.beispiel"))
        with front.database.writing() as session:
            claimed = outbox.claim(session, "plain", "worker", timedelta(seconds=9))
            assert claimed is not None
            outbox.mark_delivered(session, claimed.row, "MSA|AA")
    return path


def verified(path: Path) -> tuple[int, str]:
    done = CliRunner().invoke(command_line, ["audit", "verify"], env={"MARROWLENS_LIS_DATABASE": f"sqlite:///{path}"})
    return done.exit_code, done.stderr


def test_a_laboratory_at_work_verifies(written: Path) -> None:
    code, said = verified(written)
    assert (code, "verified" in said, "row" in said.splitlines()[0]) == (0, True, True), said


FIRST = "WHERE specimen = (SELECT row FROM specimens WHERE number = 'BM-1')"
COPIED = (
    "SELECT {}, sha256 || 'x', model, suggested, probability, top, code, version, added_at, reasons, prediction_set "
    "FROM cells WHERE row = 1"
)
DATA, SUGGESTED, READ = "data of specimen", "suggestions of cells 1 to 3", "class or reader of cell 1"
EDITS = {
    "UPDATE specimens SET patient = json_replace(patient, '$.family', 'Other') WHERE number = 'BM-3'": DATA,
    "UPDATE specimens SET \"order\" = json_object('placer_number', 'P-9') WHERE number = 'BM-1'": DATA,
    "UPDATE specimens SET number = 'BM-9' WHERE number = 'BM-2'": DATA,
    "UPDATE specimens SET collected_at = '2026-05-04 08:00:00' WHERE number = 'BM-3'": DATA,
    "UPDATE specimens SET megakaryocytes = 3 WHERE number = 'BM-3'": DATA,
    "UPDATE specimens SET cellularity = json_object('grade', 'normal') WHERE number = 'BM-1'": "assessments or comment",
    "UPDATE specimens SET comment = 'blasts' WHERE number = 'BM-3'": "assessments or comment",
    "UPDATE specimens SET comment = NULL WHERE number = 'BM-2'": "assessments or comment",
    "UPDATE specimens SET state = 'open' WHERE number = 'BM-1'": DATA,
    "UPDATE specimens SET target_cells = 1 WHERE number = 'BM-3'": DATA,
    "UPDATE specimens SET cells = 7 WHERE number = 'BM-3'": DATA,
    "UPDATE specimens SET correction = 'none' WHERE number = 'BM-1'": DATA,
    "UPDATE specimens SET revision = revision + 1 WHERE number = 'BM-1'": DATA,
    "UPDATE specimens SET digest_key = NULL WHERE number = 'BM-1'": DATA,
    f"UPDATE cells SET suggested = 'BLA', code = 'BLA' {FIRST} AND place = 2": SUGGESTED,
    f"UPDATE cells SET probability = 0.99 {FIRST} AND place = 1": SUGGESTED,
    f"UPDATE cells SET sha256 = 'other' {FIRST} AND place = 2": SUGGESTED,
    f"UPDATE cells SET decision = 'accept' {FIRST} AND place = 2": SUGGESTED,
    f"UPDATE cells SET top = '[]' {FIRST} AND place = 2": SUGGESTED,
    f"UPDATE cells SET read_by = 'other' {FIRST} AND place = 1": READ,
    f"UPDATE cells SET read_at = added_at {FIRST} AND place = 1": READ,
    f"UPDATE cells SET version = 9 {FIRST} AND place = 1": READ,
    f"UPDATE cells SET code = 'PMO' {FIRST} AND place = 1": READ,
    f"DELETE FROM cells {FIRST} AND place = 2": "cell 2 of specimen",
    f"UPDATE cells SET removed_at = NULL {FIRST} AND place = 3": "removal of cell 3",
    f"UPDATE cells SET removed_at = added_at {FIRST} AND place = 2": "removal of cell 2",
    "INSERT INTO cells (specimen, place, sha256, model, suggested, probability, top, code, version, added_at, reasons, "
    f"prediction_set) {COPIED.format('specimen, 4')}": "cell 4 of specimen",
    "UPDATE readings SET why = 'other'": "readings of cell 1",
    "UPDATE outbox SET state = 'waiting' WHERE row = 1": "the state (waiting instead of delivered) of message",
    "UPDATE outbox SET state = 'delivered' WHERE row = 2": "the state (delivered instead of waiting) of message",
    "UPDATE outbox SET reply = 'MSA|AR' WHERE row = 1": "the reply or reason of message",
    "UPDATE outbox SET message = 'other' WHERE row = 2": "the text of message",
    "DELETE FROM outbox WHERE row = 2": "is missing",
    "UPDATE reports SET document = '{}' WHERE row = 1": "the text of report",
    "DELETE FROM specimens WHERE number = 'BM-3'": "is missing",
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_was_altered_is_named(written: Path, tmp_path: Path, edit: str) -> None:
    path = tmp_path / "lab.db"
    shutil.copy(written, path)
    with sqlite3.connect(path) as connection:
        assert connection.execute(edit).rowcount == 1
    connection.close()
    code, said = verified(path)
    assert code == 1
    assert EDITS[edit] in said, said
