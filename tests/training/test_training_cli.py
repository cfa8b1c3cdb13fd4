"""The commands fit, evaluate and export on drawn cells, and their error messages."""

import csv
import errno
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import commands
import numpy as np
import onnxruntime
import pytest
import typer
from pauses import moment, paused
from serving import client

from model.contract import INPUT, OUTPUTS, read_manifest
from model.image import decode
from training.data.samples import sha256_of
from training.drawn.painter import write_folder
from training.terminal import report_errors

CODES = ("EOS", "LYT", "NGS")
IMAGES_PER_CLASS = 24
CONFIG = """
name = "drawn"
version = "0.0.1"
seed = 1
[model]
variant = "micro"
input_size = 64
[fit]
epochs = 2
batch_size = 16
warmup_epochs = 1
ema_decay = 0.9
[[data.sources]]
name = "drawn"
folder = "drawn"
licence = "CC0"
attribution = "drawn by training/drawn/painter.py"
[card]
min_training_images = 5
intended_use = "tests"
licence = "CC0"
"""


def _train(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and the output of both streams."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        return commands.run(*arguments, log=log), log.read_text(encoding="utf-8")


def _made(*arguments: str | Path) -> str:
    code, said = _train(*arguments)
    assert code == 0, said
    return said


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn cells (one broken), a configuration, and a trained, evaluated and exported run."""
    folder = tmp_path_factory.mktemp("workspace")
    write_folder(folder / "drawn", CODES, IMAGES_PER_CLASS, size=80)
    (folder / "drawn" / "EOS" / "EOS_00002.jpg").write_bytes(b"not a picture")
    (folder / "run.toml").write_text(CONFIG)
    (folder / "fit.log").write_text(_made("fit", folder / "run.toml", "--data", folder, "--out", folder / "run"))
    (folder / "evaluate.log").write_text(_made("evaluate", folder / "run", "--data", folder))
    (folder / "export.log").write_text(_made("export", folder / "run", "--out", folder / "weights", "--allow-inert"))
    return folder


def test_an_unreadable_picture_is_listed_and_counted(workspace: Path) -> None:
    log = (workspace / "fit.log").read_text()
    assert "EOS_00002.jpg" in log
    assert "1 unreadable picture skipped" in log
    (row,) = _rows(workspace / "run" / "unreadable.csv")
    assert (row["source"], row["code"], row["file"]) == ("drawn", "EOS", "EOS_00002.jpg")


def test_the_manifest_counts_what_was_learned_from(workspace: Path) -> None:
    manifest = read_manifest(workspace / "weights" / "drawn.json")
    assert {c: n for c, n in manifest.training_images.items() if n} == {"EOS": 18, "LYT": 19, "NGS": 19}
    assert set(manifest.unsupported) == set(manifest.codes) - set(CODES)
    card = (workspace / "weights" / "MODEL_CARD.md").read_text()
    assert "To support more classes" in card and Path("docs/own-classes.md").exists()


def test_figures_stand_alike_in_evaluation_manifest_and_card(workspace: Path) -> None:
    evaluation = json.loads((workspace / "run" / "evaluation.json").read_text())
    manifest = read_manifest(workspace / "weights" / "drawn.json")
    assert [m.model_dump(mode="json") for m in manifest.metrics] == evaluation["metrics"]
    assert manifest.temperature == evaluation["temperature"]
    accuracy = next(m for m in manifest.metrics if m.name == "accuracy")
    card = (workspace / "weights" / "MODEL_CARD.md").read_text()
    assert f"| accuracy | {accuracy.value:.3f} ({accuracy.low:.3f}–{accuracy.high:.3f}) | {accuracy.n} |" in card
    assert "Research use only" in card


def test_maps_and_responses_are_measured_on_the_calibration_block_and_in_the_card(workspace: Path) -> None:
    found, said = (
        json.loads((workspace / "run" / "evaluation.json").read_text()),
        (workspace / "evaluate.log").read_text(),
    )
    card = (workspace / "weights" / "MODEL_CARD.md").read_text()
    calibration = sum(row["block"] == "calibration" for row in _rows(workspace / "run" / "split.csv"))
    scales = [f"attention {scale}" for scale in ("3-5-1", "5-7-1", "7-9-1")]
    assert [one["map"] for one in found["maps"]] == [*scales, "evidence"]
    as_is, *disturbed = found["responses"]
    assert {one["disturbance"] for one in disturbed} == {"blur", "cell size", "stain", "light", "JPEG"}
    assert {one["n"] for one in (*found["maps"], *found["responses"])} == {calibration}
    for title in ("Maps on the cell", "Maps and answers", "Response to disturbances"):
        assert title in said and f"## {title}" in card
    assert f"| as is | {calibration} | {as_is['accuracy']:.3f} (" in card


def test_what_a_quick_evaluation_leaves_out_is_not_in_it(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "run", tmp_path / "run")
    said = _made("evaluate", tmp_path / "run", "--data", workspace, "--quick")
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (found["maps"], found["responses"]) == ([], []) and found["lesions"]
    assert "Maps" not in said and "disturbances" not in said


def test_every_figure_of_the_card_is_explained_in_it(workspace: Path) -> None:
    card = (workspace / "weights" / "MODEL_CARD.md").read_text()
    explained = card.split("## Metrics")[1].split("##")[0]
    patterns = [name.replace("…", ".+") for name in re.findall("`(.+?)`", explained)]
    for name in {
        metric.name for metric in read_manifest(workspace / "weights" / "drawn.json").metrics if not metric.code
    }:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_eighty_columns_break_no_word_and_no_interval(workspace: Path) -> None:
    """Without a terminal, the width is 80 columns."""
    said = (workspace / "evaluate.log").read_text()
    found = [m for m in read_manifest(workspace / "weights" / "drawn.json").metrics if m.low is not None and m.n]
    assert found
    for metric in found:
        assert f"({metric.low:.3f}–{metric.high:.3f})" in said, metric
    assert "balanced accuracy" in said or re.search(r"balanced .*\n *accuracy ", said)


def test_weights_may_be_read_by_whoever_may_read_the_rest(workspace: Path) -> None:
    modes = {(workspace / "run" / name).stat().st_mode for name in ("weights.safetensors", "config.toml", "fit.json")}
    assert len(modes) == 1


def test_the_split_list_beside_the_card_is_the_one_in_the_manifest(workspace: Path) -> None:
    manifest = read_manifest(workspace / "weights" / "drawn.json")
    assert sha256_of((workspace / "weights" / "drawn.split.csv").read_text()) == manifest.split_sha256


def test_predictions_add_up_to_the_accuracy(workspace: Path) -> None:
    rows = _rows(workspace / "run" / "predictions.csv")
    manifest = read_manifest(workspace / "weights" / "drawn.json")
    accuracy = next(m for m in manifest.metrics if m.name == "accuracy")
    assert accuracy.n == len(rows)
    assert sum(row["true"] == row["predicted"] for row in rows) / len(rows) == pytest.approx(accuracy.value)


def test_the_artefact_answers_as_the_evaluation_did(workspace: Path) -> None:
    session = onnxruntime.InferenceSession(workspace / "weights" / "drawn.onnx", providers=["CPUExecutionProvider"])
    codes = read_manifest(workspace / "weights" / "drawn.json").codes
    for row in _rows(workspace / "run" / "predictions.csv"):
        image = decode((workspace / "drawn" / row["true"] / row["file"]).read_bytes(), 64)
        probabilities = session.run([OUTPUTS[0]], {INPUT: image[None]})[0][0]
        assert codes[int(probabilities.argmax())] == row["predicted"]
        assert float(probabilities.max()) == pytest.approx(float(row["probability"]), abs=2e-4)


def test_the_artefact_is_served(workspace: Path) -> None:
    """End to end: draw, train, export, classify; the evidence maps sum to the logits."""
    row = _rows(workspace / "run" / "predictions.csv")[0]
    manifest = read_manifest(workspace / "weights" / "drawn.json")
    picture = (workspace / "drawn" / row["true"] / row["file"]).read_bytes()
    with client(workspace / "weights" / "drawn.onnx") as service:
        query = {"maps": "evidence", "top_k": len(manifest.codes)}
        answer = service.post("/classify", params=query, files={"image": picture}).json()
    assert answer["prediction"]["code"] == row["predicted"]
    assert answer["prediction"]["probability"] == pytest.approx(float(row["probability"]), abs=2e-4)
    assert answer["model"]["sha256"] == manifest.sha256
    bias = dict(zip(manifest.codes, manifest.bias, strict=True))
    logits = {e["code"]: np.mean(e["values"]) + bias[e["code"]] for e in answer["evidence"]}
    weights = {code: np.exp(logit / manifest.temperature) for code, logit in logits.items()}
    for code, probability in answer["probabilities"].items():
        assert weights[code] / sum(weights.values()) == pytest.approx(probability, abs=1e-4)


def test_the_graph_keeps_no_path_of_the_machine_that_made_it(workspace: Path) -> None:
    graph = (workspace / "weights" / "drawn.onnx").read_bytes()
    assert str(Path.cwd()).encode() not in graph
    assert b".py" not in graph


def test_a_seed_repeats_the_weights(workspace: Path, tmp_path: Path) -> None:
    _made("fit", workspace / "run.toml", "--data", workspace, "--out", tmp_path / "again")
    expected, weights = (folder / "weights.safetensors" for folder in (workspace / "run", tmp_path / "again"))
    assert weights.read_bytes() == expected.read_bytes()
    weights.unlink()  # as if interrupted after its last epoch: the averaged weights are written again
    _made("fit", workspace / "run.toml", "--data", workspace, "--out", tmp_path / "again")
    assert weights.read_bytes() == expected.read_bytes()


def test_an_interrupted_run_is_picked_up(workspace: Path, tmp_path: Path) -> None:
    config, run = tmp_path / "long.toml", tmp_path / "run"
    config.write_text(CONFIG.replace("epochs = 2", "epochs = 5"))
    arguments = ("fit", config, "--data", workspace, "--out", run)
    fitting = commands.start(*arguments, log=tmp_path / "log", **moment(run / "checkpoints" / "last.ckpt", 2))
    with paused(fitting):
        fitting.kill()
    fitting.join()
    assert not (run / "weights.safetensors").exists()
    _made(*arguments)
    second = [row["epoch"] for row in _rows(run / "curves" / "version_1" / "metrics.csv") if row["train_loss"]]
    assert 0 < int(second[0]) and second[-1] == "4"
    assert (run / "weights.safetensors").exists()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_development_figures_come_without_a_test_picture(workspace: Path, tmp_path: Path) -> None:
    """The test pictures are damaged, so reading one would be reported."""
    shutil.copytree(workspace / "drawn", tmp_path / "drawn")
    shutil.copytree(workspace / "run", tmp_path / "run", ignore=shutil.ignore_patterns("cache"))
    blocks = {block: [] for block in ("train", "calibration", "test")}
    for row in _rows(tmp_path / "run" / "split.csv"):
        blocks[row["block"]].append(row)
    for row in blocks["test"]:
        (tmp_path / "drawn" / row["code"] / row["file"]).write_bytes(b"not a picture")
    before = _files(tmp_path / "run")
    said = _made("evaluate", tmp_path / "run", "--data", tmp_path, "--block", "calibration", "--quick")
    assert "unreadable" not in said and "no test picture was read" in said
    after = _files(tmp_path / "run")
    new = {name for name in after if not name.startswith("cache")} - set(before)
    assert new == {"development.json", "development.npz"}
    assert {name: after[name] for name in before} == before
    found = json.loads(after["development.json"])["metrics"]
    assert {metric["split"] for metric in found} == {"drawn (bone marrow), calibration block, development figures"}
    assert {metric["n"] for metric in found if metric["name"] in ("accuracy", "ece")} == {len(blocks["calibration"])}


def test_every_evaluation_on_the_test_block_is_recorded_and_in_the_card(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "run", tmp_path / "run")
    (row,) = _rows(tmp_path / "run" / "evaluations.csv")
    weights = hashlib.sha256((workspace / "run" / "weights.safetensors").read_bytes()).hexdigest()
    assert (row["weights_sha256"], row["pictures"]) == (weights, "9")
    assert datetime.fromisoformat(row["date"]).tzinfo == UTC
    assert "| test block | measured once with these weights |" in (workspace / "weights" / "MODEL_CARD.md").read_text()
    _made("evaluate", tmp_path / "run", "--data", workspace, "--quick")
    rows = (tmp_path / "run" / "evaluations.csv").read_text()
    (tmp_path / "run" / "evaluations.csv").write_text(rows + f"{row['date']},{'0' * 64},9\n")
    _made("export", tmp_path / "run", "--out", tmp_path / "weights", "--allow-inert")
    card = (tmp_path / "weights" / "MODEL_CARD.md").read_text()
    stated = "measured 2 times with these weights, once with other weights of this configuration"
    assert f"| test block | {stated} |" in card


def test_a_finished_run_is_not_trained_twice(workspace: Path) -> None:
    before = (workspace / "run" / "weights.safetensors").read_bytes()
    assert "already trained" in _made("fit", workspace / "run.toml", "--data", workspace, "--out", workspace / "run")
    assert (workspace / "run" / "weights.safetensors").read_bytes() == before


def _refusal(*arguments: str | Path) -> str:
    code, said = _train(*arguments)
    assert code == 2, said
    assert "Traceback" not in said
    return said


def test_a_run_of_another_configuration_is_not_overwritten(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(CONFIG.replace("seed = 1", "seed = 2"))
    assert "is another configuration" in _refusal("fit", other, "--data", workspace, "--out", workspace / "run")


def test_other_pictures_than_those_of_the_run_are_not_measured(workspace: Path, tmp_path: Path) -> None:
    """One more picture shifts the blocks: training pictures would be tested."""
    write_folder(tmp_path / "drawn", CODES, IMAGES_PER_CLASS + 1, size=64)
    before = (workspace / "run" / "evaluation.json").read_bytes()
    assert "differs from the data of this run" in _refusal("evaluate", workspace / "run", "--data", tmp_path)
    assert (workspace / "run" / "evaluation.json").read_bytes() == before


def test_too_few_pictures_for_a_block_are_found_before_training(tmp_path: Path) -> None:
    write_folder(tmp_path / "drawn [few]", CODES, 5, size=64)
    (tmp_path / "few.toml").write_text(CONFIG.replace('folder = "drawn"', 'folder = "drawn [few]"'))
    said = _refusal("fit", tmp_path / "few.toml", "--data", tmp_path, "--out", tmp_path / "run")
    assert "the calibration block is empty: 15 pictures are too few" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("epochs = 2", "epoch = 2"), "unknown key 'fit.epoch'; did you mean 'epochs'?"),
        (('variant = "micro"', 'variant = "tini"'), "did you mean 'tiny'"),
        (('folder = "drawn"', 'folder = "lost [1]"'), "lost [1]: no such folder"),
        (('folder = "drawn"', 'folder = "[/lost]"'), "[/lost]: no such folder"),
        (("batch_size = 16", "batch_size = 512"), "are fewer than fit.batch_size 512"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    workspace: Path, tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    config = tmp_path / "off.toml"
    config.write_text(CONFIG.replace(*change))
    assert says in _refusal("fit", config, "--data", workspace, "--out", tmp_path / "run")
    assert says in _refusal("data", config, "--data", workspace)


def test_steps_out_of_order_name_the_step_that_is_missing(tmp_path: Path) -> None:
    assert "`marrowlens-train fit` writes it" in _refusal("evaluate", tmp_path)
    # In a separate process, with separate streams: errors are on stderr only.
    command = [sys.executable, "-m", "training.cli", "export", str(tmp_path), "--out", str(tmp_path / "weights")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "`marrowlens-train fit` writes it" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_another_list_of_classes_trains_and_exports(tmp_path: Path) -> None:
    write_folder(tmp_path / "drawn", ("EBO", "PLM"), 12, size=64)
    for old, new in (("EBO", "red-line"), ("PLM", "plasma")):
        (tmp_path / "drawn" / old).rename(tmp_path / "drawn" / new)
    classes = '[[classes]]\ncode = "plasma"\nname = "Plasma"\n[[classes]]\ncode = "red-line"\nname = "Red line"\n'
    (tmp_path / "two.toml").write_text(CONFIG.replace("epochs = 2", "epochs = 1") + classes)
    _made("fit", tmp_path / "two.toml", "--data", tmp_path, "--out", tmp_path / "run")
    _made("evaluate", tmp_path / "run", "--data", tmp_path, "--quick")
    _made("export", tmp_path / "run", "--out", tmp_path / "weights", "--allow-inert")
    manifest = read_manifest(tmp_path / "weights" / "drawn.json")
    assert manifest.codes == ("plasma", "red-line")
    session = onnxruntime.InferenceSession(tmp_path / "weights" / "drawn.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["probabilities"], {INPUT: np.zeros((3, 64, 64, 3), np.uint8)})[0].shape == (3, 2)


@pytest.mark.parametrize("named", [("run/split.csv",), ()])
def test_a_full_disk_is_one_line_that_says_what_to_do(
    named: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, report_errors():
        raise OSError(errno.ENOSPC, "No space left on device", *named)
    assert ended.value.exit_code == 2
    said = "the disk is full; free some space and run the same command again: a training resumes"
    assert capsys.readouterr().err == f"error: {': '.join((*named, said))}\n"
