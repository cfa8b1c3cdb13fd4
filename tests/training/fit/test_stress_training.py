"""The long-running check of killed trainings detects the faults that it looks for."""

import csv
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stress.checks import training
from stress.checks.training import Kill, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, 2)


def _write(site: Site, run: str, weight: float = 1.0, losses: tuple[float, ...] = (3.0, 2.0)) -> None:
    folder = site.run(run) / "curves" / "version_0"
    folder.mkdir(parents=True)
    save_file({"head": np.float32([1, weight])}, site.run(run) / "weights.safetensors")
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("epoch", "train_loss"))
        rows.writerows(enumerate(losses))


@pytest.mark.parametrize(
    ("weight", "losses", "says"),
    [
        (1.0, (3.0, 2.0), []),
        (1.0 + 1e-6, (3.0, 2.0), ["head is not the same"]),
        (1.0, (3.0, 2.0000001), ["train_loss by epoch is not the same"]),
        (1.0, (3.0,), ["train_loss by epoch is not the same"]),
    ],
)
def test_what_differs_is_found(site: Site, weight: float, losses: tuple[float, ...], says: list[str]) -> None:
    _write(site, "one")
    assert training.differing(site, "one", "other") == ["one or other has not come to its end"]
    _write(site, "other", weight, losses)
    assert training.differing(site, "one", "other") == says


def test_losses_too_far_apart_are_found(site: Site) -> None:
    _write(site, "one")
    _write(site, "near", losses=(3.0, 2.0 + 1e-4))
    _write(site, "far", losses=(3.0, 2.1))
    _write(site, "short", losses=(3.0,))
    assert training.apart(site, "one", "near")[1] == []
    assert training.apart(site, "one", "far")[1] == ["one and far are 4.8e-02 apart"]
    assert training.apart(site, "one", "short")[1] == ["one and short do not have the same epochs"]


def test_what_takes_too_long_is_found() -> None:
    assert training.soon(Kill("process 1", "the same command", 59))
    assert not training.soon(Kill("process 1", "the same command", 61))
    assert training.soon(Kill("process 1", "torchrun", 61))
