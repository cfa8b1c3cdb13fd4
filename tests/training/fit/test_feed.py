"""DataLoader timing: the timer, the command `feed` and the column `waiting` of the curves."""

from itertools import pairwise
from pathlib import Path

import commands
import pytest
from workspace import Workspace

from training.fit.dataloader_timing import EPOCH, NEXT_BATCH, DataLoaderTimer

CONFIG = """
[fit]
epochs = 3
batch_size = 8
warmup_epochs = 0
"""


def _timed(*epochs: list[tuple[float, float]]) -> DataLoaderTimer:
    """A timer after epochs of batches (seconds waited, seconds computed)."""
    clock = [0.0]
    timer = DataLoaderTimer(now=lambda: clock[0])
    for batches in epochs:
        with timer.profile(EPOCH):
            for waited, computed in batches:
                with timer.profile(NEXT_BATCH):
                    clock[0] += waited
                clock[0] += computed
    return timer


def test_what_is_waited_for_is_told_from_what_is_computed() -> None:
    timer = _timed([(3, 30), (1, 10), (2, 20)])
    assert timer.epochs == [[(3, 33), (1, 11)]]  # after the last batch nothing is requested
    assert timer.waiting_share() == pytest.approx(4 / 44)


def test_a_step_of_two_batches_does_not_reach_into_the_next_epoch() -> None:
    timer = _timed([(1, 9), (2, 18), (3, 27), (0, 0)], [(4, 36), (5, 45), (6, 54), (0, 0)], [(7, 63), (0, 0)])
    assert timer.steps(2).tolist() == [[3, 30], [9, 90]]
    assert len(timer.steps(1)) == 7
    assert _timed([], []).steps(2).shape == (0, 2)
    assert _timed([]).waiting_share() == 0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    workspace.write("plain", CONFIG)
    return workspace


def _fed(workspace: Workspace, log: Path, *options: str) -> tuple[int, str]:
    command = ("feed", workspace.folder / "plain.toml", "--data", workspace.folder, *options)
    return commands.run(*command, log=log), log.read_text()


@pytest.mark.parametrize("options", [(), ("--cold", "--accumulate", "2")])
def test_the_command_says_how_much(workspace: Workspace, tmp_path: Path, options: tuple[str, ...]) -> None:
    code, said = _fed(workspace, tmp_path / "log", "--steps", "9", "--cache", str(workspace.folder / "cache"), *options)
    assert code == 0, said
    assert "drawn: 4 steps of 8 pictures" in said  # of nine, without two warm-up steps and the last of each epoch
    (share,) = [line for line in said.splitlines() if "share of all steps" in line]
    assert 0 <= float(share.split()[-1].removesuffix("%")) <= 100
    assert ("from disk" in said) is ("--cold" in options)
    assert not list(workspace.folder.glob("runs/*"))


def test_where_nothing_is_left_to_measure_that_is_said(workspace: Workspace, tmp_path: Path) -> None:
    code, said = _fed(workspace, tmp_path / "log", "--steps", "3")
    assert code == 2
    assert "no step to measure" in said


def test_the_curves_say_it_of_every_epoch(workspace: Workspace) -> None:
    workspace.fit("plain", "curves")
    told = [(int(row["epoch"]), float(row["waiting"])) for row in workspace.rows("curves") if row["waiting"]]
    assert [epoch for epoch, _ in told] == [0, 1, 2]
    assert all(0 <= share <= 1 for _, share in told)
    assert all(one != other for (_, one), (_, other) in pairwise(told))  # each epoch has its own steps
