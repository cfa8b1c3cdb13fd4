"""What people have read, as a training list that `marrowlens-train` and `marrowlens verify` read, and the agreement."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from lab import classified, manifest, open_request, use_cases, user
from serving import client, refused
from starlette.testclient import TestClient
from typer.testing import CliRunner

from service.cli.main import app as command_line
from service.lis.agreement import agreement_of
from service.lis.domain.read_cells import list_read_cells
from service.lis.domain.report import CellReading, Patient
from service.lis.schemas import ReadCells, WithReason
from service.lis.training_list import COLUMNS, ReadCell
from service.verification.labelled_cells import ClassNames, read_list
from training.cli import app as training

TWO = """
name = "mine"
version = "0.1.0"

[[classes]]
code = "NGS"
name = "Segmented neutrophil"
lineage = "granulocytic"

[[classes]]
code = "LYT"
name = "Lymphocyte"
lineage = "lymphoid"

[model]
variant = "tiny"

[fit]
epochs = 1
batch_size = 16

[data.split]
kind = "grouped"
by = "patient"

[[data.sources]]
name = "lab"
list = "lab/readings.csv"
licence = "not to be passed on"
attribution = "the readers of the laboratory"

[card]
licence = "not to be passed on"
intended_use = "Research use only."
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def http(artefact: Path, folder: Path, draw: Callable[..., bytes]) -> Iterator[TestClient]:
    """A laboratory in which two readers have read 60 cells of six patients, and have changed some."""
    lab = {"database": f"sqlite:///{folder / 'lab.db'}", "pictures": folder / "pictures"}
    with client(artefact, lis=lab) as started:
        cells = [draw(seed) for seed in range(66)]
        for number in range(6):
            read_specimen(started, number, cells[number * 11 : number * 11 + 11])
        yield started


def read_specimen(http: TestClient, number: int, pictures: list[bytes]) -> None:
    """A specimen with 11 cells, ten of them read; each two specimens are of one patient."""
    acting = {"X-Acting-User": ("m.muster", "e.beispiel")[number % 2]}
    patient = {"identifier": f"P-{number}", "family": "Canaryname"}
    opened = http.post("/specimens", json={"number": f"BM-{number}", "patient": patient}, headers=acting).json()
    files = [("images", (f"{place}.png", picture)) for place, picture in enumerate(pictures)]
    http.post(f"/specimens/{opened['id']}/cells", files=files, headers=acting)
    readings = [
        {"place": place, "version": 1, "code": ("NGS", "LYT")[place % 2], "why": "nucleus"} for place in range(1, 11)
    ]
    answer = http.post(f"/specimens/{opened['id']}/readings", json={"readings": readings}, headers=acting)
    assert answer.status_code == 200, answer.text


def exported(http: TestClient) -> zipfile.ZipFile:
    answer = http.get("/readings", headers={"X-Acting-User": "m.muster"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.headers["cache-control"] == "no-store"
    return zipfile.ZipFile(io.BytesIO(answer.content))


def rows(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(archive.read("readings.csv").decode())))


def test_the_list_names_pictures_labels_readers_and_no_patient(http: TestClient) -> None:
    archive = exported(http)
    found = rows(archive)
    assert tuple(found[0]) == COLUMNS and len(found) == 60
    assert {row["label"] for row in found} == {"NGS", "LYT"}
    assert {row["reader"] for row in found} == {"m.muster", "e.beispiel"}
    assert len({row["patient"] for row in found}) == 6
    assert {row["file"] for row in found} == set(archive.namelist()) - {"readings.csv"}
    assert "Canaryname" not in archive.read("readings.csv").decode() and "P-1" not in archive.namelist()
    again = {row["file"]: row["patient"] for row in rows(exported(http))}
    assert again == {row["file"]: row["patient"] for row in found}, "a patient keeps the pseudonym"


def test_the_training_reads_the_list(http: TestClient, tmp_path: Path) -> None:
    exported(http).extractall(tmp_path / "lab")
    (tmp_path / "mine.toml").write_text(TWO)
    options = [str(tmp_path / "mine.toml"), "--data", str(tmp_path)]
    done = CliRunner().invoke(training, ["data", *options])
    assert done.exit_code == 0, done.output
    assert "split: whole patients" in done.output, done.output
    done = CliRunner().invoke(training, ["fit", *options, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "run/split.csv").open() as file:
        block_of: dict[str, set[str]] = {}
        patients = {row["file"]: row["patient"] for row in rows(exported(http))}
        for row in csv.DictReader(file):
            block_of.setdefault(patients[row["file"]], set()).add(row["block"])
    assert all(len(blocks) == 1 for blocks in block_of.values()), "a patient is in one block"


def test_the_verification_reads_the_list(http: TestClient, artefact: Path, tmp_path: Path) -> None:
    exported(http).extractall(tmp_path)
    names = ClassNames(manifest(artefact).classes, {})
    found = read_list(tmp_path / "readings.csv", tmp_path, names).cells
    assert len(found) == 60 and {cell.label for cell in found} == {"NGS", "LYT"}
    assert len({cell.patient for cell in found}) == 6
    assert {reader for cell in found for reader in cell.readings} == {"m.muster", "e.beispiel"}


def test_the_agreement_has_shares_with_intervals_and_kappa(http: TestClient) -> None:
    found = http.get("/readings/agreement").json()
    assert (found["cells"], found["patients"], found["enough"]) == (60, 6, True)
    assert 0 <= found["agreement"]["low"] <= found["agreement"]["share"] <= found["agreement"]["high"] <= 1
    assert {each["reader"]: each["agreement"]["n"] for each in found["readers"]} == {"m.muster": 30, "e.beispiel": 30}
    assert sum(sum(row.values()) for row in found["confusion"].values()) == 60


def test_the_commands_do_the_same(http: TestClient, folder: Path, tmp_path: Path) -> None:
    environment = {
        "COLUMNS": "300",
        "MARROWLENS_LIS_DATABASE": f"sqlite:///{folder / 'lab.db'}",
        "MARROWLENS_LIS_PICTURES": str(folder / "pictures"),
    }

    def run(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(command_line, [*words], env=environment)
        return done.exit_code, done.stdout, done.stderr

    out = tmp_path / "out"
    assert run("readings", "export", str(out)) == (0, f"{out / 'readings.csv'}: 60 cells\n", "")
    assert (out / "readings.csv").read_bytes() == exported(http).read("readings.csv")
    assert out.stat().st_mode & 0o077 == 0
    code, _, said = run("readings", "export", str(out))
    assert code == 2 and "not empty" in said
    code, shown, _ = run("readings", "agreement", "--json")
    assert (code, json.loads(shown)) == (0, http.get("/readings/agreement").json())
    assert "60 cells, 6 patients" in run("readings", "agreement")[1]


def test_an_export_is_in_the_audit_trail(http: TestClient) -> None:
    exported(http)
    refused(http.get("/readings"), 422, "invalid-parameter")
    with http.app.state.laboratory.use_cases.database.reading() as session:  # type: ignore[attr-defined]
        from service.lis.storage.audit import read_rows

        *_, last = read_rows(session, "export")
        assert (last.actor, json.loads(last.details)["cells"]) == ("m.muster", 60)


def test_without_stored_pictures_there_is_no_list(artefact: Path, tmp_path: Path) -> None:
    with client(artefact, lis={"database": f"sqlite:///{tmp_path / 'lab.db'}", "pictures": "off"}) as started:
        answer: httpx.Response = started.get("/readings", headers={"X-Acting-User": "m.muster"})
        assert "MARROWLENS_LIS_PICTURES" in refused(answer, 409, "conflict").detail


def test_a_picture_is_listed_once_with_its_latest_reading(database_url: str, artefact: Path) -> None:
    with use_cases(database_url) as front:
        for number, code in enumerate(("BLA", "PMO")):
            patient = Patient(identifier="P-1", authority=("HOSPITAL", None)[number])
            opened = front.open(open_request(f"BM-{number}", patient=patient), user("m.muster"))
            cells = [classified("NGS", name="the same"), classified("NGS")]
            front.add(opened.id, cells, manifest(artefact), user("scanner"))
            reading = CellReading(place=1, version=1, code=code, why="seen")
            front.read(opened.id, ReadCells(readings=[reading]), user("m.muster"))
        with front.database.reading() as session:
            [cell] = list_read_cells(session)
        assert (cell.label, cell.suggested) == ("PMO", "NGS")
        front.cancel(opened.id, WithReason(revision=3, reason="the wrong patient"), user("m.muster"))
        with front.database.reading() as session:
            assert [cell.label for cell in list_read_cells(session)] == ["BLA"]


def read_cells(*pairs: tuple[str, str, int]) -> list[ReadCell]:
    """Cells by label, suggestion and number."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        ReadCell("0" * 64, "p", label, "m.muster", suggested, 0.9, "1" * 64, when)
        for label, suggested, count in pairs
        for _ in range(count)
    ]


def test_kappa_and_shares_are_those_of_the_textbook() -> None:
    found = agreement_of(read_cells(("A", "A", 20), ("A", "B", 5), ("B", "A", 10), ("B", "B", 15)))
    assert found.kappa == pytest.approx(0.4)  # (0.7 - 0.5) / (1 - 0.5)
    assert (found.agreement.hits, found.agreement.share) == (35, 0.7)
    [a, _] = found.classes
    assert (a.of_read.share, a.of_suggested.share) == (0.8, pytest.approx(2 / 3))
    assert found.confusion == {"A": {"A": 20, "B": 5}, "B": {"A": 10, "B": 15}}


def test_too_few_cells_have_no_shares() -> None:
    found = agreement_of(read_cells(("A", "A", 40), ("B", "B", 9)))
    assert (found.enough, found.minimum, found.kappa, found.agreement.share) == (False, 50, None, None)
    assert [each.of_read.share for each in found.classes] == [1.0, None]
    assert agreement_of([]).classes == []
