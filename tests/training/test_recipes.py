"""First steps of the recipes that take too long to train in a test, on drawn cells of all 21 classes."""

import csv
from pathlib import Path

import pytest
import torch
from commands import run

from model.contract import CLASSES
from training.drawn.painter import write_folder

pytestmark = pytest.mark.slow

CONFIGS = Path("training/configs")
CODES = [cell_class.code for cell_class in CLASSES]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder / "matek2021", CODES, 50, size=32, per_subfolder=20)
    return folder


def test_the_first_steps_of_own_classes_on_the_bundled_model(tmp_path: Path) -> None:
    """training/configs/finetune.toml unchanged, as docs/own-classes.md shows it."""
    write_folder(tmp_path / "mine", ["NGS", "LYT", "EOS"], 20, size=64)
    log, out = tmp_path / "fit.log", tmp_path / "run"
    code = run("fit", CONFIGS / "finetune.toml", "--data", tmp_path, "--out", out, "--steps", "1", log=log)
    assert code == 0, log.read_text()
    assert "head rows of NGS, LYT, EOS" in log.read_text()
    assert "Initialised from marrowlens-lite" in log.read_text() and "less restrictive" not in log.read_text()


@pytest.mark.parametrize(("name", "batch_size"), [("full", 1024), ("paper", 32)])
def test_the_first_steps(data: Path, tmp_path: Path, name: str, batch_size: int) -> None:
    """As in the recipe, but with smaller pictures and batches."""
    text = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
    for key, value, small in (("batch_size", batch_size, 4), ("input_size", 224, 32)):
        assert text.count(f"\n{key} = {value}\n") == 1
        text = text.replace(f"\n{key} = {value}\n", f"\n{key} = {small}\n")
    (tmp_path / "small.toml").write_text(text, encoding="utf-8")
    log, out = tmp_path / "fit.log", tmp_path / "run"
    code = run("fit", tmp_path / "small.toml", "--data", data, "--out", out, "--steps", "2", log=log)
    assert code == 0, log.read_text()
    assert "stopped in epoch 0 after step 2; run the same command to resume" in log.read_text()
    state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    with (out / "split.csv").open(newline="") as file:
        learned = {row["code"] for row in csv.DictReader(file) if row["block"] == "train"}
    assert sorted(learned) == CODES
