"""Reference cells: drawn, from the laboratory's folder, and from its signed specimens."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from conftest import Draw
from serving import client, refused
from starlette.testclient import TestClient
from typer.testing import CliRunner

from model.contract import CLASSES
from service.cli.main import app as command_line
from service.config.lis import LaboratoryConfigError, LisSettings

WHO = {"X-Acting-User": "m.muster"}


def lis(folder: Path, **more: Any) -> LisSettings:
    return LisSettings(database=f"sqlite:///{folder / 'lab.db'}", pictures=folder / "pictures", **more)


def own_cells(folder: Path, **files: bytes) -> Path:
    """A folder of reference cells: files by class code."""
    for code, data in files.items():
        (folder / code).mkdir(parents=True)
        (folder / code / "Muster_Erika.png").write_bytes(data)
    return folder


def offered(http: TestClient, code: str) -> list[tuple[str, str]]:
    answer = http.get(f"/reference-cells/{code}")
    assert answer.status_code == 200 and answer.json()["code"] == code
    return [(each["source"], each["id"]) for each in answer.json()["cells"]]


def signed_cell(http: TestClient, picture: bytes, code: str = "PMO") -> str:
    """A signed specimen with one cell that a person has read as of this class; its id."""
    specimen: str = http.post("/specimens", json={"number": "BM-1", "patient": {"identifier": "1"}}).json()["id"]
    [item] = http.post(f"/specimens/{specimen}/cells", files={"images": picture}).json()["items"]
    reading = {"place": 1, "version": item["cell"]["version"], "code": code, "why": "granules"}
    assert http.post(f"/specimens/{specimen}/readings", json={"readings": [reading]}).status_code == 200
    signature = {"revision": 3, "accept_below_target": True}
    assert http.post(f"/specimens/{specimen}/sign", json=signature).status_code == 200
    return specimen


def test_every_class_has_drawn_cells_where_the_laboratory_has_none(artefact: Path, tmp_path: Path) -> None:
    with client(artefact, lis=lis(tmp_path)) as http:
        for cell_class in CLASSES:
            found = offered(http, cell_class.code)
            assert found and {source for source, _ in found} == {"drawn"}
        [(_, first), *_] = offered(http, "BLA")
        picture = http.get(f"/reference-cells/BLA/{first}")
        assert picture.status_code == 200 and picture.headers["content-type"] == "image/jpeg"
        assert picture.headers["cache-control"] == "no-store"
        assert picture.headers["x-content-type-options"] == "nosniff"
        assert offered(http, "XYZ") == []
        refused(http.get(f"/reference-cells/PMO/{first}"), 404, "unknown-specimen")
        refused(http.get("/reference-cells/PMO/name.jpg"), 422, "invalid-parameter")


def test_the_laboratorys_own_cells_come_instead_and_their_names_stay_there(
    artefact: Path, tmp_path: Path, draw: Draw
) -> None:
    folder = own_cells(tmp_path / "own", PMO=draw(1))
    (folder / "PMO" / ".DS_Store").write_bytes(b"\0")
    (folder / "readme.txt").write_text("of 2026")
    with client(artefact, lis=lis(tmp_path, reference_cells=folder)) as http:
        assert offered(http, "PMO") == [("laboratory", sha256(draw(1)).hexdigest())]
        assert http.get(f"/reference-cells/PMO/{sha256(draw(1)).hexdigest()}").content == draw(1)
        assert {source for source, _ in offered(http, "BLA")} == {"drawn"}
        assert "Muster" not in http.get("/reference-cells/PMO").text
        (folder / "PMO" / "Muster_Erika.png").unlink()
        refused(http.get(f"/reference-cells/PMO/{sha256(draw(1)).hexdigest()}"), 404, "unknown-specimen")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder, _: folder.write_text("a file"), "not a folder"),
        (lambda *_: None, "No such file"),
        (lambda folder, _: folder.mkdir(), "put pictures into subfolders"),
        (lambda folder, _: (folder / "PMO" / "2026").mkdir(parents=True), "2026: a folder"),
        (lambda folder, _: own_cells(folder, PMO=b"%PDF-1.7 a text"), "Muster_Erika.png: no picture"),
        (lambda folder, draw: own_cells(folder, PMO=draw(1, format="TIFF")), "save it as JPEG or PNG, or remove it"),
    ],
)
def test_a_folder_that_cannot_be_used_stops_the_start(
    artefact: Path, tmp_path: Path, draw: Draw, make: Any, said: str
) -> None:
    make(tmp_path / "own", draw)
    with (
        pytest.raises(LaboratoryConfigError, match=f"(?s)MARROWLENS_LIS_REFERENCE_CELLS: .*{said}"),
        client(artefact, lis=lis(tmp_path, reference_cells=tmp_path / "own")),
    ):
        pass
    names = {"DATABASE": f"sqlite:///{tmp_path / 'lab.db'}", "REFERENCE_CELLS": str(tmp_path / "own")}
    environment = {f"MARROWLENS_LIS_{name}": value for name, value in names.items()}
    done = CliRunner().invoke(command_line, ["config", "check"], env=environment)
    assert done.exit_code != 0 and said in done.stderr


def test_a_subfolder_that_is_no_class_is_named(artefact: Path, tmp_path: Path, draw: Draw) -> None:
    folder = own_cells(tmp_path / "own", PMO=draw(1), PMOO=draw(2))
    with (
        pytest.raises(LaboratoryConfigError, match="REFERENCE_CELLS: PMOO is no class of the model"),
        client(artefact, lis=lis(tmp_path, reference_cells=folder)),
    ):
        pass


def test_cells_of_signed_specimens_are_offered_only_if_the_laboratory_allows_it(
    artefact: Path, tmp_path: Path, draw: Draw
) -> None:
    picture = sha256(draw(1)).hexdigest()
    with client(artefact, lis=lis(tmp_path)) as http:
        http.headers.update(WHO)
        specimen = signed_cell(http, draw(1))
        assert ("signed", picture) not in offered(http, "PMO")
        refused(http.get(f"/reference-cells/PMO/{picture}"), 404, "unknown-specimen")
    with client(artefact, lis=lis(tmp_path, reference_signed=True, audit_reads=True)) as http:
        assert offered(http, "PMO") == [("signed", picture)]
        refused(http.get(f"/reference-cells/PMO/{picture}"), 422, "invalid-parameter")  # a read needs a name
        http.headers.update(WHO)
        answer = http.get(f"/reference-cells/PMO/{picture}")
        assert answer.content == draw(1) and answer.headers["cache-control"] == "no-store"
        refused(http.get(f"/reference-cells/BLA/{picture}"), 404, "unknown-specimen")
        looks = [each["details"] for each in http.get(f"/specimens/{specimen}/audit").json()["entries"]]
        assert [each["what"] for each in looks if "what" in each].count("reference cell") == 1
        amended = {"revision": 4, "reason": "read again"}
        assert http.post(f"/specimens/{specimen}/amend", json=amended).status_code == 200
        assert {source for source, _ in offered(http, "PMO")} == {"drawn"}
        refused(http.get(f"/reference-cells/PMO/{picture}"), 404, "unknown-specimen")


def test_an_unread_cell_and_one_whose_picture_has_expired_are_no_reference(
    artefact: Path, tmp_path: Path, draw: Draw
) -> None:
    with client(artefact, lis=lis(tmp_path, reference_signed=True)) as http:
        http.headers.update(WHO)
        specimen = http.post("/specimens", json={"number": "BM-0", "patient": {"identifier": "1"}}).json()["id"]
        [item] = http.post(f"/specimens/{specimen}/cells", files={"images": draw(2)}).json()["items"]
        signature = {"revision": 2, "accept_below_target": True, "accept_unread": True}
        assert http.post(f"/specimens/{specimen}/sign", json=signature).status_code == 200
        assert {source for source, _ in offered(http, item["cell"]["code"])} == {"drawn"}
        signed_cell(http, draw(1))
        [stored] = list((tmp_path / "pictures").glob(f"??/{sha256(draw(1)).hexdigest()}.picture"))
        stored.unlink()
        assert {source for source, _ in offered(http, "PMO")} == {"drawn"}


def test_signed_cells_need_stored_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MARROWLENS_LIS_REFERENCE_SIGNED is set, but no pictures are stored"):
        LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}", pictures="off", reference_signed=True)
