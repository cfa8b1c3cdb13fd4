"""Fine-tuning: frozen parts, learning rates by block, backbones and checkpoints of timm, the learning rate finder."""

import argparse
from pathlib import Path

import commands
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from workspace import Workspace

from stress.training.drawn_config import DRAWN_CONFIG
from training.config import FitConfig, ModelConfig
from training.fit.lr_finder import LearningRateRange
from training.fit.optimiser import check_frozen, is_frozen, lr_factors
from training.fit.pretrained import transfer_weights
from training.networks.build import build, check_model

SHORT = "[fit]\nepochs = 1\nbatch_size = 16\nwarmup_epochs = 0\nlr = 3e-3\nema_decay = 0\n"
BACKBONE = "resnet10t"  # the smallest ResNet of timm


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    workspace.write("short", SHORT)
    return workspace


def test_frozen_parts_and_their_statistics_stay_as_they_were(workspace: Workspace) -> None:
    workspace.fit("short", "first")
    init = ("--init", str(workspace.folder / "runs" / "first"), "--set", "seed=4")
    workspace.fit("short", "frozen", *init, "--set", "fit.freeze=['stages.0', 'stages.1']")
    before, after = (load_file(workspace.folder / "runs" / run / "weights.safetensors") for run in ("first", "frozen"))
    for name, tensor in before.items():
        frozen = name.startswith(("stages.0.", "stages.1."))
        if frozen:
            assert torch.equal(after[name], tensor), name
    assert not torch.equal(after["head.weight"], before["head.weight"])
    assert any(not torch.equal(after[name], before[name]) for name in before if name.startswith("stages.3."))


def test_what_is_frozen_by_the_beginning_of_a_name() -> None:
    names = ["trunk.stages.0.w", "trunk.stages.1.w", "head.weight", "header"]
    assert [is_frozen(name, ("trunk.stages.0",)) for name in names] == [True, False, False, False]
    assert [is_frozen(name, ("*",)) for name in names] == [True, True, False, True]
    with pytest.raises(ValueError, match="no part 'stages'; the network has trunk.stages, head.weight"):
        check_frozen(names, ("stages",))
    with pytest.raises(ValueError, match="nothing is left to train"):
        check_frozen(names, ("*", "head"))


def test_learning_rates_fall_from_block_to_block_towards_the_input() -> None:
    names = ["trunk.conv1.weight", "trunk.layer1.0.w", "trunk.layer1.1.w", "trunk.norm.w", "fusion.w", "head.weight"]
    factors = lr_factors(names, FitConfig(layer_lr_decay=0.5, trunk_lr=0.1))
    assert list(factors.values()) == pytest.approx([0.025, 0.025, 0.05, 0.05, 1, 1])
    assert set(lr_factors(names, FitConfig()).values()) == {1.0}
    with torch.device("meta"):
        net = build(ModelConfig(variant="micro"), 3)
    by_stage = lr_factors([name for name, _ in net.named_parameters()], FitConfig(layer_lr_decay=0.5))
    stages = [{f for name, f in by_stage.items() if name.startswith(f"stages.{stage}.")} for stage in range(4)]
    assert stages == [{0.0625}, {0.125}, {0.25}, {0.5}]


@pytest.mark.parametrize("folder", ["trained", "published"])
def test_a_backbone_of_timm_by_name_with_a_checkpoint_of_timm(folder: str, tmp_path: Path) -> None:
    """A checkpoint of timm's training script holds its arguments, and a moving average, which counts."""
    source = timm.create_model(BACKBONE, num_classes=7)
    path = tmp_path / "model.pth.tar"
    if folder == "trained":
        other = timm.create_model(BACKBONE, num_classes=7).state_dict()
        arguments = argparse.Namespace(lr=0.1, model=BACKBONE, opt="sgd")
        average = {"state_dict": other, "state_dict_ema": source.state_dict()}
        torch.save({"epoch": 3, "arch": BACKBONE, "args": arguments, **average}, path)
    else:
        torch.save({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, path)
    config = ModelConfig(variant=f"timm:{BACKBONE}", init=str(path))
    net = build(config, 3)
    result = transfer_weights(net, config, ("A", "B", "C"))
    assert result.skipped == ("head.weight", "head.bias")
    pictures = torch.randn(2, 3, 64, 64)
    expected = source.eval().forward_features(pictures)
    assert torch.allclose(net.eval().forward_maps(pictures)[0], expected)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("1 + 1",)

    torch.save({"state_dict": {}, "args": Payload()}, tmp_path / "evil.pth")
    config = ModelConfig(variant=f"timm:{BACKBONE}", init=str(tmp_path / "evil.pth"))
    with pytest.raises(ValueError, match="not a checkpoint that torch.load reads with weights_only=True"):
        transfer_weights(build(config, 3), config, ("A", "B", "C"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet19", "timm has no backbone 'resnet19'; did you mean timm:resnet"),
        ("vit_tiny_patch16_224", "a convolutional backbone is needed"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_refused_before_a_picture_is_read(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_model(ModelConfig(variant=f"timm:{name}"))


@pytest.mark.slow
def test_a_backbone_of_timm_is_trained_evaluated_and_exported(workspace: Workspace) -> None:
    workspace.fit("short", "timm", "--set", f"model.variant=timm:{BACKBONE}", "--set", "fit.freeze=['*']")
    run, log = workspace.folder / "runs" / "timm", workspace.folder / "timm-evaluate.log"
    assert commands.run("evaluate", run, "--data", workspace.folder, "--quick", log=log) == 0, log.read_text()
    out = workspace.folder / "timm-weights"
    assert commands.run("export", run, "--out", out, log=log) == 0, log.read_text()
    assert f'"variant": "timm:{BACKBONE}"' in (out / "drawn.json").read_text()


def test_the_learning_rate_finder_suggests_a_rate_and_keeps_nothing(workspace: Workspace) -> None:
    log = workspace.folder / "find.log"
    before = sorted(workspace.folder.rglob("*"))
    arguments = ("find-lr", workspace.folder / "short.toml", "--data", workspace.folder, "--steps", "30")
    assert commands.run(*arguments, log=log) == 0, log.read_text()
    said = log.read_text()
    rate = float(said.partition("falls fastest at ")[2].partition(":")[0])
    assert 1e-6 < rate < 1
    assert [path for path in sorted(workspace.folder.rglob("*")) if path != log] == before


def test_the_suggested_rate_is_on_the_way_to_the_least_loss() -> None:
    """Beyond the least the loss is unstable: the steepest fall is between two jumps, and no rate to train at."""
    finder = LearningRateRange(1e-6, 1.0, 61, 1e-3)
    finder.rates = np.geomspace(1e-6, 1.0, 61).tolist()
    smooth = 1.4 - 0.35 / (1 + np.exp(-2 * (np.log10(finder.rates) + 3)))
    jumps = np.zeros(61)
    jumps[46:] = 0.5, 0.5, 1, 1.5, 1.5, 2, 2, 1.8, 0.6, 0.6, 0.7, 1, 2, 2, 2.2
    finder.losses = (smooth + jumps).tolist()
    assert 1e-4 < finder.finding().suggested < 1e-2
    finder.losses = np.linspace(1, 2, 61).tolist()
    with pytest.raises(ValueError, match="fell at no learning rate"):
        finder.finding()
    finder.losses, finder.rates = finder.losses[:8], finder.rates[:8]
    with pytest.raises(ValueError, match="8 steps are too few"):
        finder.finding()


def test_out_of_memory_is_one_line_that_names_what_to_change(workspace: Workspace) -> None:
    """The address space of the process ends 1 GB above what it needs to start."""
    (workspace.folder / "large.toml").write_text(
        DRAWN_CONFIG.replace("input_size = 32", "input_size = 512").replace("micro", "van_b3") + SHORT
    )
    log = workspace.folder / "memory.log"
    run = workspace.folder / "runs" / "memory"
    code = commands.run_within_memory(
        2_000_000_000, "fit", workspace.folder / "large.toml", "--data", workspace.folder, "--out", run, log=log
    )
    said = log.read_text()
    assert code == 2, said
    assert "Traceback" not in said
    assert "out of memory with 16 pictures at once: run again with --accumulate 2" in said
    assert "fit.batch_size (now 16)" in said


def test_out_of_memory_ends_the_learning_rate_finder_with_the_same_line(workspace: Workspace) -> None:
    (workspace.folder / "vast.toml").write_text(
        DRAWN_CONFIG.replace("input_size = 32", "input_size = 512").replace("micro", "van_b3") + SHORT
    )
    log = workspace.folder / "find-memory.log"
    code = commands.run_within_memory(
        2_000_000_000, "find-lr", workspace.folder / "vast.toml", "--data", workspace.folder, log=log
    )
    assert code == 2, log.read_text()
    assert "out of memory with 16 pictures at once" in log.read_text()
