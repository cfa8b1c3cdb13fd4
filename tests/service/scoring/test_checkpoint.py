"""The ledger of a run: what was committed outlives any death, and nobody else's is gone on with."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.scoring.checkpoint import COMMIT_EVERY_S, Ledger
from service.scoring.tables import Columns, Scored, TableError

COLUMNS = Columns(("NGS", "NGB"), "a" * 64)


def scored(path: str, first: float = 0.25) -> Scored:
    return Scored(path, np.array([first, 1 - first], np.float32))


def paths(ledger: Ledger) -> list[str]:
    return [row.path for row in ledger.rows()]


class Death(Exception):
    """Ends a run in a test."""


def begun(path: Path, *names: str) -> None:
    """A ledger of a run that ended too early."""
    with pytest.raises(Death), Ledger(path, COLUMNS) as ledger:
        for name in names:
            ledger.add(scored(name))
        raise Death


def test_rows_come_back_by_path_each_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "run", COLUMNS) as ledger:
        for name in ("b", "a", "ä", "b"):
            ledger.add(scored(name, 0.75 if name == "b" else 0.1))
        assert paths(ledger) == ["a", "b", "ä"] and len(ledger) == 3
        assert "a" in ledger and "c" not in ledger
        row = list(ledger.rows())[1]
        assert row.probabilities.dtype == np.float32 and row.probabilities.tolist() == [0.75, 0.25]


def test_a_run_that_ends_well_leaves_nothing_and_one_that_does_not_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    begun(path, "a", "b")
    with Ledger(path, COLUMNS) as ledger:
        assert paths(ledger) == ["a", "b"]
    assert not path.exists()


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_that_did_nothing_more_keeps_what_was_there(tmp_path: Path) -> None:
    begun(tmp_path / "run", "a")
    begun(tmp_path / "run")
    with Ledger(tmp_path / "run", COLUMNS) as ledger:
        assert paths(ledger) == ["a"]


def test_problems_are_of_one_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Death), Ledger(path, COLUMNS) as ledger:
        ledger.add(scored("a"))
        ledger.refuse("c", "broken")
        ledger.refuse("b", "empty")
        assert list(ledger.problems()) == [("b", "empty"), ("c", "broken")]
        raise Death
    with Ledger(path, COLUMNS) as ledger:
        assert list(ledger.problems()) == [] and "b" not in ledger


def test_what_the_table_has_is_taken_over_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken_table() -> list[Scored]:
        raise TableError(tmp_path, "is broken in the middle")

    path = tmp_path / "run"
    with pytest.raises(TableError, match="in the middle"):
        Ledger(path, COLUMNS, broken_table)
    assert not path.exists()
    with Ledger(path, COLUMNS, lambda: [scored("a"), scored("b")]) as ledger:
        assert paths(ledger) == ["a", "b"]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from service.scoring.checkpoint import Ledger
from service.scoring.tables import Columns, Scored
now = 0.0
ledger = Ledger(Path(sys.argv[1]), Columns(("NGS", "NGB"), "a" * 64), clock=lambda: now)
for number in range(3000):
    now += float(sys.argv[2]) if number == 1999 else 0
    ledger.add(Scored(f"{number:04d}", np.zeros(2, np.float32)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(path), str(COMMIT_EVERY_S)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with Ledger(path, COLUMNS) as ledger:
        assert paths(ledger) == [f"{number:04d}" for number in range(2000)]
    assert not list(tmp_path.iterdir())


def test_another_models_ledger_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run"
    begun(path, "a")
    for other in (Columns(COLUMNS.codes, "b" * 64), Columns(("NGB", "NGS"), "a" * 64)):
        with pytest.raises(TableError, match="begun with model aaaaaaaaaaaa…"):
            Ledger(path, other)
    with Ledger(path, COLUMNS) as ledger:
        assert paths(ledger) == ["a"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Ledger(tmp_path / "run", COLUMNS) as ledger:
        with pytest.raises(TableError, match="another run"):
            Ledger(tmp_path / "run", COLUMNS)
        ledger.add(scored("a"))
        assert paths(ledger) == ["a"]


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("this is not a ledger, and it is long enough to have had a header " * 20)
    before = path.read_bytes()
    with pytest.raises(TableError, match="not the ledger"):
        Ledger(path, COLUMNS)
    assert path.read_bytes() == before
