"""Run a comparison: train, evaluate and export every run, time all models side by side, write table and plot.

OUT/<entry>/seed-<n>.toml    configuration of the run, with the number of epochs that the budget allows
OUT/<entry>/seed-<n>/        run folder (training/run.py); artefact/ in it is complete once it exists
OUT/<entry>/seed-<n>.failed  error of the last attempt; the next attempt resumes the run
OUT/pace.json                training pictures/s of each run, measured before the first training
OUT/speed.json               inference pictures/s of each artefact; delete it to measure again
OUT/comparison.*             the table as JSON, CSV and Markdown, and its plot
"""

import json
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
from filelock import FileLock, Timeout  # a dependency of torch; released when the process ends
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from threadpoolctl import threadpool_limits  # a dependency of scikit-learn

from model import atomic_file
from model.report.figure import ReportFigure, save
from training import pipeline
from training.compare import plots, table
from training.compare.baselines import ClassicalKind, ClassicalModel
from training.compare.entries import Budget, Comparison, PlannedRun, SpeedConfig
from training.compare.results import Results, collect_results, pictures_per_epoch
from training.compare.speed import Subject, Timing, load_artefact, processor, time_side_by_side
from training.config import Config, read_config
from training.data.index import index_data
from training.data.samples import sha256_of
from training.export.cost import NetworkCost, network_cost, training_speed
from training.fit.pretrained import IMAGENET, weights_info
from training.networks.build import check_model
from training.onnx_session import cores
from training.run import FitRecord, MeasuredBlock, RunError, RunFolder, TrainingStopped
from training.terminal import print_line

NAME = "comparison"
FEATURES = "features.npz"  # features and labels of the training pictures
MIN_PROBABILITY = 1e-6  # a forest may predict 0; logits must be finite


class NetworkLearner:
    """Trains a network by the steps of `marrowlens-train fit`, and runs its artefact in onnxruntime."""

    def __init__(self, data: Path, cache: Path) -> None:
        self.data, self.cache = data, cache
        self._training_pictures: dict[str, Counter[str]] = {}  # data configuration → source → pictures

    def check(self, config: Config) -> None:
        """Raise ValueError if the network cannot be built or its ImageNet weights are not installed."""
        check_model(config.model)
        if config.model.init == IMAGENET:
            weights_info(IMAGENET, config.model.variant)

    def epoch_pictures(self, config: Config) -> int:
        """Training pictures seen in an epoch."""
        key = f"{config.data.model_dump_json()} {config.codes}"
        if key not in self._training_pictures:
            parts = index_data(config.data, self.data, config.codes, self.cache).split
            self._training_pictures[key] = Counter(sample.source for sample in parts["train"])
        return pictures_per_epoch(config, self._training_pictures[key])

    def speed(self, config: Config) -> float:
        """Training pictures/s on this machine."""
        return training_speed(config)

    def cost(self, config: Config) -> NetworkCost:
        """Parameters and multiply-adds of one picture."""
        return network_cost(config)

    def fit(self, config_path: Path, folder: Path) -> None:
        """Train, or resume an interrupted training; does nothing if the run is trained."""
        config, text, run = read_config(config_path), config_path.read_text(encoding="utf-8"), RunFolder(folder)
        parts = pipeline.start_run(config, text, run, self.data, self.cache)
        if not run.weights.exists():
            pipeline.train(config, parts, run, self.data, self.cache, str(config_path))

    def evaluate(self, folder: Path, block: MeasuredBlock) -> None:
        """Write the evaluation on a block, and its logits."""
        pipeline.evaluate(RunFolder(folder), self.data, self.cache, block)

    def export(self, folder: Path, out: Path, block: MeasuredBlock) -> None:
        """Write the artefact, with the metrics of a block. Inert parts are allowed: it is timed, not served."""
        pipeline.export(RunFolder(folder), out, block=block, allow_inert=True)

    def subject(self, out: Path, threads: int) -> Subject:
        """The exported model, ready to be timed."""
        (path,) = out.glob("*.onnx")
        return load_artefact(path, threads)


class ClassicalLearner:
    """Trains a scikit-learn classifier on colour, texture and shape features.

    Its artefact are the training features: the classifier is fitted again from them, with the same result. A pickle
    would run arbitrary code when loaded.
    """

    def __init__(self, data: Path, cache: Path, kind: ClassicalKind) -> None:
        self.data, self.cache, self.kind = data, cache, kind

    def check(self, _: Config) -> None:
        """Any configuration is valid."""

    def epoch_pictures(self, _: Config) -> None:
        """None: there are no epochs, and no budget applies."""

    def speed(self, _: Config) -> None:
        """None: the training time is not estimated."""

    def cost(self, _: Config) -> None:
        """None: there is no network to count."""

    def fit(self, config_path: Path, folder: Path) -> None:
        """Measure the features of the training pictures; does nothing if they are measured."""
        config, text, run = read_config(config_path), config_path.read_text(encoding="utf-8"), RunFolder(folder)
        parts = pipeline.start_run(config, text, run, self.data, self.cache, network=False)
        if (folder / FEATURES).exists():
            return
        start = time.monotonic()
        pictures = pipeline.decode_block(config, parts, "train", config.model.input_size, self.cache)
        model = self._model(config, processes=cores())
        features = model.measure(pictures.images)
        model.fit_features(features, pictures.labels)
        run.write_unreadable(pictures.unreadable)
        versions = {name: version(name) for name in ("marrowlens", "scikit-learn", "scikit-image", "numpy", "pillow")}
        seconds, device = time.monotonic() - start, f"{cores()} CPU cores"
        run.write_fit(FitRecord(config=str(config_path), versions=versions, train_s=seconds, device=device))
        with atomic_file.replacing(folder / FEATURES) as file:  # last: marks the training as complete
            np.savez(file, features=features, labels=pictures.labels)

    def evaluate(self, folder: Path, block: MeasuredBlock) -> None:
        """Write the evaluation on a block, and its logits."""
        model = self._fitted(folder, processes=cores())

        def logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.log(np.maximum(model.predict_proba(images), MIN_PROBABILITY))

        pipeline.evaluate_logits(logits, RunFolder(folder), self.data, self.cache, folder / FEATURES, block)

    def export(self, folder: Path, out: Path, _: MeasuredBlock) -> None:
        """Copy the training features and the configuration."""
        out.mkdir(exist_ok=True)
        for name in (FEATURES, "config.toml"):
            shutil.copy(folder / name, out)

    def subject(self, out: Path, threads: int) -> Subject:
        """The fitted classifier, ready to be timed."""
        model = self._fitted(out, processes=1)  # starting a process takes longer than a batch

        def predict(images: NDArray[np.uint8]) -> object:
            with threadpool_limits(threads):
                return model.predict_proba(images)

        return Subject(read_config(out / "config.toml").model.input_size, predict)

    def _model(self, config: Config, processes: int) -> ClassicalModel:
        return ClassicalModel(len(config.classes), self.kind, config.seed, processes)

    def _fitted(self, folder: Path, processes: int) -> ClassicalModel:
        model = self._model(read_config(folder / "config.toml"), processes)
        with np.load(folder / FEATURES, allow_pickle=False) as arrays:
            return model.fit_features(arrays["features"], arrays["labels"])


Learner = NetworkLearner | ClassicalLearner
Learners = Mapping[str, Learner]  # kind of an entry → its learner


def make_learners(data: Path, cache: Path) -> dict[str, Learner]:
    """Kind of an entry → its learner.

    Args:
        data: value of --data.
        cache: folder of decoded pictures and fingerprints, shared by all entries.
    """
    learners: dict[str, Learner] = {kind: ClassicalLearner(data, cache, kind) for kind in get_args(ClassicalKind)}
    return learners | {"network": NetworkLearner(data, cache)}


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Lock a comparison's folder.

    Raises:
        RunError: another process has locked it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(out, "another comparison runs in this folder; wait for it, or choose another --out") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _record_failure(run: PlannedRun) -> Iterator[None]:
    """Write an exception to the run's .failed file and print it; the next run continues."""
    run.failure.unlink(missing_ok=True)
    try:
        yield
    except TrainingStopped:
        raise
    except Exception as error:  # no error of one run may stop the others
        run.failure.parent.mkdir(parents=True, exist_ok=True)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        atomic_file.write_text(run.failure, f"{reason}\n\n{traceback.format_exc()}")
        print_line(f"{run.name} failed: {reason}; traceback in {run.failure}")


@dataclass(frozen=True, slots=True)
class PlannedTraining:
    """A run with its epochs and expected duration; None where unknown."""

    run: PlannedRun
    epochs: int | None = None
    pictures: int | None = None  # seen in training
    expected_s: float | None = None


def plan_trainings(runs: Sequence[PlannedRun], budget: Budget, learners: Learners, out: Path) -> list[PlannedTraining]:
    """Epochs of every run within the budget, and its duration estimated from a few timed steps.

    A run that fails here is recorded and left out: a wrong value shows within minutes, before any training.
    """
    speeds_path = out / "pace.json"
    speeds: dict[str, float | None] = json.loads(speeds_path.read_text()) if speeds_path.exists() else {}

    def speed_of(run: PlannedRun) -> float | None:
        """Training speed; measured once for each configuration, so that a second plan gives the same epochs."""
        key = f"{run.name} {sha256_of(run.as_toml())[:16]}"
        if key not in speeds:
            print_line(f"{run.name}: timing a few steps")
            speeds[key] = learners[run.entry.kind].speed(run.config)
            atomic_file.write_text(speeds_path, json.dumps(speeds, indent=1) + "\n")
        return speeds[key]

    plans = []
    for number, run in enumerate(runs, start=1):
        with _record_failure(run):
            plan = _plan(run, budget, learners[run.entry.kind], None if run.done else speed_of(run))
            _check_unchanged(plan.run)
            plans.append(plan)
            left = f"about {plan.expected_s / 60:.1f} min of training" if plan.expected_s else "duration unknown"
            print_line(f"[{number} of {len(runs)}] {run.name}: {'done' if run.done else left}")
    return plans


def _plan(run: PlannedRun, budget: Budget, learner: Learner, speed: float | None) -> PlannedTraining:
    epoch_pictures = learner.epoch_pictures(run.config)
    if epoch_pictures is None:
        return PlannedTraining(run)
    epochs = budget.epochs
    if budget.pictures:
        epochs = max(round(budget.pictures / epoch_pictures), 1)
    if budget.minutes and run.config_path.exists():
        epochs = read_config(run.config_path).fit.epochs
    elif budget.minutes and speed:
        epochs = max(round(budget.minutes * 60 * speed / epoch_pictures), 1)
    run = run.with_epochs(epochs) if epochs else run
    epochs = run.config.fit.epochs + sum(run.config.fit.restarts)
    pictures = epochs * epoch_pictures
    return PlannedTraining(run, epochs, pictures, pictures / speed if speed else None)


def _check_unchanged(run: PlannedRun) -> None:
    path = run.config_path
    if path.exists() and path.read_text(encoding="utf-8") != run.as_toml():
        raise RunError(path, f"belongs to another comparison; choose another --out, or delete {path.parent}")


def train_all(
    plans: Sequence[PlannedTraining], block: MeasuredBlock, learners: Learners, after_each: Callable[[], None]
) -> None:
    """Train, evaluate and export every run that is not done; a failed run is recorded and the next one starts.

    A run that is done, but not measured on this block, is only measured.

    Args:
        block: the block that is measured.
        after_each: called when a run has ended, successfully or not.

    Raises:
        TrainingStopped, KeyboardInterrupt: the training was interrupted.
    """
    pending = [plan for plan in plans if not (plan.run.done and RunFolder(plan.run.folder).is_evaluated(block))]
    taken_s = expected_s = 0.0
    for number, plan in enumerate(pending, start=1):
        left_s = sum(later.expected_s or 0.0 for later in pending[number - 1 :] if not later.run.done)
        correction = taken_s / expected_s if expected_s else 1.0
        print_line(f"[{number} of {len(pending)}] {plan.run.name}; about {left_s * correction / 60:.0f} min left")
        start = time.monotonic()
        measured_only = plan.run.done
        with _record_failure(plan.run):
            _train(plan.run, block, learners[plan.run.entry.kind])
        if plan.expected_s and not measured_only:
            taken_s, expected_s = taken_s + time.monotonic() - start, expected_s + plan.expected_s
        try:
            after_each()
        except Exception as error:  # the table can be written again
            print_line(f"table not written: {error}")


def _train(run: PlannedRun, block: MeasuredBlock, learner: Learner) -> None:
    run.config_path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(run.config_path, run.as_toml())
    learner.fit(run.config_path, run.folder)
    if not RunFolder(run.folder).is_evaluated(block):
        learner.evaluate(run.folder, block)
    if run.done:
        return
    unfinished = run.artefact.with_suffix(".unfinished")
    learner.export(run.folder, unfinished, block)
    unfinished.rename(run.artefact)


class SpeedRecord(BaseModel):
    """Timings of all models, and the conditions under which they stay valid (speed.json)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processor: str
    threads: int
    settings: SpeedConfig
    artefacts: dict[str, int]  # entry → modification time of its artefact, in ns
    timings: dict[str, tuple[Timing, ...]]  # entry → one a batch size


def time_all(runs: Sequence[PlannedRun], settings: SpeedConfig, learners: Learners, out: Path) -> SpeedRecord:
    """Time all models side by side, or return the stored timings if nothing has changed.

    Args:
        runs: one of each entry, done; ratios are to the first.
    """
    path, threads = out / "speed.json", settings.threads or cores()
    record = SpeedRecord(
        processor=processor(),
        threads=threads,
        settings=settings,
        artefacts={run.entry.name: run.artefact.stat().st_mtime_ns for run in runs},
        timings={},
    )
    if path.exists():
        stored = SpeedRecord.model_validate_json(path.read_bytes())
        same_first = next(iter(stored.artefacts)) == next(iter(record.artefacts))
        if same_first and stored.model_copy(update={"timings": {}}) == record:
            return stored
    print_line(f"timing {len(runs)} models side by side, {threads} threads")
    subjects = {run.entry.name: learners[run.entry.kind].subject(run.artefact, threads) for run in runs}
    timings = time_side_by_side(subjects, settings.batches, settings.rounds, settings.round_s)
    record = record.model_copy(update={"timings": timings})
    atomic_file.write_text(path, record.model_dump_json(indent=1) + "\n")
    return record


def write_results(
    comparison: Comparison, runs: Sequence[PlannedRun], learners: Learners, out: Path, timed: bool
) -> None:
    """Write table and plot of the runs done so far; nothing if none is done.

    Args:
        runs: all runs of the comparison.
        timed: include inference speeds; measured if there are no valid stored ones.
    """
    done = [run for run in runs if run.done and not run.failure.exists()]
    if not done:
        return
    first = {run.entry.name: run for run in reversed(done)}  # first seed of each entry
    one_each = [run for run in done if first[run.entry.name] is run]
    costs = {run.entry.name: learners[run.entry.kind].cost(run.config) for run in one_each}
    results = collect_results(comparison, runs, costs)
    if timed:
        record = time_all(one_each, comparison.speed, learners, out)
        rows = tuple(row.model_copy(update={"timings": record.timings[row.name]}) for row in results.rows)
        results = results.model_copy(update={"rows": rows, "processor": record.processor, "threads": record.threads})
    plot = _plot(comparison, results)
    if plot:
        save(plot, out)
    table.write(results, out, plot)
    if timed:
        print_line(f"table: {out / NAME}.md, .csv and .json" + (f", plot: {out / NAME}.svg and .png" if plot else ""))


def _plot(comparison: Comparison, results: Results) -> ReportFigure | None:
    match comparison.plot:
        case "training_pictures":
            return plots.training_pictures_figure(results, NAME)
        case "difference" if len(results.rows) > 1:
            return plots.difference_figure(results, NAME)
        case "speed" if results.rows[0].timings:
            return plots.speed_figure(results, NAME)
    return None
