"""How long a step waits for its pictures: the clock, the command, and the column of the curves."""

from itertools import pairwise
from pathlib import Path

import commands
import numpy as np
import pytest
from desk import Desk

from training.data.sampler import BatchDataset, batch_loader
from training.data.wait_times import Waits

CONFIG = """
[fit]
epochs = 3
batch_size = 8
warmup_epochs = 0
"""


class _Slow(BatchDataset):
    """Takes as long for a picture as the clock says; so does the training for a step."""

    def __init__(self) -> None:
        super().__init__(np.zeros((9, 2, 2, 3), np.uint8), np.arange(9))
        self.clock = 0.0

    def __getitem__(self, indices: list[int]):
        self.clock += len(indices)
        return super().__getitem__(indices)


def test_what_is_waited_for_is_told_from_what_is_computed() -> None:
    rows = _Slow()
    waits = Waits(now=lambda: rows.clock)
    for _, labels in batch_loader(rows, [[3, 1, 3], [8], [0, 2]], 0, waits):
        rows.clock += 10 * len(labels)
    assert waits.epochs == [[(3, 33), (1, 11), (2, 22)]]
    assert waits.share() == pytest.approx(6 / 66)


def test_a_step_of_two_batches_does_not_reach_into_the_next_epoch() -> None:
    waits = Waits([[(1, 10), (2, 20), (3, 30)], [(4, 40), (5, 50), (6, 60)], [(7, 70)]])
    assert waits.steps(2).tolist() == [[3, 30], [9, 90]]
    assert len(waits.steps(1)) == 7
    assert Waits([[], []]).steps(2).shape == (0, 2)
    assert Waits([[]]).share() == 0


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.write("plain", CONFIG)
    return desk


def _fed(desk: Desk, log: Path, *options: str) -> tuple[int, str]:
    command = ("feed", desk.folder / "plain.toml", "--data", desk.folder, *options)
    return commands.run(*command, log=log), log.read_text()


@pytest.mark.parametrize("options", [(), ("--cold", "--accumulate", "2")])
def test_the_command_says_how_much(desk: Desk, tmp_path: Path, options: tuple[str, ...]) -> None:
    code, said = _fed(desk, tmp_path / "log", "--steps", "9", "--cache", str(desk.folder / "cache"), *options)
    assert code == 0, said
    assert "drawn: 4 steps of 8 pictures" in said  # of nine, without the first two and the last of three epochs
    (share,) = [line for line in said.splitlines() if "share of the time" in line]
    assert 0 <= float(share.split()[-1].removesuffix("%")) <= 100
    assert ("from the disk" in said) is ("--cold" in options)
    assert not list(desk.folder.glob("runs/*"))


def test_where_nothing_is_left_to_measure_that_is_said(desk: Desk, tmp_path: Path) -> None:
    code, said = _fed(desk, tmp_path / "log", "--steps", "3")
    assert code == 2
    assert "no step is left to measure" in said


def test_the_curves_say_it_of_every_epoch(desk: Desk) -> None:
    desk.fit("plain", "curves")
    told = [(int(row["epoch"]), float(row["waiting"])) for row in desk.rows("curves") if row["waiting"]]
    assert [epoch for epoch, _ in told] == [0, 1, 2]
    assert all(0 <= share <= 1 for _, share in told)
    assert all(one != other for (_, one), (_, other) in pairwise(told))  # each of its own steps
