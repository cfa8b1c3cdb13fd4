"""Check `training`: two machines with one process each, killed repeatedly, compared with an undisturbed training.

Both machines are this one; they share only the run's folder.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from stress.results import Result, Shown, Table
from stress.training.drawn_config import DRAWN_CONFIG
from stress.training.torchrun import Agent, machines
from training.drawn.painter import write_folder
from training.report.figures.curves import read_curves

#: How far the losses of an epoch may be from those of one process that takes each batch in two parts.
MAX_OFF = 1e-3
#: What is left of a training must have ended so long after a kill, or gone on where torchrun starts it again.
MAX_ENDING_S, MAX_RETURN_S = 60.0, 300.0
PICTURES, BATCH, EVERY = 40, 16, 3
EPOCHS_A_KILL = 4  # of six steps: a kill comes after one to three checkpoints, or a few more on a busy machine
FIT = """
[augment]
mixup_alpha = 0.3
[fit]
epochs = EPOCHS
batch_size = BATCH
warmup_epochs = 1
ema_decay = 0.9
imbalance = "sampling"
"""


@dataclass(frozen=True, slots=True)
class Kill:
    """What was killed, how it is restarted, and how long the others took to end or continue."""

    what: str
    by: str
    seconds: float


class Site:
    """A folder with pictures, a configuration and runs."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.folder = folder
        write_folder(folder / "drawn", ("EOS", "LYT", "NGS"), PICTURES, size=48)
        config = (DRAWN_CONFIG + FIT).replace("EPOCHS", str(epochs)).replace("BATCH", str(BATCH))
        (folder / "run.toml").write_text(config, encoding="utf-8")

    def arguments(self, run: str, *options: str) -> list[str]:
        return ["fit", str(self.folder / "run.toml"), "--data", str(self.folder), "--out", str(self.run(run)), *options]

    def on(self, machine: int, run: str) -> list[str]:
        cache = str(self.folder / f"disk {machine}")
        return self.arguments(run, "--cache", cache, "--checkpoint-every", str(EVERY))

    def log(self, machine: int, run: str) -> Path:
        return self.folder / f"{run} {machine}.log"

    def run(self, run: str) -> Path:
        return self.folder / "runs" / run

    def curves(self, run: str) -> dict[str, dict[int, float]]:
        """Name → epoch → value; the last value of a repeated epoch."""
        return read_curves(self.run(run) / "curves").values


async def training(kills: int, bar: Shown, seed: int = 0) -> Result:
    """Kill a training a number of times and compare its result with an undisturbed one."""
    epochs = EPOCHS_A_KILL * (kills + 1)
    bar.total(kills + 2)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = await asyncio.to_thread(_trained, Site(Path(folder), epochs), kills, bar, random.Random(seed))
    result.seconds = time.monotonic() - began
    return result


def _trained(site: Site, kills: int, bar: Shown, chance: random.Random) -> Result:
    with machines(2, 1, lambda at: site.on(at, "unbroken"), lambda at: site.log(at, "unbroken")) as agents:
        ended = [agent.popen.wait() for agent in agents]
    bar.step()
    command = [sys.executable, "-m", "training.cli", *site.arguments("alone", "--accumulate", "2")]
    with site.log(0, "alone").open("wb") as log:
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=False)
    bar.step()
    killed, faults = _killed(site, kills, bar, chance)
    faults += [] if ended == [0, 0] else [f"without a kill it ended with {ended}"]
    faults += differing(site, "unbroken", "killed")
    off, far = apart(site, "unbroken", "alone")
    epochs = len(site.curves("unbroken").get("train_loss", {}))
    said = (
        f"{epochs} epochs of drawn cells by two processes under torchrun, each as on a machine of its own; {kills} "
        f"times one of them, or all of a machine, was killed by SIGKILL, and torchrun or the same command continued "
        f"from the checkpoint of every {EVERY} steps. Required: weights, losses and accuracies of every epoch "
        f"bit-identical to those of an undisturbed run; the others end within {MAX_ENDING_S:.0f} s of a kill. Compared "
        f"with one process with two accumulation steps, the losses of an epoch differ by {off:.1e} at most (required: "
        f"{MAX_OFF:.0e})."
    )
    head = ["killed", "goes on by", "times", "longest until the rest had ended, or the next checkpoint, s"]
    table = Table(head, killed)
    return Result("training", "A training on two machines, killed", said, [table], faults + far, network="micro")


def differing(site: Site, run: str, other: str) -> list[str]:
    """Differences between two runs, bit by bit."""
    faults = []
    weights = [site.run(each) / "weights.safetensors" for each in (run, other)]
    if not all(path.exists() for path in weights):
        return [f"{run} or {other} has not come to its end"]
    states = [load_file(path) for path in weights]
    faults += [f"{name} is not the same" for name in states[0] if (states[0][name] != states[1][name]).any()]
    one, two = (site.curves(each) for each in (run, other))
    return faults + [f"{name} by epoch is not the same" for name in one | two if one.get(name) != two.get(name)]


def apart(site: Site, run: str, other: str) -> tuple[float, list[str]]:
    """Largest relative difference of the training losses of two runs, and a fault if it is too large."""
    one, two = (site.curves(each).get("train_loss", {}) for each in (run, other))
    if not one or one.keys() != two.keys():
        return float("nan"), [f"{run} and {other} do not have the same epochs"]
    off = max(abs(one[epoch] - two[epoch]) / two[epoch] for epoch in one)
    return off, [] if off <= MAX_OFF else [f"{run} and {other} are {off:.1e} apart"]


def _killed(site: Site, kills: int, bar: Shown, chance: random.Random) -> tuple[list[list[str]], list[str]]:
    """Rows of the table, and faults."""
    done: list[Kill] = []
    faults: list[str] = []
    while len(done) < kills:
        itself = chance.random() < 0.5
        restarts = ["--max-restarts", "3" if itself else "0"]
        with machines(2, 1, lambda at: site.on(at, "killed"), lambda at: site.log(at, "killed"), *restarts) as agents:
            found = _one_kill(site, agents, itself, chance)
        if isinstance(found, str):
            faults.append(found)
            break
        done.append(found)
        bar.step()
    with machines(2, 1, lambda at: site.on(at, "killed"), lambda at: site.log(at, "killed")) as agents:
        ended = [agent.popen.wait() for agent in agents]
    faults += [] if ended == [0, 0] else [f"after the last kill it ended with {ended}"]
    faults += [f"{kill.what}: {kill.seconds:.0f} s" for kill in done if not soon(kill)]
    kinds = sorted({(kill.what, kill.by) for kill in done})
    return [_row(what, by, [kill for kill in done if (kill.what, kill.by) == (what, by)]) for what, by in kinds], faults


def _one_kill(site: Site, agents: list[Agent], itself: bool, chance: random.Random) -> Kill | str:
    """Wait for checkpoints, kill, and wait for the recovery; returns faults."""
    checkpoint = Checkpoint(site.run("killed") / "checkpoints" / "last.ckpt")
    wanted = chance.randint(1, 3)
    for seen in range(wanted):
        if not checkpoint.written(agents, MAX_RETURN_S):
            codes = [agent.popen.poll() for agent in agents]
            return f"after {seen} of {wanted} checkpoints it was not there to be killed: {codes}"
    agent = chance.choice(agents)
    ((rank, process),) = agent.ranks().items()
    whole = not itself and chance.random() < 0.5
    began = time.monotonic()
    for pid in (agent.popen.pid, process) if whole else (process,):
        os.kill(pid, signal.SIGKILL)
    what = f"process {rank}" + (" and its torchrun" if whole else "")
    if itself:
        if not checkpoint.written(agents, MAX_RETURN_S):
            return f"{what} was killed, and torchrun did not go on: {[agent.popen.poll() for agent in agents]}"
        return Kill(what, "torchrun", time.monotonic() - began)
    for each in agents:
        try:
            each.popen.wait(MAX_RETURN_S)
        except subprocess.TimeoutExpired:
            return f"{what} was killed, and the others did not end in {MAX_RETURN_S:.0f} s"
    return Kill(what, "the same command", time.monotonic() - began)


class Checkpoint:
    """A file that is written repeatedly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = self._stamp()

    def _stamp(self) -> int:
        return self.path.stat().st_mtime_ns if self.path.exists() else 0

    def written(self, agents: list[Agent], patience_s: float) -> bool:
        """Wait until it is written again; False if a machine ends first or it takes too long."""
        until = time.monotonic() + patience_s
        while self._stamp() == self.seen:
            if time.monotonic() > until or any(agent.popen.poll() is not None for agent in agents):
                return False
            time.sleep(0.02)
        self.seen = self._stamp()
        return True


def soon(kill: Kill) -> bool:
    """Whether it took no longer than allowed."""
    return kill.seconds <= (MAX_RETURN_S if kill.by == "torchrun" else MAX_ENDING_S)


def _row(what: str, by: str, kills: list[Kill]) -> list[str]:
    return [what, by, str(len(kills)), f"{max(kill.seconds for kill in kills):.1f}"]
