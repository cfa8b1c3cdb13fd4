"""The checkpoint of a run: committed rows survive a kill, and another model's checkpoint is refused."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.scoring.checkpoint import COMMIT_EVERY_S, Checkpoint
from service.scoring.tables import Columns, ScoredPicture, TableError

COLUMNS = Columns(("NGS", "NGB"), "a" * 64)


def scored(path: str, first: float = 0.25) -> ScoredPicture:
    return ScoredPicture(path, np.array([first, 1 - first], np.float32))


def paths(checkpoint: Checkpoint) -> list[str]:
    return [row.path for row in checkpoint.rows()]


class Death(Exception):
    """Simulates a kill."""


def begun(path: Path, *names: str) -> None:
    """The checkpoint of a run that was killed."""
    with pytest.raises(Death), Checkpoint(path, COLUMNS) as checkpoint:
        for name in names:
            checkpoint.add(scored(name))
        raise Death


def test_rows_come_back_by_path_each_once(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "run", COLUMNS) as checkpoint:
        for name in ("b", "a", "ä", "b"):
            checkpoint.add(scored(name, 0.75 if name == "b" else 0.1))
        assert paths(checkpoint) == ["a", "b", "ä"] and len(checkpoint) == 3
        assert "a" in checkpoint and "c" not in checkpoint
        row = list(checkpoint.rows())[1]
        assert row.probabilities.dtype == np.float32 and row.probabilities.tolist() == [0.75, 0.25]


def test_a_run_that_ends_well_leaves_nothing_and_one_that_does_not_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    begun(path, "a", "b")
    with Checkpoint(path, COLUMNS) as checkpoint:
        assert paths(checkpoint) == ["a", "b"]
    assert not path.exists()


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_that_did_nothing_more_keeps_what_was_there(tmp_path: Path) -> None:
    begun(tmp_path / "run", "a")
    begun(tmp_path / "run")
    with Checkpoint(tmp_path / "run", COLUMNS) as checkpoint:
        assert paths(checkpoint) == ["a"]


def test_problems_are_of_one_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Death), Checkpoint(path, COLUMNS) as checkpoint:
        checkpoint.add(scored("a"))
        checkpoint.add_problem("c", "broken")
        checkpoint.add_problem("b", "empty")
        assert list(checkpoint.problems()) == [("b", "empty"), ("c", "broken")]
        raise Death
    with Checkpoint(path, COLUMNS) as checkpoint:
        assert list(checkpoint.problems()) == [] and "b" not in checkpoint


def test_what_the_table_has_is_taken_over_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken_table() -> list[ScoredPicture]:
        raise TableError(tmp_path, "is broken in the middle")

    path = tmp_path / "run"
    with pytest.raises(TableError, match="in the middle"):
        Checkpoint(path, COLUMNS, broken_table)
    assert not path.exists()
    with Checkpoint(path, COLUMNS, lambda: [scored("a"), scored("b")]) as checkpoint:
        assert paths(checkpoint) == ["a", "b"]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from service.scoring.checkpoint import Checkpoint
from service.scoring.tables import Columns, ScoredPicture
now = 0.0
checkpoint = Checkpoint(Path(sys.argv[1]), Columns(("NGS", "NGB"), "a" * 64), clock=lambda: now)
for number in range(3000):
    now += float(sys.argv[2]) if number == 1999 else 0
    checkpoint.add(ScoredPicture(f"{number:04d}", np.zeros(2, np.float32)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(path), str(COMMIT_EVERY_S)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with Checkpoint(path, COLUMNS) as checkpoint:
        assert paths(checkpoint) == [f"{number:04d}" for number in range(2000)]
    assert not list(tmp_path.iterdir())


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    begun(path, "a")
    for other in (Columns(COLUMNS.codes, "b" * 64), Columns(("NGB", "NGS"), "a" * 64)):
        with pytest.raises(TableError, match="belongs to another model, or to other thresholds"):
            Checkpoint(path, other)
    with Checkpoint(path, COLUMNS) as checkpoint:
        assert paths(checkpoint) == ["a"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "run", COLUMNS) as checkpoint:
        with pytest.raises(TableError, match="another run"):
            Checkpoint(tmp_path / "run", COLUMNS)
        checkpoint.add(scored("a"))
        assert paths(checkpoint) == ["a"]


def test_a_file_that_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("this is not a checkpoint, and it is long enough to have had a header " * 20)
    before = path.read_bytes()
    with pytest.raises(TableError, match="not a checkpoint"):
        Checkpoint(path, COLUMNS)
    assert path.read_bytes() == before
