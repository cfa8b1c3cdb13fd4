"""Results of a comparison, read from the run folders: a row an entry, with paired differences to the first entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from model.agreement.class_averages import Drawn, Labels
from model.agreement.clustered import proportion
from training.compare.entries import Comparison, Entry, PlannedRun
from training.compare.speed import Timing
from training.config import Config
from training.data.sampler import samples_per_epoch
from training.data.splits import describe_split
from training.evaluation.paired import Predictions, Scores, draw_scores, holm, p_value
from training.evaluation.scores import measured_scores
from training.export.cost import NetworkCost
from training.report.figures.curves import read_curves
from training.run import FitRecord, MeasuredBlock, MeasuredLesion, RunError, RunFolder
from training.split_config import ConfigTable


class Estimate(ConfigTable):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(Estimate):
    """A difference to the first entry on the same pictures."""

    p: float
    p_holm: float | None = None  # corrected for the number of entries; only for the intended tissue


class TissueResult(ConfigTable):
    """Scores of an entry on the measured pictures of one tissue, averaged over seeds."""

    tissue: str
    n: int
    patients: int | None = None  # none: unknown
    accuracy: Estimate  # interval: Wilson; several seeds: Bayesian bootstrap
    macro_f1: Estimate  # interval: Bayesian bootstrap
    balanced_accuracy: Estimate | None = None  # the same; none: written by an earlier version
    accuracy_by_seed: tuple[float, ...]
    macro_f1_by_seed: tuple[float, ...]
    accuracy_difference: Difference | None = None
    macro_f1_difference: Estimate | None = None


class PartEffect(ConfigTable):
    """Effect of replacing a part of a network by its mean output (training/evaluation/lesion.py), over the seeds."""

    part: str
    changed: float  # share of answers, mean over the seeds
    accuracy_change: float  # mean over the seeds
    changed_by_seed: tuple[float, ...]
    accuracy_change_by_seed: tuple[float, ...]


class Row(ConfigTable):
    """One entry: cost, scores on each tissue (the intended one first), effects of its parts and inference speed."""

    name: str
    title: str
    group: str
    seeds: tuple[int, ...]
    variant: str
    input_size: int
    parameters: int | None
    multiply_adds: int | None
    training_pictures: int
    pictures_seen: int
    train_minutes: float  # mean over the seeds
    on: tuple[TissueResult, ...]
    parts: tuple[PartEffect, ...] = ()  # empty: no named parts
    timings: tuple[Timing, ...] = ()


class Results(ConfigTable):
    """The table and everything needed to interpret it."""

    title: str
    question: str
    budget: str
    split: str
    block: MeasuredBlock
    device: str  # of training
    processor: str = ""  # of the timings
    threads: int = 0
    versions: dict[str, str]
    rows: tuple[Row, ...]
    failures: dict[str, str]  # run → error


@dataclass(frozen=True, slots=True)
class _TissuePredictions:
    """Predictions of each seed's run on the measured pictures of one tissue, in the same order for all entries."""

    keys: list[tuple[str, str, str]]
    labels: Labels
    predictions: Predictions
    classes: int
    patients: Labels | None  # number of each picture's patient; None: unknown
    scores: Scores


def collect_results(
    comparison: Comparison, runs: Sequence[PlannedRun], costs: Mapping[str, NetworkCost | None]
) -> Results:
    """The results of the runs done so far, without inference speeds.

    Args:
        runs: all runs of the comparison.
        costs: name of an entry → its cost.

    Raises:
        RunError: no run is done, or two were measured on different pictures.
    """
    done = [run for run in runs if run.done and not run.failure.exists()]
    if not done:
        raise RunError(runs[0].folder.parents[1], "no run is done yet")
    entries = {run.entry.name: run.entry for run in done}
    by_entry = {name: [run for run in done if run.entry.name == name] for name in entries}
    tissues = _tissues(done[0].config)
    on = {tissue: _tissue_results(tissue, sources, by_entry, comparison.block) for tissue, sources in tissues.items()}
    first = RunFolder(done[0].folder)
    fits = [RunFolder(run.folder).fit() for run in done]
    return Results(
        title=comparison.title,
        question=comparison.question,
        budget=_budget(comparison),
        split=describe_split(first.config().data),
        block=comparison.block,
        device="; ".join(dict.fromkeys(fit.device for fit in fits)),
        versions=_versions(fits) | {"onnxruntime": version("onnxruntime")},
        rows=tuple(
            _row(
                entry,
                by_entry[name],
                costs.get(name),
                tuple(of[name] for of in on.values() if name in of),
                _part_effects(by_entry[name], comparison.block),
            )
            for name, entry in entries.items()
        ),
        failures={run.name: _reason(run) for run in runs if run.failure.exists()},
    )


def _versions(fits: Sequence[FitRecord]) -> dict[str, str]:
    """Library → version, or versions if a comparison was continued with another one."""
    versions: dict[str, dict[str, None]] = {}
    for fit in fits:
        for name, used in fit.versions.items():
            versions.setdefault(name, {})[used] = None
    return {name: " and ".join(each) for name, each in versions.items()}


def pictures_per_epoch(config: Config, images: Mapping[str, int]) -> int:
    """Training pictures in an epoch: the draws that the source weights give, rounded down to whole batches.

    Args:
        images: source → pictures in its training block.
    """
    weights = np.array([source.weight * images.get(source.name, 0) for source in config.data.sources])
    return samples_per_epoch(weights, config.fit.batch_size) // config.fit.batch_size * config.fit.batch_size


def _tissues(config: Config) -> dict[str, set[str]]:
    """Tissue → its sources, the intended tissue first."""
    order = dict.fromkeys([config.card.tissue, *(source.tissue for source in config.data.sources)])
    return {tissue: {s.name for s in config.data.sources if s.tissue == tissue} for tissue in order}


def _tissue_results(
    tissue: str, sources: set[str], by_entry: Mapping[str, list[PlannedRun]], block: MeasuredBlock
) -> dict[str, TissueResult]:
    """Name of an entry → its scores on a tissue; entries without a source of this tissue are left out."""
    everywhere = {name: _read_predictions(runs, sources, block) for name, runs in by_entry.items()}
    tested = {name: predictions for name, predictions in everywhere.items() if predictions is not None}
    if not tested:
        return {}
    reference = next(iter(tested))
    for name, predictions in tested.items():
        if predictions.keys != tested[reference].keys:
            raise RunError(
                by_entry[name][0].folder, f"was measured on other pictures than {reference}; evaluate both again"
            )
    rows = {name: _scores(tissue, predictions) for name, predictions in tested.items()}
    others = [name for name in rows if name != reference]
    differences = {name: _difference(tested[reference], tested[name]) for name in others}
    corrected = dict(zip(others, holm([differences[name][0].p for name in others]), strict=True))
    for name in others:
        accuracy, macro_f1 = differences[name]
        accuracy = accuracy.model_copy(update={"p_holm": corrected[name]})
        rows[name] = rows[name].model_copy(update={"accuracy_difference": accuracy, "macro_f1_difference": macro_f1})
    return rows


def _read_predictions(runs: Sequence[PlannedRun], sources: set[str], block: MeasuredBlock) -> _TissuePredictions | None:
    predictions, keys, labels, patients = [], None, np.empty(0, np.int64), None
    for run in runs:
        scores = measured_scores(RunFolder(run.folder), block)
        scores = scores.rows(np.isin(scores.sources, sorted(sources)))
        unordered = scores.keys()
        order = sorted(range(len(scores)), key=unordered.__getitem__)
        if keys not in (None, [unordered[at] for at in order]):
            raise RunError(run.folder, f"was measured on other pictures than {runs[0].folder}; evaluate both again")
        keys, labels = [unordered[at] for at in order], scores.labels[order]
        patients = scores.rows(np.array(order, dtype=np.int64)).patient_numbers()
        predictions.append(scores.predicted[order])
    if not keys:
        return None
    predicted, classes = np.array(predictions), len(scores.codes)
    drawn = draw_scores(labels, predicted, classes, patients)
    return _TissuePredictions(keys, labels, predicted, classes, patients, drawn)


def _scores(tissue: str, tested: _TissuePredictions) -> TissueResult:
    by_seed = [draw_scores(tested.labels, predicted[None], tested.classes) for predicted in tested.predictions]
    mean = tested.scores
    accuracy = _estimate(mean.accuracy)
    if len(by_seed) == 1:
        share = proportion(tested.predictions[0] == tested.labels, tested.patients)
        accuracy = Estimate(value=mean.accuracy.value, low=share.low, high=share.high)
    return TissueResult(
        tissue=tissue,
        n=len(tested.labels),
        patients=None if tested.patients is None else len(np.unique(tested.patients)),
        accuracy=accuracy,
        macro_f1=_estimate(mean.macro_f1),
        balanced_accuracy=_estimate(mean.balanced_accuracy),
        accuracy_by_seed=tuple(one.accuracy.value for one in by_seed),
        macro_f1_by_seed=tuple(one.macro_f1.value for one in by_seed),
    )


def _difference(reference: _TissuePredictions, other: _TissuePredictions) -> tuple[Difference, Estimate]:
    accuracy = _estimate(other.scores.accuracy - reference.scores.accuracy, lowest=-1)
    p = p_value(other.labels, other.predictions, reference.predictions)
    macro_f1 = _estimate(other.scores.macro_f1 - reference.scores.macro_f1, lowest=-1)
    return Difference(**accuracy.model_dump(), p=p), macro_f1


def _estimate(drawn: Drawn, lowest: float = 0) -> Estimate:
    low, high = drawn.interval(lowest)
    return Estimate(value=drawn.value, low=low, high=high)


def _part_effects(runs: Sequence[PlannedRun], block: MeasuredBlock) -> tuple[PartEffect, ...]:
    measured = [RunFolder(run.folder).evaluation(block).lesions or () for run in runs]
    return tuple(_part_effect(of_seeds) for of_seeds in zip(*measured, strict=True))


def _part_effect(of_seeds: Sequence[MeasuredLesion]) -> PartEffect:
    changed = tuple(lesion.changed for lesion in of_seeds)
    accuracy_change = tuple(lesion.accuracy_change for lesion in of_seeds)
    return PartEffect(
        part=of_seeds[0].part,
        changed=float(np.mean(changed)),
        accuracy_change=float(np.mean(accuracy_change)),
        changed_by_seed=changed,
        accuracy_change_by_seed=accuracy_change,
    )


def _row(
    entry: Entry,
    runs: Sequence[PlannedRun],
    cost: NetworkCost | None,
    on: tuple[TissueResult, ...],
    parts: tuple[PartEffect, ...],
) -> Row:
    folder = RunFolder(runs[0].folder)
    config, images = folder.config(), {name: counts.total() for name, counts in folder.training_images().items()}
    epochs = len(read_curves(folder.folder / "curves").values.get("train_loss", {}))
    return Row(
        name=entry.name,
        title=entry.title,
        group=entry.group,
        seeds=tuple(run.seed for run in runs),
        variant=config.model.variant if entry.kind == "network" else entry.kind,
        input_size=config.model.input_size,
        parameters=cost.parameters if cost else None,
        multiply_adds=cost.multiply_adds if cost else None,
        training_pictures=sum(images.values()),
        pictures_seen=epochs * pictures_per_epoch(config, images) if epochs else sum(images.values()),
        train_minutes=float(np.mean([RunFolder(run.folder).fit().train_s for run in runs])) / 60,
        on=on,
        parts=parts,
    )


def _budget(comparison: Comparison) -> str:
    budget = comparison.budget
    if budget.pictures:
        return f"{budget.pictures} training pictures seen by each entry, rounded to whole epochs"
    if budget.epochs:
        return f"{budget.epochs} epochs for each entry"
    if budget.minutes:
        return f"{budget.minutes:g} minutes of training for each entry, estimated from a few timed steps"
    return "as in each entry's configuration"


def _reason(run: PlannedRun) -> str:
    return run.failure.read_text(encoding="utf-8").splitlines()[0]
