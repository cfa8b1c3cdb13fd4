"""torchrun on one machine and on several without a shared disk: same result as one process, also after kills."""

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import commands
import pauses
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workspace import Workspace

from stress.training.torchrun import Agent, free_port, machines
from training.process import Process

#: Everything that is random in a step.
RANDOM = """
[augment]
mixup_alpha = 0.3
[fit]
epochs = 5
batch_size = 16
warmup_epochs = 1
ema_decay = 0.5
imbalance = "sampling"
"""


#: Eight times torch is imported for each of the longer ones.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Cells in two tar shards, alternating."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    shards = [tarfile.open(workspace.folder / f"drawn-{at}.tar", "w") for at in range(2)]
    for at, picture in enumerate(sorted((workspace.folder / "drawn").rglob("*.jpg"))):
        shards[at % 2].add(picture, picture.relative_to(workspace.folder / "drawn"))
    for shard in shards:
        shard.close()
    workspace.write("random", RANDOM, ('folder = "drawn"', 'shards = "drawn-*.tar"'))
    return workspace


@pytest.fixture(scope="module")
def unbroken(workspace: Workspace) -> list[Path]:
    """Run folders of two machines with one process each and separate disks; rank 0 may be on either."""
    runs = [f"machine {at}" for at in range(2)]
    with machines(
        2, 1, lambda at: workspace.arguments("random", runs[at]), lambda at: workspace.folder / f"{runs[at]}.log"
    ) as agents:
        codes = [agent.popen.wait() for agent in agents]
    assert codes == [0, 0], [workspace.said(run) for run in runs]
    folders = [workspace.folder / "runs" / run for run in runs]
    return sorted(folders, key=lambda folder: not (folder / "weights.safetensors").exists())


def _train_losses(workspace: Workspace, run: str) -> list[float]:
    losses = workspace.curves(run)["train_loss"]
    assert sorted(losses) == list(range(5))
    return [losses[epoch] for epoch in range(5)]


@pytest.mark.slow
def test_two_machines_learn_what_one_process_does(workspace: Workspace, unbroken: list[Path]) -> None:
    """Equal but for rounding with as many accumulation steps; nearly equal with whole batches (BatchNorm differs)."""
    workspace.fit("random", "parts", "--accumulate", "2")
    workspace.fit("random", "at once")
    together = _train_losses(workspace, unbroken[0].name)
    assert together == pytest.approx(_train_losses(workspace, "parts"), rel=1e-4)
    assert together == pytest.approx(_train_losses(workspace, "at once"), rel=0.05)
    assert together[-1] < together[0] - 0.1  # the weights changed
    parts, two = workspace.learned("parts"), workspace.learned(unbroken[0].name)
    assert (parts - two).norm() < 0.02 * parts.norm()


@pytest.mark.slow
def test_one_machine_alone_writes_and_speaks(workspace: Workspace, unbroken: list[Path]) -> None:
    first, other = unbroken
    assert [entry.name for entry in other.iterdir()] == ["cache"]
    assert "trained weights" in workspace.said(first.name)
    assert "trained weights" not in workspace.said(other.name)
    assert "Warning" not in workspace.said(first.name)


@contextmanager
def _paused(agents: list[Agent]) -> Iterator[None]:
    """Wait until the process of rank 0, on any of these machines, has paused; it goes on after the block."""
    found: list[int] = []

    def pausing() -> bool:
        found[:] = [pid for agent in agents for pid in agent.ranks().values() if pauses.is_paused(pid)]
        return bool(found)

    agents[0].wait_until(pausing)
    try:
        yield
    finally:
        pauses.go_on(found[0])


@pytest.mark.slow
def test_told_to_stop_and_killed_it_goes_on_as_if_nothing_had_happened(
    workspace: Workspace, unbroken: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM on one of two machines, as on preemption; then SIGKILL of one of two processes on one machine."""
    arguments = [*workspace.arguments("random", "broken"), "--checkpoint-every", "1"]
    checkpoint, log = workspace.checkpoint("broken"), workspace.folder / "broken.log"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(pauses.__file__).parent), str(Path.cwd())]))
    for name, value in pauses.moment(checkpoint, 2).items():
        monkeypatch.setenv(name, value)
    with machines(2, 1, lambda _: arguments, lambda _: log, module="pauses") as agents:
        with _paused(agents):
            agents[1].popen.send_signal(signal.SIGTERM)
            agents[0].wait_until(lambda: "closing signal SIGTERM" in log.read_text())  # torchrun passes it on
        assert all(agent.popen.wait() for agent in agents)  # not 0, which a cluster takes for success
    assert "run the same command to resume" in log.read_text()
    stopped = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 2 <= stopped < 10

    with machines(1, 2, lambda _: arguments, lambda _: log, module="pauses") as (agent,):
        with _paused([agent]):
            ranks = agent.ranks()
            assert sorted(ranks) == [0, 1]
            os.kill(ranks[1], signal.SIGKILL)
        assert agent.popen.wait() != 0
        assert not Path(f"/proc/{ranks[0]}").exists()
    killed = torch.load(checkpoint, weights_only=True)["global_step"]
    assert stopped < killed < 10

    with machines(1, 2, lambda _: arguments, lambda _: log) as (agent,):
        assert agent.popen.wait() == 0, log.read_text()
    assert workspace.weights("broken") == (unbroken[0] / "weights.safetensors").read_bytes()
    assert workspace.curves("broken") == workspace.curves(unbroken[0].name)


#: Two connected processes; the second dies and the first reports it.
DYING = """
import os, signal, sys
import torch, torch.distributed as dist
from training.fit.distributed import ProcessLost, barrier, process_group

try:
    with process_group():
        barrier()
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        barrier() if sys.argv[1] == "talk" else dist.all_reduce(torch.ones(1))
except ProcessLost as lost:
    raise SystemExit(f"lost: {lost}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["talk", "step"])
def test_whoever_is_left_says_plainly_that_another_is_gone(where: str) -> None:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", DYING, where]
    started = [
        subprocess.Popen(
            command, env=os.environ | dict(_environment(rank, 2, 1)) | meeting, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate()[1] for process in started]
    assert "lost: another process died; run the same command to resume from the checkpoint" in said[0]
    # After the message, a gloo thread may abort the process.
    assert started[0].returncode in (1, -signal.SIGABRT) and started[1].returncode == -signal.SIGKILL


# Rank from the environment


def _environment(rank: int, here: int, nodes: int, **more: str) -> Mapping[str, str]:
    """The environment that torchrun sets."""
    told = {"RANK": rank, "LOCAL_RANK": rank % here, "LOCAL_WORLD_SIZE": here}
    told |= {"WORLD_SIZE": here * nodes, "GROUP_WORLD_SIZE": nodes, "GROUP_RANK": rank // here}
    return {name: str(value) for name, value in told.items()} | {"TORCHELASTIC_RUN_ID": "none"} | more


@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_every_process_knows_its_place(data: st.DataObject, here: int, nodes: int) -> None:
    rank = data.draw(st.integers(0, here * nodes - 1))
    process = Process.of(_environment(rank, here, nodes))
    assert (process.rank, process.world, process.local_rank) == (rank, here * nodes, rank % here)
    assert process.devices(None, gpus=0) == process.devices(here, gpus=here) == here
    assert process.torchrun


def test_without_torchrun_the_command_says_how_many() -> None:
    assert Process.of({}) == Process()
    assert Process().devices(None, gpus=0) == 1
    assert Process().devices(4, gpus=8) == 4
    assert Process.of({"LOCAL_RANK": "3"}).rank == 3  # started by Lightning, all on one machine
    assert Process.of({"RANK": "5", "WORLD_SIZE": "8"}).rank == 0  # another launcher, without LOCAL_RANK


@pytest.mark.parametrize(
    ("environment", "asked", "gpus", "says"),
    [
        (_environment(0, 2, 3), 6, 0, "--devices 6, but torchrun started 2 on this machine; omit --devices"),
        (_environment(0, 2, 3, WORLD_SIZE="5"), None, 0, "2 on this machine, 5 on 3; give every machine the same"),
        (_environment(0, 4, 1), None, 2, "4 processes need one GPU each, this machine has 2"),
        ({}, 3, 1, "3 processes need one GPU each"),
    ],
)
def test_numbers_that_do_not_agree_are_said(
    environment: Mapping[str, str], asked: int | None, gpus: int, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Process.of(environment).devices(asked, gpus)


@pytest.mark.slow
def test_the_command_says_it_before_it_waits_for_anybody(workspace: Workspace, tmp_path: Path) -> None:
    log = tmp_path / "log"
    told = dict(_environment(1, 2, 1)) | {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    assert commands.run(*workspace.arguments("random", "none"), "--devices", "3", log=log, **told) == 2
    assert log.read_text().startswith("process 1: error: --devices 3, but torchrun started 2")


@pytest.mark.slow
def test_a_machine_without_the_pictures_says_so_and_none_waits(workspace: Workspace, tmp_path: Path) -> None:
    """An error on one machine ends the others at once, with one line each."""
    there, elsewhere = workspace.arguments("random", "lacking"), workspace.arguments("random", "lacking too")
    elsewhere[elsewhere.index("--data") + 1] = str(tmp_path)
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    with machines(2, 1, lambda at: elsewhere if at else there, lambda at: logs[at]) as agents:
        assert all(agent.popen.wait() for agent in agents)
    said = [log.read_text() for log in logs]
    assert "no such shards" in said[1]
    assert "another process failed; see its error" in said[0] or "rank 0 failed; see its error" in said[0]
    assert "Traceback" not in said[0].split("failed; see")[0]
