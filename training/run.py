"""The folder of one training run: its files, their names and formats.

config.toml         the configuration, with the changes of `fit --init`
split.csv           block, source, class and file of every picture, and its patient where one is known
twins.csv           pairs of near duplicates and the blocks of both pictures
overlaps.csv        pairs of shifted crops of one field and the blocks of both pictures
ancestors.json      provenance of the pretrained weights and the teachers: attribution, licence, limits
unreadable.csv      source, class and file of the pictures that could not be decoded, and the error
cache/              decoded pictures and fingerprints, unless --cache names another folder; may be deleted
checkpoints/        Lightning checkpoints; an interrupted `fit` resumes from here
curves/             loss and accuracy by epoch, one version_N/metrics.csv per attempt
weights.safetensors the weights (their moving average where fit.ema_decay is set)
fit.json            configuration, library versions, training time and device
evaluation.json     temperature, figures and confusion matrices of the test block; of the calibration block the effect
                    of the parts, the tests of the maps and the responses to disturbances
trust.json          trust reference: class means, thresholds of decisions and prediction sets; for the manifest
evaluations.csv     date, digest of the weights and number of pictures of every evaluation on the test block
predictions.csv     one row per test picture: patient, true and predicted class, probability of every class
logits.npz          logits of the calibration and the test pictures, for `figures`, `pool` and `audit`
development.json    the same as evaluation.json for the calibration block, without reading a test picture
development.npz     logits of the calibration pictures, for `compare`
folds.csv           in a folder that `pool` wrote: figures of each fold
external.json       in a folder of an external validation: the model that was measured
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from model import atomic_file, csv_file
from model.contract import Lesion, Metric
from model.trust.reference import TrustReference
from training.config import Config, ConfigError, differences, read_config
from training.data.images import UnreadableImage
from training.data.samples import published_split, sha256_of


class RunError(Exception):
    """A run folder without a file that a command needs: the path, and the command that writes it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class TrainingStopped(Exception):
    """A training that stopped after saving a checkpoint: on a signal, or (signum None) after `--steps` steps."""

    def __init__(self, signum: int | None, epoch: int, step: int) -> None:
        super().__init__(f"stopped in epoch {epoch} after step {step}; run the same command to resume")
        self.signum = signum


class Provenance(BaseModel):
    """Pretrained weights or a teacher of a run, as found when the run started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attribution: tuple[str, ...]  # the weights, then those that their own metadata names
    licence: str  # empty: unknown
    limit: str  # overlap with the test block, as the model card states it; empty: none
    seen: int = 0  # test pictures (by file name) among their training pictures


#: Keys of a differing configuration that an error message names.
MAX_CHANGED = 6
#: Blocks that an evaluation may measure, and the file of its result.
MeasuredBlock = Literal["test", "calibration"]
MEASURED_BLOCKS: tuple[MeasuredBlock, ...] = ("test", "calibration")
_EVALUATIONS: dict[MeasuredBlock, str] = {"test": "evaluation.json", "calibration": "development.json"}
_DEVELOP = "evaluate --block calibration"

_PROVENANCE = TypeAdapter(tuple[Provenance, ...])


class MeasuredLesion(Lesion):
    """A lesion with 95 % intervals: Wilson for the share of changed answers, paired bootstrap for the accuracy."""

    changed_low: float
    changed_high: float
    accuracy: float  # without the part
    accuracy_change_low: float
    accuracy_change_high: float


class MeasuredCurve(BaseModel):
    """Mean probability of the predicted class while pixels are deleted or inserted, in three orders."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    map: float  # highest values of the map first
    disc: float  # nearest to the middle of the picture first
    random: float
    better: float  # than the disc; with the 95 % bootstrap interval
    better_low: float
    better_high: float


class MeasuredMap(BaseModel):
    """Whether a map lies on the cell, and whether the answer depends on what it marks (evaluation/saliency.py)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    map: str
    n: int
    inside: float  # share of the map inside the rough mask of the cell
    inside_gaussian: float  # the same of a centred Gaussian of the same spread
    inside_cell_sized: float  # the same of a centred Gaussian as wide as an average cell
    inside_more: float  # mean difference, with the 95 % bootstrap interval
    inside_more_low: float
    inside_more_high: float
    cell_area: float  # the mask's share of the picture
    deletion: MeasuredCurve
    insertion: MeasuredCurve
    shuffled_correlation: float | None  # mean rank correlation with the map of the same network with shuffled weights


class MeasuredResponse(BaseModel):
    """Accuracy on pictures that are disturbed (evaluation/robustness.py)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    disturbance: str
    unit: str
    strength: float
    n: int
    accuracy: float
    low: float  # 95 % Wilson interval
    high: float
    change: float  # relative to the same pictures undisturbed, with the 95 % paired bootstrap interval
    change_low: float
    change_high: float
    confident_errors: float  # share of all pictures with a wrong class of a probability above 0.9
    accepted: float | None = None  # share of all pictures; none: without a trust reference
    accepted_accuracy: float | None = None  # of the accepted pictures; none: there are none
    accepted_confident_errors: float | None = None  # the part of `confident_errors` that is accepted


class MeasuredSets(BaseModel):
    """Prediction sets of the known cells of one class, or of all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str | None  # none: all classes
    n: int
    covered: float  # share whose set contains the class, with the 95 % Wilson interval
    low: float
    high: float
    size: float  # mean number of classes in a set


class MeasuredDecisions(BaseModel):
    """Decisions on one kind of pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: str
    n: int
    accepted: float
    rejected: float  # the rest is reviewed
    accuracy: float | None = None  # of the accepted, with the 95 % Wilson interval; none: the class is not the model's
    low: float | None = None
    high: float | None = None
    auroc: float | None = None  # of the novelty against known cells; none: these are known cells


class MeasuredTrust(BaseModel):
    """Decisions, prediction sets and novelty, with the trust reference of the run (evaluation/trust.py)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    known: str  # the known cells that were measured
    coverage: float  # that the sets aim at
    sets: tuple[MeasuredSets, ...]  # of all classes together first
    decisions: tuple[MeasuredDecisions, ...]  # on known cells first


class Evaluation(BaseModel):
    """Result of `marrowlens-train evaluate`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float
    temperature_fitted: bool = True  # false: the calibration block does not determine one; 1 is used
    temperature_low: float | None = None  # 95 % profile-likelihood interval; none: not fitted
    temperature_high: float | None = None
    temperature_n: int | None = None  # pictures that it was fitted on
    metrics: tuple[Metric, ...]
    confusion: dict[str, list[list[int]]]  # by split; rows true, columns predicted, in class order
    splits: dict[str, str] = {}  # source → the split that its figures carry
    patients: dict[str, int] = {}  # source → patients of its pictures; absent: unknown
    lesions: tuple[MeasuredLesion, ...] | None = None  # none: not measured; empty: the network has no named parts
    maps: tuple[MeasuredMap, ...] = ()
    responses: tuple[MeasuredResponse, ...] = ()  # the pictures as they are first
    trust: MeasuredTrust | None = None  # none: not measured


class ExternalModel(BaseModel):
    """The model of an external validation, in external.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str  # name and version
    file: str  # of the artefact, or the name of the run folder
    sha256: str  # of the graph or of the weights
    seen: int | None = None  # pictures with the file name of a training picture of the model; none: no split list


class EvaluationCount(NamedTuple):
    """How often `evaluate` has measured the test block; both are 0 if the runs were not recorded."""

    same_weights: int  # with the present weights
    in_folder: int  # with any weights of this run folder


class FitRecord(BaseModel):
    """Facts about a finished training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: str  # as given on the command line
    versions: dict[str, str]  # of the libraries that the weights depend on
    train_s: float  # over all attempts of an interrupted run
    device: str


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = folder / "weights.safetensors"
        self.logits = folder / "logits.npz"
        self.development_logits = folder / "development.npz"
        self.evaluations = folder / "evaluations.csv"
        self.folds = folder / "folds.csv"
        self.checkpoint = folder / "checkpoints" / "last.ckpt"
        self.best_checkpoint = folder / "checkpoints" / "best.ckpt"
        self.twins = folder / "twins.csv"
        self.overlaps = folder / "overlaps.csv"
        self.trust_reference = folder / "trust.json"
        self.cache = folder / "cache"

    def prepare(self) -> None:
        """Create the folder; delete what an attempt left that ended before its first step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("twins.csv", "overlaps.csv", "unreadable.csv", "ancestors.json"):
            (self.folder / name).unlink(missing_ok=True)

    def write_start(self, config: str, split: str) -> None:
        """Write config.toml and split.csv (their texts), which mark the run as started."""
        atomic_file.write_text(self.folder / "split.csv", split)
        atomic_file.write_text(self.folder / "config.toml", config)

    def started(self, config: Config) -> bool:
        """Whether the folder holds a run of this configuration, to be resumed with its split.

        Raises:
            RunError: it holds a trained run of another configuration.
        """
        kept = self.folder / "config.toml"
        if not kept.exists() or not (self.folder / "split.csv").exists():
            return False
        if self._has_config(config):
            return True
        trained = (self.weights, self.checkpoint, self.folder / "fit.json", self.folder / "curves")
        if any(path.exists() for path in trained):
            changed = self._changed_keys(config)
            raise RunError(kept, f"is another configuration{changed}; give another --out, or delete that folder")
        return False

    def extend(self, config: Config, text: str) -> None:
        """Replace the configuration of a run by one that trains longer; `fit` then continues from the last checkpoint.

        Args:
            text: text of the configuration.

        Raises:
            RunError: no run, no checkpoint, or the configuration differs in more than the length of the training.
        """
        checkpoint, own = self._existing("checkpoints/last.ckpt", "fit"), self.config()
        if own.trained_as(config):
            return
        longer = {"epochs": config.fit.epochs, "restarts": config.fit.restarts}
        begins_alike = config.fit.restarts[: len(own.fit.restarts)] == own.fit.restarts
        grows = sum((config.fit.epochs, *config.fit.restarts)) > sum((own.fit.epochs, *own.fit.restarts))
        extended = own.model_copy(update={"fit": own.fit.model_copy(update=longer)})
        if not (extended.trained_as(config) and begins_alike and grows):
            raise RunError(
                checkpoint,
                f"cannot be extended: the configuration may differ in more fit.epochs or appended fit.restarts only"
                f"{self._changed_keys(config)}",
            )
        self.weights.unlink(missing_ok=True)  # it marks the end of the training
        atomic_file.write_text(self.folder / "config.toml", text)

    def _changed_keys(self, config: Config) -> str:
        """The keys that differ from config.toml, each with both values; empty if it is of another version."""
        try:
            own = self.config()
        except ConfigError:
            return ""
        changed = list(differences(own.model_dump(mode="json"), config.model_dump(mode="json")))
        return f" ({'; '.join(changed[:MAX_CHANGED])}{'; …' if len(changed) > MAX_CHANGED else ''})"

    def _has_config(self, config: Config) -> bool:
        """Whether config.toml has the same values; comments and the order of keys do not count."""
        try:
            return self.config().trained_as(config)
        except ConfigError:  # written by a version with other keys
            return False

    def config(self) -> Config:
        """The configuration that the run was started with."""
        return read_config(self._existing("config.toml", "fit"))

    def split(self) -> str:
        """The text of split.csv."""
        return self._existing("split.csv", "fit").read_bytes().decode()

    def published_split(self) -> str:
        """The text of split.csv without patients, as it is written beside an artefact."""
        return published_split(self.split())

    def split_sha256(self) -> str:
        """Hex digest of the published split list."""
        return sha256_of(self.published_split())

    def weights_file(self) -> Path:
        """weights.safetensors.

        Raises:
            RunError: training has not ended.
        """
        return self._existing(self.weights.name, "fit")

    def write_provenance(self, provenance: tuple[Provenance, ...]) -> None:
        """Write ancestors.json."""
        text = _PROVENANCE.dump_json(provenance, indent=1).decode() + "\n"
        atomic_file.write_text(self.folder / "ancestors.json", text)

    def provenance(self) -> tuple[Provenance, ...]:
        """Pretrained weights and teachers of the run; empty: none."""
        path = self.folder / "ancestors.json"
        return _PROVENANCE.validate_json(path.read_bytes()) if path.exists() else ()

    def write_unreadable(self, unreadable: Iterable[UnreadableImage]) -> None:
        """Write unreadable.csv."""
        with csv_file.replacing(self.folder / "unreadable.csv") as rows:
            rows.writerow(("source", "code", "file", "reason"))
            rows.writerows((e.sample.source, e.sample.code, e.sample.name, e.reason) for e in unreadable)

    def training_images(self) -> dict[str, Counter[str]]:
        """Source → class → number of readable training pictures."""
        counts: dict[str, Counter[str]] = {}
        for block, source, code, _ in self._readable():
            if block == "train":
                counts.setdefault(source, Counter())[code] += 1
        return counts

    def image_keys(self) -> set[tuple[str, str, str]]:
        """Source, class and file of every picture of the split that training could read."""
        return {(source, code, file) for _, source, code, file in self._readable()}

    def unreadable_keys(self) -> set[tuple[str, str, str]]:
        """Source, class and file of the pictures that training could not read; it reads no test pictures."""
        with self._existing("unreadable.csv", "fit").open(newline="", encoding="utf-8") as file:
            return {(row["source"], row["code"], row["file"]) for row in csv_file.reader(file)}

    def _readable(self) -> Iterator[tuple[str, str, str, str]]:
        unreadable = self.unreadable_keys()
        with self._existing("split.csv", "fit").open(newline="", encoding="utf-8") as file:
            for row in csv_file.reader(file):
                if (row["source"], row["code"], row["file"]) not in unreadable:
                    yield row["block"], row["source"], row["code"], row["file"]

    def write_fit(self, fit: FitRecord) -> None:
        """Write fit.json, and delete the evaluation of earlier weights."""
        logits = (self.logits.name, self.development_logits.name)
        for name in ("evaluation.json", "development.json", "predictions.csv", "trust.json", *logits):
            (self.folder / name).unlink(missing_ok=True)
        atomic_file.write_text(self.folder / "fit.json", fit.model_dump_json(indent=1) + "\n")

    def fit(self) -> FitRecord:
        """The record in fit.json.

        Raises:
            RunError: training has not ended.
        """
        return FitRecord.model_validate_json(self._existing("fit.json", "fit").read_bytes())

    def write_evaluation(self, evaluation: Evaluation, block: MeasuredBlock = "test") -> None:
        """Write evaluation.json, or development.json for the calibration block."""
        text = json.dumps(evaluation.model_dump(mode="json"), indent=1) + "\n"
        atomic_file.write_text(self.folder / _EVALUATIONS[block], text)

    def evaluation(self, block: MeasuredBlock = "test") -> Evaluation:
        """The result in evaluation.json, or in development.json for the calibration block.

        Raises:
            RunError: the run has not been evaluated on this block.
        """
        path = self._existing(_EVALUATIONS[block], "evaluate" if block == "test" else _DEVELOP)
        return Evaluation.model_validate_json(path.read_bytes())

    def is_evaluated(self, block: MeasuredBlock) -> bool:
        """Whether there is a result of this block."""
        return (self.folder / _EVALUATIONS[block]).exists()

    def write_external(self, about: ExternalModel) -> None:
        """Write external.json, which marks the folder as that of an external validation."""
        atomic_file.write_text(self.folder / "external.json", about.model_dump_json(indent=1) + "\n")

    def external(self) -> ExternalModel | None:
        """The model of an external validation; None if the folder is that of a run or of pooled folds."""
        path = self.folder / "external.json"
        return ExternalModel.model_validate_json(path.read_bytes()) if path.exists() else None

    def write_trust(self, reference: TrustReference | None) -> None:
        """Write trust.json; None deletes it."""
        if reference is None:
            self.trust_reference.unlink(missing_ok=True)
        else:
            atomic_file.write_text(self.trust_reference, reference.model_dump_json(indent=1) + "\n")

    def trust(self) -> TrustReference | None:
        """The trust reference of the present weights; None if it has not been fitted."""
        if not self.trust_reference.exists():
            return None
        return TrustReference.model_validate_json(self.trust_reference.read_bytes())

    def record_evaluation(self, weights: Path, pictures: int) -> None:
        """Append an evaluation on the test block to evaluations.csv.

        Args:
            weights: the file whose sha256 is recorded.
            pictures: number of test pictures.
        """
        rows = self._recorded()
        rows.append((datetime.now(UTC).isoformat(timespec="seconds"), _digest(weights), str(pictures)))
        with csv_file.replacing(self.evaluations) as file:
            file.writerow(("date", "weights_sha256", "pictures"))
            file.writerows(rows)

    def evaluation_count(self) -> EvaluationCount:
        """How often the test block was measured, by evaluations.csv."""
        rows, own = self._recorded(), _digest(self.weights_file())
        return EvaluationCount(sum(weights == own for _, weights, _ in rows), len(rows))

    def _recorded(self) -> list[tuple[str, str, str]]:
        if not self.evaluations.exists():
            return []
        with self.evaluations.open(newline="", encoding="utf-8") as file:
            return [(row["date"], row["weights_sha256"], row["pictures"]) for row in csv_file.reader(file)]

    def logits_file(self) -> Path:
        """logits.npz.

        Raises:
            RunError: the run has not been evaluated.
        """
        return self._existing(self.logits.name, "evaluate")

    def development_file(self) -> Path:
        """development.npz.

        Raises:
            RunError: the run has not been evaluated on the calibration block.
        """
        return self._existing(self.development_logits.name, _DEVELOP)

    def _existing(self, name: str, command: str) -> Path:
        path = self.folder / name
        if not path.exists():
            raise RunError(path, f"no such file; `marrowlens-train {command}` writes it")
        return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def display_names(runs: Sequence[RunFolder]) -> list[str]:
    """A name for each run: its folder's name, or its path where two folders share a name."""
    names = [run.folder.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]
