"""What a training takes on paper: held against published counts, and the guide against the command."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from commands import run

from training.commands.measure import size_table
from training.config import Config, read_config
from training.export.cost import network_cost, training_budget
from training.networks.build import build

GUIDE = Path("docs/training-at-scale.md")
FULL = Path("training/configs/full.toml")


def _config(variant: str, size: int, **fit: object) -> Config:
    config = read_config(Path("training/configs/drawn.toml"))
    model = config.model.model_copy(update={"variant": variant, "input_size": size})
    return config.model_copy(update={"model": model, "fit": config.fit.model_copy(update=fit)})


@pytest.mark.parametrize(("variant", "millions", "giga"), [("van_b0", 4.11, 0.88), ("van_b2", 26.58, 5.0)])
def test_counts_are_the_published_ones(variant: str, millions: float, giga: float) -> None:
    """mmpretrain's table and the VAN paper's, which count a head of 1,000 classes."""
    config = _config(variant, 224)
    parameters, multiply_adds = network_cost(config)
    head = build(config.model, 1000).head
    thousand = (1000 - len(config.classes)) * (head.in_features + 1)
    assert (parameters + thousand) / 1e6 == pytest.approx(millions, rel=0.01)
    assert multiply_adds / 1e9 == pytest.approx(giga, rel=0.03)


def test_what_is_kept_is_what_autograd_keeps_of_real_pictures() -> None:
    config = _config("micro", 64)
    net = build(config.model, len(config.classes)).train()
    own = {tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(torch.rand(8, 3, 64, 64))
    real = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in own) / 8
    assert training_budget(config, 100).kept_bytes == pytest.approx(real, rel=0.02)


def test_half_the_bits_keep_half_the_bytes() -> None:
    whole, half = (
        training_budget(_config("micro", 64, precision=p), 100).kept_bytes for p in ("32-true", "bf16-mixed")
    )
    assert half == pytest.approx(whole / 2, rel=0.05)


def test_growing_pictures_cost_what_each_size_costs() -> None:
    small, large = (network_cost(_config("micro", size)).multiply_adds for size in (32, 64))
    grown = training_budget(_config("micro", 64, epochs=10, restarts=(), sizes=((0, 32), (6, 64))), draws=1000)
    assert grown.training_operations == pytest.approx(6 * 1000 * (6 * small + 4 * large))
    assert grown.hours(4, 2.0, 0.5) == pytest.approx(grown.training_operations / 4e12 / 3600)


@pytest.mark.slow
def test_the_guide_says_what_the_command_says() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    commands = re.findall(r"^marrowlens-train size (.*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        path, *options = shlex.split(command)
        given = dict(zip(options[::2], options[1::2], strict=True))
        whole = (int(given[name]) for name in ("--pictures", "--devices", "--accumulate"))
        table = size_table(
            read_config(Path(path)), *whole, *(float(given[name]) for name in ("--tera-operations", "--utilisation"))
        )
        rows = "\n".join(f"| {what} | {much} |" for what, much in table.rows)
        said = f"{command}\n```\n\n| what | how much |\n|---|---|\n{rows}\n"
        assert said in text, f"put this into {GUIDE}:\n{said}"


def test_the_command_shows_the_guides_first_table(tmp_path: Path) -> None:
    log = tmp_path / "size.log"
    assert run("size", FULL, "--pictures", "123389", "--devices", "8", log=log, COLUMNS="140") == 0
    rows = GUIDE.read_text(encoding="utf-8").split("| what | how much |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert len(rows) == 8
    for row in rows:
        assert all(cell.strip() in log.read_text() for cell in row.strip("|").split("|"))
    assert "the utilisation is an assumption" in log.read_text()


def test_size_and_feed_take_replaced_keys(tmp_path: Path) -> None:
    log = tmp_path / "log"
    large = ("--pictures", "100", "--devices", "1")
    assert run("size", FULL, *large, "--set", "model.input_size=96", "--set", "fit.batch_size=32", log=log) == 0
    assert "one picture of 96 px" in log.read_text() and "32 pictures at once" in log.read_text()
    assert run("feed", FULL, "--data", tmp_path, "--set", "fit.learning_rate=1", log=log) == 2
    assert "did you mean 'lr'?" in log.read_text()
