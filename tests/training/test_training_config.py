"""The training configuration: defaults, and error messages for invalid keys and values."""

import re
from pathlib import Path

import pytest
from minimal_config import MINIMAL

from training.config import ConfigError, read_config
from training.split_config import BlockSplit, KFoldSplit


def _written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    config = read_config(_written(tmp_path, MINIMAL))
    assert len(config.codes) == 21
    assert config.model.variant == "tiny"
    assert config.data.split == BlockSplit()


@pytest.mark.parametrize(("value", "by"), [("true", "patient"), ("false", "picture")])
def test_runs_of_earlier_versions_have_by_patient(tmp_path: Path, value: str, by: str) -> None:
    config = read_config(_written(tmp_path, MINIMAL + f"[data.split]\nkind = 'kfold'\nfold = 2\nby_patient = {value}"))
    assert config.data.split == KFoldSplit.model_validate({"kind": "kfold", "fold": 2, "by": by})


def test_every_configuration_in_the_repository_reads() -> None:
    paths = sorted(Path("training/configs").glob("*.toml"))
    assert paths
    for path in paths:
        assert read_config(path).data.sources


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[model]\nvarient = 'tiny'", "unknown key 'model.varient'; did you mean 'variant'?"),
        ("[fit]\nepoch = 3", "unknown key 'fit.epoch'; did you mean 'epochs'?"),
        ("[fit]\nxyzzy = 3", "unknown key 'fit.xyzzy'; expected one of batch_size, "),
        ("[data.split]\nkind = 'blocks'\ntrain = 0.9\ncalibration = 0.2\ntest = 0.1", "data.split: .*must add up to 1"),
        ("[data.split]\ntrain = 0.9", "data.split: 'kind' is missing"),
        ("[data.split]\nkind = 'random'\nsed = 1", "unknown key 'data.split.sed'; did you mean 'seed'?"),
        ("[data.split]\nkind = 'blocks'\nseed = 1", "unknown key 'data.split.seed'; expected one of calibration, kind"),
        ("[data.split]\nkind = 'kfold'\nfold = 5", "data.split: .*at most k - 1 = 4"),
        ("[data.split]\nkind = 'halves'", "data.split: .*'blocks', 'random', 'grouped', 'kfold', 'list'"),
        ("[data.twins]\nmax_distance = 60", "data.twins.max_distance: .*48"),
        ("[data]\nsample = 20", "data.sample: .*less than or equal to 1"),
        ("[[data.sources]]\nname = 'x'\nfolder = 'x'\nlicense = 'CC0'", "did you mean 'licence'"),
        ("[fit]\nlearning_rate = 3", "unknown key 'fit.learning_rate'; did you mean 'lr'?"),
        ("[train]\nepochs = 3", "unknown key 'train'; did you mean 'fit'?"),
        ("[model]\nlr = 0.1", "unknown key 'model.lr'; did you mean 'lr' in \\[fit\\]?"),
        ("[fit]\nepochs = '3'", "fit: epochs = '3' is text; write a number without quotes"),
        ("[fit]\nlr = true", "fit: lr = true is no number"),
        ("[model]\nfusion = 'true'", "model: fusion = 'true' is text; write true or false without quotes"),
        ("[fit]\nrestarts = ['2']", "fit: restarts = '2' is text"),
        ("[model]\ninput_size = 100", "model.input_size: .*multiple of 32"),
        ("[model]\nvariant = 3", "model.variant: .*string"),
        ("[model", "not TOML"),
        (
            "[[data.sources]]\nname = 'drawn'\nfolder = 'x'\nlicence = 'x'\nattribution = 'x'",
            "data.sources have equal names",
        ),
        ("[[classes]]\ncode = 'A'\nname = 'a'\n[[classes]]\ncode = 'A'\nname = 'b'", "classes have equal codes"),
        ("[[classes]]\ncode = 'A'\nname = 'a'", "classes: .*at least 2"),
        ("[[classes]]\ncode = 'A'", "classes.0.name: Field required"),
        ("tissue = 'blood'", "card.tissue 'blood' is not the tissue of a source; expected bone marrow"),
        ("[fit]\nbatch_size = 33\n[augment]\nmixup_alpha = 0.2", "fit.batch_size must be even"),
    ],
)
def test_a_key_or_value_that_is_off_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_config(_written(tmp_path, MINIMAL + line))


@pytest.mark.parametrize("value", ['["redgrains", "LYT"]', '"redgrains"'])
def test_a_bare_list_of_codes_is_answered_with_the_form_of_a_class(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(_written(tmp_path, f"classes = {value}\n{MINIMAL}"))
    says = str(refused.value)
    assert says.count("classes: ") == 1 and '[[classes]] with code = "redgrains" and name = ' in says
    assert "`marrowlens-train classes FOLDER` writes the tables" in says


@pytest.mark.parametrize("path", sorted(Path("training/configs").rglob("*.toml")), ids=lambda path: path.stem)
def test_the_files_that_a_head_names_are_there(path: Path) -> None:
    head = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    named = set(re.findall(r"[\w./-]+\.(?:toml|py|md)\b", head))
    assert {name for name in named if not Path(name).exists() and not (path.parent / name).exists()} == set()


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        read_config(tmp_path / "none.toml")


def test_another_class_list_comes_with_the_configuration(tmp_path: Path) -> None:
    classes = '[[classes]]\ncode = "A"\nname = "One"\n[[classes]]\ncode = "B"\nname = "Two"\nlineage = "lymphoid"\n'
    assert read_config(_written(tmp_path, MINIMAL + classes)).codes == ("A", "B")
