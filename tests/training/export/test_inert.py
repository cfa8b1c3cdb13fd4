"""The lesion gate through the command line: attention that no answer depends on is not exported unnoticed."""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import commands
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from serving import client
from torch import Tensor, nn

from model.contract import Manifest, read_manifest
from model.image import decode
from training.config import Config, read_config
from training.drawn.painter import write_folder
from training.networks.build import build

CODES = ("EOS", "LYT", "NGS")
CONFIG = """
name = "drawn"
version = "0.0.1"
[model]
variant = "micro"
input_size = 64
[fit]
epochs = 1
batch_size = 16
warmup_epochs = 0
[data.split]
kind = "blocks"
train = 0.5
calibration = 0.375
test = 0.125
[[classes]]
code = "EOS"
name = "Eosinophil"
[[classes]]
code = "LYT"
name = "Lymphocyte"
[[classes]]
code = "NGS"
name = "Segmented neutrophil"
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
#: Parts of tensor names → factors of their random values, by which each attention changes a good part of the answers.
LOUDER = {".scales.": 3, "fusion.answer.weight": 20, "pooling.score.weight": 50}
#: Tensors by which gates reach blocks and pooling.
PROJECTIONS = (".attn.proj_2.", "pooling.score.")


class Exported(NamedTuple):
    code: int
    said: str
    folder: Path

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder / "drawn.json")

    @property
    def card(self) -> str:
        return (self.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


class Bench:
    """A folder with drawn cells, and runs of them: the weights of a run are given, not learned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_folder(folder / "drawn", CODES, 24, size=64)
        (folder / "run.toml").write_text(CONFIG)
        self.config: Config = read_config(folder / "run.toml")
        assert self.train("fit", folder / "run.toml", "--data", folder, "--out", folder / "trained")[0] == 0

    def train(self, *arguments: str | Path) -> tuple[int, str]:
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        return commands.run(*arguments, log=log), log.read_text(encoding="utf-8")

    def run(self, name: str, *, projection: float) -> Path:
        """An evaluated run in which attention enters blocks and pooling through projections scaled by a factor."""
        run = self.folder / name
        shutil.copytree(self.folder / "trained", run)
        save_file(self._fitted(projection), run / "weights.safetensors")
        code, said = self.train("evaluate", run, "--data", self.folder, "--quick")
        assert code == 0, said
        (self.folder / f"{name}.log").write_text(said)
        return run

    def _fitted(self, projection: float) -> dict[str, Tensor]:
        """Random weights with a head that was fitted to the drawn cells by least squares."""
        torch.manual_seed(0)
        net = build(self.config.model, len(CODES)).eval()
        pictures = [
            (decode(path.read_bytes(), 64), at)
            for at, code in enumerate(CODES)
            for path in sorted((self.folder / "drawn" / code).iterdir())
        ]
        planes = torch.from_numpy(np.stack([picture for picture, _ in pictures])).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.config.model.mean, self.config.model.std))
        labels = torch.tensor([label for _, label in pictures])
        with torch.inference_mode():
            for name, parameter in net.named_parameters():
                if "layer_scale" in name:
                    nn.init.ones_(parameter)
                for part, factor in (*LOUDER.items(), *((part, projection) for part in PROJECTIONS)):
                    if part in name:
                        parameter *= factor
            embedding = net((planes - mean) / std).embedding
            with_one = torch.cat([embedding, torch.ones(len(labels), 1)], dim=1)
            target = 0.3 * torch.eye(len(CODES))[labels]  # small: an export allows an absolute error
            solved = torch.linalg.lstsq(with_one, target, rcond=1e-2, driver="gelsd").solution
            net.head.weight.copy_(solved[:-1].T)
            net.head.bias.copy_(solved[-1])
        return {name: tensor.contiguous() for name, tensor in net.state_dict().items()}

    def export(self, run: Path, *options: str) -> Exported:
        out = self.folder / f"{run.name}-weights"
        code, said = self.train("export", run, "--out", out, "--data", self.folder, *options)
        return Exported(code, said, out)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("inert"))


@pytest.fixture(scope="module")
def working(bench: Bench) -> Path:
    return bench.run("working", projection=1)


@pytest.fixture(scope="module")
def idle(bench: Bench) -> Path:
    return bench.run("idle", projection=0)


@pytest.fixture(scope="module")
def allowed(bench: Bench, idle: Path) -> Exported:
    return bench.export(idle, "--allow-inert")


def _lesions(run: Path) -> dict[str, dict[str, float]]:
    return {lesion["part"]: lesion for lesion in json.loads((run / "evaluation.json").read_text())["lesions"]}


def test_evaluate_prints_and_writes_the_lesions_of_the_calibration_block(bench: Bench, working: Path) -> None:
    lesions, said = _lesions(working), (bench.folder / "working.log").read_text()
    assert {lesion["n"] for lesion in lesions.values()} == {27}  # 9 of 24 pictures of each class
    mlka = lesions["MLKA"]
    assert mlka["changed"] >= 0.3
    assert mlka["changed_low"] < mlka["changed"] < mlka["changed_high"]
    (row,) = (line for line in said.splitlines() if re.match(" MLKA +27 ", line))
    assert f"{100 * mlka['changed']:.1f} (" in row and f"{mlka['accuracy']:.3f}" in row
    stages = [said.index(f"\n {part} ") for part in lesions if part.startswith("stage")]
    assert len(stages) == 4 and stages == sorted(stages)


def test_a_network_whose_attention_matters_is_exported_with_its_maps(bench: Bench, working: Path) -> None:
    exported = bench.export(working)
    assert exported.code == 0, exported.said
    manifest = exported.manifest
    assert manifest.has_attention and manifest.attention_scales == ("3-5-1", "5-7-1", "7-9-1")
    assert not manifest.inert
    measured = {part: (lesion["n"], lesion["changed"]) for part, lesion in _lesions(working).items()}
    assert {lesion.part: (lesion.n, lesion.changed) for lesion in manifest.lesions} == measured
    assert re.search(r" MLKA +27 ", exported.said) and "do not depend on" not in exported.said
    assert "## Effect of the network's parts" in exported.card and "do not depend on" not in exported.card


def test_a_network_with_idle_attention_is_refused(bench: Bench, idle: Path) -> None:
    assert _lesions(idle)["MLKA"]["changed"] == 0
    exported = bench.export(idle)
    assert exported.code == 2
    assert "replacing MLKA by its mean output changes 0.0% of 27 answers, at least 5% is required" in exported.said
    assert "--allow-inert" in exported.said and "Traceback" not in exported.said
    assert not exported.folder.exists()


def test_an_inert_part_that_is_allowed_is_stated(allowed: Exported) -> None:
    assert allowed.code == 0, allowed.said
    assert "answers do not depend on MLKA\n" in allowed.said
    assert allowed.manifest.inert == ("MLKA", "MLKA in the blocks", "MLKA in the pooling", "pooling")
    head, limits = allowed.card.split("## Classes")[0], allowed.card.split("## Limits")[1].split("\n## ")[0]
    assert (
        "**Answers do not depend on MLKA, MLKA in the blocks, MLKA in the pooling, pooling**" in head
        and "no attention maps" in head
    )
    assert "Answers do not depend on MLKA: replacing MLKA by its mean output changes 0.0% of 27 answers." in limits
    assert "| MLKA | 27 | 0.0 (" in allowed.card
    assert "export RUN --data DATA --out idle-weights --allow-inert" in allowed.card


def test_maps_of_attention_without_effect_are_not_served(allowed: Exported, bench: Bench) -> None:
    graph = onnxruntime.InferenceSession(allowed.folder / "drawn.onnx", providers=["CPUExecutionProvider"])
    outputs = ["probabilities", "logits", "evidence", "embedding"]
    assert [output.name for output in graph.get_outputs()] == outputs == list(allowed.manifest.outputs)
    assert allowed.manifest.attention_scales == ()
    picture = next((bench.folder / "drawn" / "EOS").iterdir()).read_bytes()
    with client(allowed.folder / "drawn.onnx") as service:
        answer = service.post("/classify", params={"maps": "evidence"}, files={"image": picture}).json()
    assert answer["model"]["inert"] == list(allowed.manifest.inert)
    assert answer["evidence"] and "attention" not in answer


@pytest.mark.parametrize("kept", [None, ["MLKA"]])
def test_an_evaluation_without_the_lesions_of_all_parts_is_refused(
    bench: Bench, working: Path, tmp_path: Path, kept: list[str] | None
) -> None:
    """An evaluation of an older version has no lesions, one of an older network not all."""
    run = tmp_path / "older"
    shutil.copytree(working, run)
    evaluation = json.loads((run / "evaluation.json").read_text())
    lesions = evaluation.pop("lesions")
    if kept:
        evaluation["lesions"] = [lesion for lesion in lesions if lesion["part"] in kept]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    for options in ((), ("--allow-inert",)):
        exported = bench.export(run, *options)
        assert exported.code == 2
        assert "cross-scale attention" in exported.said and "run `marrowlens-train evaluate` again" in exported.said
