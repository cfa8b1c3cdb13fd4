"""The folder of one training run: what is in it, under which names.

Knows file names and formats. Knows nothing of networks.

    config.toml         as given to `fit`, with what its --init changed
    split.csv           block, source, class and file of every picture
    twins.csv           pairs of near duplicates, and the blocks they stand in
    ancestors.json      what it began with and who taught it: whose weights, on which terms
    unreadable.csv      source, class and file of pictures that could not be decoded, and why
    cache/              decoded pictures and fingerprints, where no other folder was named; may be removed
    checkpoints/        Lightning's; an interrupted fit picks up here
    curves/             loss and accuracy by epoch, one version_N/metrics.csv an attempt
    weights.safetensors the averaged weights
    fit.json            which configuration, how long training took, on what
    evaluation.json     temperature, figures, confusion matrices
    predictions.csv     one row a test picture
    logits.npz          of the calibration and the test pictures, for figures, pooling and audits
    folds.csv           in a folder that `pool` wrote: figures of each fold by itself
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from model import atomic_file, csv_file
from model.contract import Metric
from training.config import Config, ConfigError, read_config
from training.data.images import UnreadableImage
from training.data.samples import sha256_of


class RunError(Exception):
    """A run folder that is not as far as it should be: which file is missing, and the command that makes it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def display_names(runs: Sequence["RunFolder"]) -> list[str]:
    """What each run is called beside the others: its folder's name, or the whole path where that says too little."""
    names = [run.folder.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


class TrainingStopped(Exception):
    """A training that was told to stop, and has saved where: the signal (none: its number of steps was reached)."""

    def __init__(self, signum: int | None, epoch: int, step: int) -> None:
        super().__init__(f"stopped in epoch {epoch} after step {step}; the same command goes on from there")
        self.signum = signum


class Provenance(BaseModel):
    """Trained weights that a run began with or learned from, as they were found when it began."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attribution: tuple[str, ...]  # whose weights, and whom these name in turn
    licence: str  # empty: not written beside them
    limit: str  # what follows for the figures; empty: nothing
    seen: int = 0  # test pictures, by name, that are among what they learned from


_ANCESTORS = TypeAdapter(tuple[Provenance, ...])


class Evaluation(BaseModel):
    """What `evaluate` found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float
    temperature_fitted: bool = True  # false: the calibration block does not determine one, and it stays at 1
    metrics: tuple[Metric, ...]
    confusion: dict[str, list[list[int]]]  # by split; rows true, columns predicted, in class order
    splits: dict[str, str] = {}  # source → what its figures carry as their split


class FitRecord(BaseModel):
    """What a training cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: str  # as it was named on the command line
    versions: dict[str, str]  # of what the weights depend on
    train_s: float  # over all attempts of an interrupted run
    device: str


class RunFolder:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = folder / "weights.safetensors"
        self.logits = folder / "logits.npz"
        self.folds = folder / "folds.csv"
        self.checkpoint = folder / "checkpoints" / "last.ckpt"
        self.twins = folder / "twins.csv"
        self.cache = folder / "cache"
        self.best_checkpoint = folder / "checkpoints" / "best.ckpt"

    def clear(self) -> None:
        """Make the folder, without what an attempt has left in it that never came to a step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("twins.csv", "unreadable.csv", "ancestors.json"):
            (self.folder / name).unlink(missing_ok=True)

    def start(self, config: str, split: str) -> None:
        """Write what a new run begins with.

        Args:
            config: text of the configuration, as it is trained.
            split: text of split.csv.
        """
        for name, text in (("split.csv", split), ("config.toml", config)):
            self._write(name, text)

    def _write(self, name: str, text: str) -> None:
        """At once: another process may be about to read it, and one that is killed leaves no half of it."""
        path = self.folder / name
        atomic_file.write_text(path, text)

    def begun(self, config: Config) -> bool:
        """Whether the folder holds a run of this configuration, whose split it goes on with.

        Raises:
            RunError: it holds a run of another configuration that has learned something.
        """
        kept = self.folder / "config.toml"
        if not kept.exists() or not (self.folder / "split.csv").exists():
            return False
        if self._is_of(config):
            return True
        learned = (self.weights, self.checkpoint, self.folder / "fit.json", self.folder / "curves")
        if any(path.exists() for path in learned):
            raise RunError(kept, "differs from this run's; give another --out, or remove that folder")
        return False

    def _is_of(self, config: Config) -> bool:
        """Whether config.toml says the same; comments and the order of keys do not count."""
        try:
            return self.config() == config
        except ConfigError:  # written by a version that knew other keys
            return False

    def config(self) -> Config:
        """The configuration that the run was started with."""
        return read_config(self._made("config.toml", "fit"))

    def split(self) -> str:
        """The text of split.csv."""
        return self._made("split.csv", "fit").read_bytes().decode()

    def split_sha256(self) -> str:
        """Hex digest of split.csv."""
        return sha256_of(self.split())

    def trained_weights(self) -> Path:
        """The weights file.

        Raises:
            RunError: training has not ended.
        """
        return self._made(self.weights.name, "fit")

    def write_ancestors(self, ancestors: tuple[Provenance, ...]) -> None:
        """Write ancestors.json."""
        self._write("ancestors.json", _ANCESTORS.dump_json(ancestors, indent=1).decode() + "\n")

    def ancestors(self) -> tuple[Provenance, ...] | None:
        """What the run began with and who taught it; None: a run of an earlier version, which did not write it down."""
        path = self.folder / "ancestors.json"
        return _ANCESTORS.validate_json(path.read_bytes()) if path.exists() else None

    def write_unreadable(self, unreadable: Iterable[UnreadableImage]) -> None:
        """List the pictures that could not be decoded."""
        with csv_file.replacing(self.folder / "unreadable.csv") as rows:
            rows.writerow(("source", "code", "file", "reason"))
            rows.writerows((e.sample.source, e.sample.code, e.sample.name, e.reason) for e in unreadable)

    def training_images(self) -> dict[str, Counter[str]]:
        """Source → class → pictures that were learned from: the training block without the unreadable."""
        counts: dict[str, Counter[str]] = {}
        for block, source, code, _ in self._readable():
            if block == "train":
                counts.setdefault(source, Counter())[code] += 1
        return counts

    def pictures(self) -> set[tuple[str, str, str]]:
        """Source, class and file of every picture of the split, without those that training could not read."""
        return {(source, code, file) for _, source, code, file in self._readable()}

    def unreadable(self) -> set[tuple[str, str, str]]:
        """Source, class and file of what training could not read; it did not try the pictures of the test block."""
        with self._made("unreadable.csv", "fit").open(newline="", encoding="utf-8") as file:
            return {(row["source"], row["code"], row["file"]) for row in csv_file.reader(file)}

    def _readable(self) -> Iterator[tuple[str, str, str, str]]:
        bad = self.unreadable()
        with self._made("split.csv", "fit").open(newline="", encoding="utf-8") as file:
            for row in csv_file.reader(file):
                if (row["source"], row["code"], row["file"]) not in bad:
                    yield row["block"], row["source"], row["code"], row["file"]

    def write_fit(self, fit: FitRecord) -> None:
        """Write fit.json, and drop what was measured of weights that came before these."""
        for name in ("evaluation.json", "predictions.csv", self.logits.name):
            (self.folder / name).unlink(missing_ok=True)
        self._write("fit.json", fit.model_dump_json(indent=1) + "\n")

    def fit(self) -> FitRecord:
        """What training took.

        Raises:
            RunError: training has not ended.
        """
        return FitRecord.model_validate_json(self._made("fit.json", "fit").read_bytes())

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write evaluation.json."""
        text = json.dumps(evaluation.model_dump(mode="json"), indent=1)
        self._write("evaluation.json", text + "\n")

    def evaluation(self) -> Evaluation:
        """What `evaluate` wrote.

        Raises:
            RunError: the run has not been evaluated.
        """
        return Evaluation.model_validate_json(self._made("evaluation.json", "evaluate").read_bytes())

    def evaluated(self) -> Path:
        """The logits.npz that `evaluate` wrote.

        Raises:
            RunError: the run has not been evaluated.
        """
        return self._made(self.logits.name, "evaluate")

    def _made(self, name: str, command: str) -> Path:
        path = self.folder / name
        if not path.exists():
            raise RunError(path, f"missing; `marrowlens-train {command}` makes it")
        return path
