"""Carries out a comparison: every run trained, evaluated and exported, then all models timed side by side.

Knows the order, what is there already and what has gone wrong. Knows no network: what a step does, a learner knows.

    OUT/<entry>/seed-<n>.toml    the run's configuration, its epochs as the budget makes them
    OUT/<entry>/seed-<n>/        its run folder (training/run.py), and in artefact/ what it exports
    OUT/<entry>/seed-<n>.failed  what went wrong in the last attempt; the next begins where it stopped
    OUT/pace.json                training pictures a second of each run, measured before the first begins
    OUT/speed.json               pictures a second of each artefact; remove it to time them again
    OUT/comparison.*             the table as JSON, CSV and Markdown, and its plot
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout  # in torch's own dependencies; its locks end with the process that holds them
from pydantic import BaseModel, ConfigDict

from model import atomic_file
from training.compare.entries import Budget, PlannedRun, SpeedConfig
from training.compare.speed import Subject, Timing, cores, processor, side_by_side
from training.config import Config, read_config
from training.data.samples import sha256_of
from training.export.cost import NetworkCost
from training.run import RunError, TrainingStopped

Say = Callable[[str], None]


class Learner(Protocol):
    """What a comparison asks of one kind of model."""

    def check(self, config: Config, /) -> None:
        """Return when such a model can be made; raises ValueError otherwise."""
        ...

    def epoch_pictures(self, config: Config, /) -> int | None:
        """Training pictures that are seen in an epoch; None: it does not learn in epochs, and has no budget."""
        ...

    def pace(self, config: Config, /) -> float | None:
        """Training pictures a second on this machine; None: it is not known beforehand."""
        ...

    def cost(self, config: Config, /) -> NetworkCost | None:
        """Parameters and multiply-adds of a picture; None: they cannot be counted."""
        ...

    def fit(self, config_path: Path, folder: Path, /) -> None:
        """Train; picks up what was interrupted, and leaves what is trained as it is."""
        ...

    def evaluate(self, folder: Path, /) -> None:
        """Write evaluation.json and predictions.csv."""
        ...

    def export(self, folder: Path, out: Path, /) -> None:
        """Write what `subject` needs."""
        ...

    def subject(self, out: Path, threads: int, /) -> Subject:
        """What is timed."""
        ...


class Sitting(BaseModel):
    """Models timed together: what decides whether the figures still stand, and the figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processor: str
    threads: int
    settings: SpeedConfig
    artefacts: dict[str, int]  # entry → when its export was written, in ns
    timings: dict[str, tuple[Timing, ...]]  # one a batch size


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run of which is known how long it will train."""

    run: PlannedRun
    epochs: int | None
    pictures: int | None  # seen in training
    expected_s: float | None


def is_done(run: PlannedRun) -> bool:
    """Whether a run has been trained, evaluated and exported."""
    return run.artefact.is_dir()


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold a comparison's folder.

    Raises:
        RunError: another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as taken:
        raise RunError(out, "another comparison is at work here") from taken
    try:
        yield
    finally:
        lock.release()


def prepare(
    runs: Sequence[PlannedRun], budget: Budget, learners: Mapping[str, Learner], out: Path, say: Say
) -> list[Prepared]:
    """Say of every run how many epochs the budget gives it and, from a few steps, how long they will take.

    A run of which this fails is left out and noted: a wrong number comes to light in the first minutes, not in the
    third hour.
    """
    paces = _Paces(out / "pace.json")
    prepared = []
    for number, run in enumerate(runs, start=1):
        with _noted(run, say):
            learner = learners[run.entry.kind]
            pace = None if is_done(run) else paces.of(run, learner, say)
            one = _within(budget, run, learner, pace)
            _check_unchanged(one)
            prepared.append(one)
            say(f"[{number} of {len(runs)}] {run.name}: {_told(one)}")
    return prepared


def _told(one: Prepared) -> str:
    """What is known of a run's time, in a few words."""
    if is_done(one.run):
        return "done"
    return f"about {one.expected_s / 60:.1f} min of training" if one.expected_s else "its time is not known beforehand"


class _Paces:
    """Training pictures a second of each run: measured once, for a second measurement would give another number.

    Under the run's name and a digest of its configuration: between two plans a person changes what takes too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, float | None] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, run: PlannedRun, learner: Learner, say: Say) -> float | None:
        key = f"{run.name} {sha256_of(run.as_toml())[:16]}"
        if key not in self.known:
            say(f"{run.name}: a few steps, to know how long it will take")
            self.known[key] = learner.pace(run.config)
            atomic_file.write_text(self.path, json.dumps(self.known, indent=1) + "\n")
        return self.known[key]


def _within(budget: Budget, run: PlannedRun, learner: Learner, pace: float | None) -> Prepared:
    an_epoch = learner.epoch_pictures(run.config)
    if an_epoch is None:
        return Prepared(run, None, None, None)
    epochs = budget.epochs
    if budget.pictures:
        epochs = max(round(budget.pictures / an_epoch), 1)
    if budget.minutes and run.config_path.exists():
        epochs = read_config(run.config_path).fit.epochs
    elif budget.minutes and pace:
        epochs = max(round(budget.minutes * 60 * pace / an_epoch), 1)
    run = run.trained_for(epochs) if epochs else run
    epochs = run.config.fit.epochs + sum(run.config.fit.restarts)
    return Prepared(run, epochs, epochs * an_epoch, epochs * an_epoch / pace if pace else None)


def _check_unchanged(one: Prepared) -> None:
    path = one.run.config_path
    if path.exists() and path.read_text(encoding="utf-8") != one.run.as_toml():
        raise RunError(path, f"was made from another comparison; give another --out, or remove {path.parent}")


def carry_out(
    prepared: Sequence[Prepared], learners: Mapping[str, Learner], say: Say, after_each: Callable[[], None]
) -> None:
    """Train, evaluate and export what is not done; a run that fails is noted, and the next begins.

    Args:
        after_each: called when a run has ended, well or not.

    Raises:
        Halted, KeyboardInterrupt: told to stop.
    """
    waiting = [one for one in prepared if not is_done(one.run)]
    clock = _Clock(waiting)
    for number, one in enumerate(waiting, start=1):
        say(f"[{number} of {len(waiting)}] {one.run.name}; {clock.left()}")
        with clock.of(one), _noted(one.run, say):
            _carry_out(one.run, learners[one.run.entry.kind])
        try:
            after_each()
        except Exception as error:  # a table can be made again, and no run waits for it
            say(f"not reported: {error}")


def _carry_out(run: PlannedRun, learner: Learner) -> None:
    run.config_path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(run.config_path, run.as_toml())
    learner.fit(run.config_path, run.folder)
    if not (run.folder / "evaluation.json").exists():
        learner.evaluate(run.folder)
    unfinished = run.artefact.with_suffix(".unfinished")
    learner.export(run.folder, unfinished)
    unfinished.rename(run.artefact)


@contextmanager
def _noted(run: PlannedRun, say: Say) -> Iterator[None]:
    """What goes wrong with one run is written beside its folder and said, and stops none of the others."""
    run.failure.unlink(missing_ok=True)
    try:
        yield
    except TrainingStopped:
        raise
    except Exception as error:  # whatever it is: the other runs have nothing to do with it
        run.failure.parent.mkdir(parents=True, exist_ok=True)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        atomic_file.write_text(run.failure, f"{reason}\n\n{traceback.format_exc()}")
        say(f"{run.name} failed: {reason}; more in {run.failure}")


class _Clock:
    """How long is left, from what was expected and how far the runs that have ended were from it."""

    def __init__(self, waiting: Sequence[Prepared]) -> None:
        self.waiting = {one.run.name: one.expected_s or 0.0 for one in waiting}
        self.taken_s = self.expected_s = 0.0

    @contextmanager
    def of(self, one: Prepared) -> Iterator[None]:
        start = time.monotonic()
        yield
        expected = self.waiting.pop(one.run.name)
        if expected:
            self.taken_s, self.expected_s = self.taken_s + time.monotonic() - start, self.expected_s + expected

    def left(self) -> str:
        correction = self.taken_s / self.expected_s if self.expected_s else 1.0
        return f"about {sum(self.waiting.values()) * correction / 60:.0f} min left"


def time_all(
    runs: Sequence[PlannedRun], settings: SpeedConfig, learners: Mapping[str, Learner], out: Path, say: Say
) -> Sitting:
    """Speeds of all models in one sitting, or what an earlier sitting measured of the very same.

    Args:
        runs: one of each entry, done; ratios are to the first.
    """
    path, threads = out / "speed.json", settings.threads or cores()
    sitting = Sitting(
        processor=processor(),
        threads=threads,
        settings=settings,
        artefacts={run.entry.name: run.artefact.stat().st_mtime_ns for run in runs},
        timings={},
    )
    if path.exists():
        before = Sitting.model_validate_json(path.read_bytes())
        same_first = next(iter(before.artefacts)) == next(iter(sitting.artefacts))
        if same_first and before.model_copy(update={"timings": {}}) == sitting:
            return before
    say(f"timing {len(runs)} models side by side, {threads} threads")
    subjects = {run.entry.name: learners[run.entry.kind].subject(run.artefact, threads) for run in runs}
    timings = side_by_side(subjects, settings.batches, settings.rounds, settings.round_s)
    sitting = sitting.model_copy(update={"timings": timings})
    atomic_file.write_text(path, sitting.model_dump_json(indent=1) + "\n")
    return sitting
