"""`marrowlens-train classes`: a configuration can read what the command prints."""

import tomllib
from pathlib import Path

import pytest
from minimal_config import MINIMAL
from typer.testing import CliRunner

from model.contract import CLASSES, CellClass
from training.cli import app
from training.config import read_config

MINE = ("NGS", "red-grains", "LYT")


def _printed(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["classes", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def _read(folder: Path, text: str) -> tuple[CellClass, ...]:
    (folder / "run.toml").write_text(MINIMAL + text)
    return read_config(folder / "run.toml").classes


def test_the_folders_become_classes(tmp_path: Path) -> None:
    for name in (*MINE, ".hidden"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    known = {one.code: one for one in CLASSES}
    expected = (known["LYT"], known["NGS"], CellClass(code="red-grains", name="red-grains"))
    assert _read(tmp_path, _printed(tmp_path / "mine")) == expected


def test_ordinary_folder_names_get_codes_and_the_mapping_to_paste(tmp_path: Path) -> None:
    for name in ("Erythroblast ortho ö", "Erythroblast ortho o", "NGS", "Zelle (groß)"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    printed = _printed(tmp_path / "mine")
    classes = _read(tmp_path, printed)
    assert [one.code for one in classes] == ["Erythroblast_ortho_o", "Erythroblast_ortho_o_2", "NGS", "Zelle_gross"]
    assert [one.name for one in classes][1::2] == ["Erythroblast ortho ö", "Zelle (groß)"]
    line = next(line for line in printed.splitlines() if "classes = {" in line).removeprefix("# ")
    config = tomllib.loads(MINIMAL.replace("[card]", f"{line}\n[card]"))
    assert config["data"]["sources"][0]["classes"]["Zelle (groß)"] == "Zelle_gross"


def test_an_artefacts_classes_and_without_a_source_the_21(artefact: Path, tmp_path: Path) -> None:
    assert _read(tmp_path, _printed(artefact)) == _read(tmp_path, _printed()) == CLASSES


@pytest.mark.parametrize(
    ("name", "says"),
    [("lost", "expected an artefact (.onnx) or a folder"), ("lost.onnx", "cannot be read"), (".", "0 class folders")],
)
def test_what_has_no_classes_is_said_in_one_line(tmp_path: Path, name: str, says: str) -> None:
    result = CliRunner().invoke(app, ["classes", str(tmp_path / name)], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert says in result.output
