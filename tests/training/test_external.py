"""`marrowlens-train evaluate` on pictures of another laboratory: an artefact without torch, and a run."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from folded import Folded
from sklearn.metrics import f1_score, recall_score

from model.contract import INPUT, read_manifest
from model.image import decode
from training.drawn.painter import write_folder
from training.run import RunFolder

BUNDLED = Path("model/weights/marrowlens-lite.onnx")
CODES = ("EOS", "LYT", "NGS")
#: The command, in a Python that cannot import torch nor what needs it.
WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Absent())
from training.cli import app
app()
"""


TORCH = ("torch", "torchvision", "torchmetrics", "lightning", "timm")


def _without_torch(*arguments: str | Path, absent: tuple[str, ...] = TORCH) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH.format(absent=absent), *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn cells of another laboratory: other folder names, one of no class of the model, patients in the names."""
    folder = tmp_path_factory.mktemp("other") / "hospital"
    write_folder(folder, CODES, 8, size=80)
    (folder / "NGS").rename(folder / "neutrophil segmented")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "debris").mkdir()
    shutil.copy(next((folder / "EOS").iterdir()), folder / "debris" / "one.jpg")
    for code in ("EOS", "LYT", "neutrophil segmented"):
        for at, path in enumerate(sorted((folder / code).iterdir())):
            path.rename(path.with_name(f"patient{at % 4}-{path.name}"))
    return folder


@pytest.fixture(scope="module")
def measured(other: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of an external validation of the bundled artefact, without torch."""
    out = tmp_path_factory.mktemp("external") / "result"
    names = ("--classes", "neutrophil segmented=NGS", "--leave-out", "debris", "--patient-pattern", "^(patient.)-")
    done = _without_torch("evaluate", BUNDLED, "--data", other, "--out", out, *names)
    assert done.returncode == 0, done.stderr
    return out, done.stdout + done.stderr


def test_figures_of_an_artefact_equal_an_own_computation(other: Path, measured: tuple[Path, str]) -> None:
    out, said = measured
    manifest = read_manifest(BUNDLED.with_suffix(".json"))
    session = onnxruntime.InferenceSession(BUNDLED, providers=["CPUExecutionProvider"])
    size, labels, predicted = manifest.preprocessing.input_size, [], []
    for row in _rows(out / "predictions.csv"):
        folder = "neutrophil segmented" if row["true"] == "NGS" else row["true"]
        image = decode((other / folder / row["file"]).read_bytes(), size)
        probabilities = session.run(["probabilities"], {INPUT: image[None]})[0][0]
        labels.append(row["true"])
        predicted.append(manifest.codes[int(probabilities.argmax())])
        assert row["predicted"] == predicted[-1]
        shown = [float(row[f"p_{code}"]) for code in manifest.codes]
        assert shown == pytest.approx(probabilities.tolist(), abs=2e-4)
    assert len(labels) == 24
    found = {m.name: m for m in RunFolder(out).evaluation().metrics if m.code is None}
    assert found["accuracy"].value == pytest.approx(np.mean(np.array(labels) == np.array(predicted)))
    macro = f1_score(labels, predicted, labels=CODES, average="macro", zero_division=0)
    assert found["macro_f1"].value == pytest.approx(macro)
    recall = recall_score(labels, predicted, labels=CODES, average="macro", zero_division=0)
    assert found["balanced_accuracy"].value == pytest.approx(recall)
    assert f"{found['macro_f1'].value:.3f} ({found['macro_f1'].low:.3f}–{found['macro_f1'].high:.3f})" in said


def test_patients_are_counted_and_written(measured: tuple[Path, str]) -> None:
    out, said = measured
    assert RunFolder(out).evaluation().patients == {"hospital": 4}
    assert "Patients: 4;" in said
    assert {row["patient"] for row in _rows(out / "predictions.csv")} == {f"patient{at}" for at in range(4)}
    assert "left out: 1 of 'debris'" in said and "passed over: 1 .txt outside the class folders" in said
    assert "none has the file name of a training picture" in said


def test_the_folder_has_tables_figures_and_a_report(measured: tuple[Path, str]) -> None:
    out, _ = measured
    figures = {path.stem for path in out.glob("*.svg")}
    assert {f"{name}-hospital" for name in ("confusion", "classes", "reliability", "gallery", "overlays")} <= figures
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "marrowlens-lite 0.4.1" in report and "external validation" in report
    assert "Segmented neutrophil" in report
    external = json.loads((out / "external.json").read_text())
    assert external["sha256"] == read_manifest(BUNDLED.with_suffix(".json")).sha256


@pytest.mark.slow
def test_a_list_with_patients_and_a_run(folded: Folded, other: Path, tmp_path: Path) -> None:
    """A list beside the pictures; its columns are recognised. The run was not trained on them."""
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "patient"))
        for code in ("EOS", "LYT"):
            rows.writerows((str(each), code, each.name[:8]) for each in sorted((other / code).iterdir()))
    said = folded.made("evaluate", folded.runs[1], "--data", path, "--out", tmp_path / "result")
    assert "Patients: 4;" in said.replace("\n", " ")
    predictions = _rows(tmp_path / "result" / "predictions.csv")
    assert len(predictions) == 16
    split = {row["file"] for row in _rows(folded.runs[1] / "split.csv")}
    assert not split & {row["file"] for row in predictions}
    # The figures of the run itself are unchanged.
    assert "external" not in next(iter(RunFolder(folded.runs[1]).evaluation().splits.values()))


@pytest.mark.slow
def test_training_pictures_among_the_external_ones_are_reported(folded: Folded, tmp_path: Path) -> None:
    said = folded.made("evaluate", folded.runs[0], "--data", folded.data / "drawn", "--out", tmp_path / "result")
    trained = [row for row in _rows(folded.runs[0] / "split.csv") if row["block"] == "train"]
    readable = [row for row in trained if row["file"] != folded.unreadable]
    assert f"{len(readable)} have the file name of a training picture" in said.replace("\n", " ")


@pytest.mark.slow
def test_unknown_classes_are_named_at_once_with_what_to_add(other: Path, tmp_path: Path) -> None:
    done = _without_torch("evaluate", BUNDLED, "--data", other, "--out", tmp_path)
    assert (done.returncode, done.stdout.count("Traceback")) == (2, 0)
    assert "'debris'" in done.stderr and "'neutrophil segmented'" in done.stderr
    done = _without_torch("evaluate", BUNDLED, "--data", other, "--classes", "debris")
    assert done.returncode == 2 and "expected NAME=CODE" in done.stderr


def test_a_run_without_torch_names_what_to_install(folded: Folded) -> None:
    done = _without_torch("evaluate", folded.runs[0], "--data", folded.data)
    assert done.returncode == 2
    assert done.stderr == "marrowlens-train: torch is not installed: pip install -e '.[training]'\n"


@pytest.mark.parametrize("package", ["filelock", "sklearn", "onnxruntime"])
def test_the_environment_of_the_service_alone_names_what_to_install(package: str) -> None:
    done = _without_torch("evaluate", BUNDLED, "--data", "anything", absent=(*TORCH, package))
    assert (done.returncode, done.stdout) == (2, "")
    install = "pip install -e '.[training]', or '.[evaluate,cpu]' to evaluate an artefact without torch"
    assert done.stderr == f"marrowlens-train: {package} is not installed: {install}\n"
