"""Outlier exposure: a network that learned with pictures of no class is less sure of others of their kind."""

from pathlib import Path

import pytest
from scipy.special import softmax
from workspace import Workspace

from stress.training.drawn_config import DRAWN_CONFIG
from training.config import ConfigError, read_config
from training.data.splits import describe_split
from training.drawn.painter import write_folder
from training.evaluation.network_outputs import load_network, score
from training.evaluation.trust import decode_folder
from training.run import RunFolder

SHORT = "[fit]\nepochs = 16\nbatch_size = 16\nwarmup_epochs = 0\nlr = 1e-2\nema_decay = 0\nlabel_smoothing = 0.0\n"
EXPOSED = ("--set", "data.outliers=['others']", "--set", "fit.outlier_weight=2.0", "--set", "fit.outlier_share=1.0")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    for folder in ("others", "unseen"):
        write_folder(workspace.folder / folder, ("EBO",), 12, size=48, first_seed=1000 * len(folder))
    workspace.write("short", SHORT)
    return workspace


def probability_of_unseen(workspace: Workspace, run: str) -> float:
    """Mean probability of the predicted class on pictures that no run has seen."""
    folder = RunFolder(workspace.folder / "runs" / run)
    config = folder.config()
    logits = score(load_network(config, folder.weights_file()), config, decode_folder(workspace.folder / "unseen", 32))
    return float(softmax(logits, axis=1).max(axis=1).mean())


def test_a_network_is_less_sure_of_what_it_was_exposed_to_and_learns_its_classes(workspace: Workspace) -> None:
    workspace.fit("short", "plain")
    workspace.fit("short", "exposed", *EXPOSED)
    assert probability_of_unseen(workspace, "exposed") < probability_of_unseen(workspace, "plain") - 0.1
    last = max(workspace.curves("exposed")["train_accuracy"])
    assert workspace.curves("exposed")["train_accuracy"][last] > 0.6


def test_the_split_in_manifest_and_card_names_the_outliers(workspace: Workspace) -> None:
    config = read_config(workspace.folder / "short.toml")
    exposed = config.data.model_copy(update={"outliers": (Path("others"),)})
    assert describe_split(exposed).endswith("; outlier exposure to pictures of no class: others")
    assert "outlier" not in describe_split(config.data)


def test_a_folder_without_pictures_stops_the_training(workspace: Workspace) -> None:
    with pytest.raises(AssertionError, match=r"nowhere: no readable pictures \(data.outliers\)"):
        workspace.fit("short", "nowhere", "--set", "data.outliers=['nowhere']")


@pytest.mark.parametrize("measured", ["others", "others/EBO", "."])
def test_rejection_is_not_measured_on_pictures_that_were_learned(tmp_path: Path, measured: str) -> None:
    path = tmp_path / "both.toml"
    text = DRAWN_CONFIG.replace("[data]\n", '[data]\noutliers = ["others"]\n') + f'[trust]\noutliers = ["{measured}"]\n'
    path.write_text(text)
    with pytest.raises(ConfigError, match="rejection must be measured on pictures that were not learned"):
        read_config(path)
