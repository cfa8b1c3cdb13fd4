"""Several devices share every batch: the result equals one device with as many accumulation steps."""

import socket
from pathlib import Path

import commands
import pytest
from workspace import Workspace

pytestmark = pytest.mark.slow

#: A share of a step draws the same random numbers, whichever device takes it.
RANDOM = """
[augment]
mixup_alpha = 0.3
[fit]
precision = "PRECISION"
epochs = 2
batch_size = 16
warmup_epochs = 0
imbalance = "loss_weights"
ema_decay = 0.5
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(("precision", "parts"), [("32-true", 1), ("bf16-mixed", 2)])
def test_two_devices_learn_what_one_does_in_twice_as_many_parts(tmp_path: Path, precision: str, parts: int) -> None:
    workspace = Workspace(tmp_path)
    workspace.write("random", RANDOM.replace("PRECISION", precision))
    workspace.fit("random", "parts", "--accumulate", str(2 * parts))
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    command = [*workspace.arguments("random", "two"), "--devices", "2", "--accumulate", str(parts)]
    first = commands.start(*command, log=tmp_path / "first.log", LOCAL_RANK="0", **there)
    while not (tmp_path / "runs" / "two" / "unreadable.csv").exists():  # after Lightning has started the other process
        first.join(0.01)
        assert first.is_alive(), (tmp_path / "first.log").read_text()
    other = commands.start(*command, log=tmp_path / "other.log", LOCAL_RANK="1", **there)
    first.join()
    other.join()
    assert (first.exitcode, other.exitcode) == (0, 0), (tmp_path / "first.log").read_text()
    assert (tmp_path / "other.log").read_text() == ""

    alone, together = workspace.learned("parts"), workspace.learned("two")
    assert alone.norm() > 0.1
    assert (alone - together).norm() < 0.02 * alone.norm()
