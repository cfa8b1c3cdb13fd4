"""What came of a comparison: one row an entry, read from the run folders.

Knows run folders and figures. Trains nothing, times nothing, formats nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from training.compare.entries import Comparison, Entry, PlannedRun
from training.compare.speed import Timing
from training.config import Config, ConfigTable
from training.data.sampler import samples_per_epoch
from training.data.splits import describe_split
from training.evaluation.metrics import wilson
from training.evaluation.paired import Labels, Predictions, ScoreDraws, bootstrap, holm, mean_scores, middle_95, p_value
from training.evaluation.scores import scores_of_run
from training.export.cost import NetworkCost
from training.report.figures.curves import read_curves
from training.run import FitRecord, RunError, RunFolder


class Estimate(ConfigTable):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(Estimate):
    """To the first entry, over the same pictures."""

    p: float
    p_holm: float | None = None  # raised for the number of entries compared; on the tissue that is decided on


class OnTissue(ConfigTable):
    """How well an entry does on the test pictures of one tissue: the mean over its seeds."""

    tissue: str
    n: int
    accuracy: Estimate  # one seed: Wilson; several: over resampled pictures
    macro_f1: Estimate  # over resampled pictures
    accuracy_by_seed: tuple[float, ...]
    macro_f1_by_seed: tuple[float, ...]
    accuracy_difference: Difference | None = None
    macro_f1_difference: Estimate | None = None


class Row(ConfigTable):
    """One entry. What it costs, and what it does on each tissue, first the one that models are meant for."""

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
    on: tuple[OnTissue, ...]
    timings: tuple[Timing, ...] = ()


class Results(ConfigTable):
    """A whole table, and all that must stand beside it."""

    title: str
    question: str
    budget: str
    split: str
    device: str  # of the training
    processor: str = ""  # of the timing
    threads: int = 0
    versions: dict[str, str]
    rows: tuple[Row, ...]
    failures: dict[str, str]  # run → what went wrong


@dataclass(frozen=True, slots=True)
class _Tested:
    """The test pictures of one tissue and what each seed's run called them, in one order for all entries."""

    keys: list[tuple[str, str, str]]
    labels: Labels
    answers: Predictions
    resamples: ScoreDraws


def gather(comparison: Comparison, runs: Sequence[PlannedRun], costs: Mapping[str, NetworkCost | None]) -> Results:
    """The table of what is done so far, without speeds.

    Args:
        runs: all of the comparison; those that are not done are left out.
        costs: entry's name → its cost.

    Raises:
        RunError: no run is done, or two were tested on different pictures.
    """
    done = [run for run in runs if run.artefact.is_dir() and not run.failure.exists()]
    if not done:
        raise RunError(runs[0].folder.parents[1], "no run is done yet")
    entries = {run.entry.name: run.entry for run in done}
    by_entry = {name: [run for run in done if run.entry.name == name] for name in entries}
    tissues = _tissues(done[0].config)
    on = {tissue: _on_tissue(tissue, sources, by_entry) for tissue, sources in tissues.items()}
    first = RunFolder(done[0].folder)
    fits = [RunFolder(run.folder).fit() for run in done]
    return Results(
        title=comparison.title,
        question=comparison.question,
        budget=_budget(comparison),
        split=describe_split(first.config().data, first.twins.exists()),
        device="; ".join(dict.fromkeys(fit.device for fit in fits)),
        versions=_versions(fits) | {"onnxruntime": version("onnxruntime")},
        rows=tuple(
            _row(entry, by_entry[name], costs.get(name), tuple(found[name] for found in on.values() if name in found))
            for name, entry in entries.items()
        ),
        failures={run.name: _reason(run) for run in runs if run.failure.exists()},
    )


def _versions(fits: Sequence[FitRecord]) -> dict[str, str]:
    """Library → version; where a comparison went on with another one, each."""
    found: dict[str, dict[str, None]] = {}
    for fit in fits:
        for name, told in fit.versions.items():
            found.setdefault(name, {})[told] = None
    return {name: " and ".join(each) for name, each in found.items()}


def epoch_pictures(config: Config, images: Mapping[str, int]) -> int:
    """Pictures that an epoch shows: whole batches of as many draws as the sources' weights add up to.

    Args:
        images: source → pictures in its training block.
    """
    weights = np.array([source.weight * images.get(source.name, 0) for source in config.data.sources])
    return samples_per_epoch(weights, config.fit.batch_size) // config.fit.batch_size * config.fit.batch_size


def _tissues(config: Config) -> dict[str, set[str]]:
    """Tissue → its sources, first the one that the model is meant for."""
    order = dict.fromkeys([config.card.tissue, *(source.tissue for source in config.data.sources)])
    return {tissue: {s.name for s in config.data.sources if s.tissue == tissue} for tissue in order}


def _on_tissue(tissue: str, sources: set[str], by_entry: Mapping[str, list[PlannedRun]]) -> dict[str, OnTissue]:
    """Entry's name → its figures; of entries that know no source of this tissue there are none."""
    everywhere = {name: _tested(runs, sources) for name, runs in by_entry.items()}
    tested = {name: found for name, found in everywhere.items() if found is not None}
    if not tested:
        return {}
    reference = next(iter(tested))
    for name, found in tested.items():
        if found.keys != tested[reference].keys:
            raise RunError(by_entry[name][0].folder, f"was not tested on the pictures that {reference} was tested on")
    rows = {name: _figures(tissue, found) for name, found in tested.items()}
    others = [name for name in rows if name != reference]
    differences = {name: _difference(tested[reference], tested[name]) for name in others}
    raised = dict(zip(others, holm([differences[name][0].p for name in others]), strict=True))
    for name in others:
        accuracy, macro_f1 = differences[name]
        accuracy = accuracy.model_copy(update={"p_holm": raised[name]})
        rows[name] = rows[name].model_copy(update={"accuracy_difference": accuracy, "macro_f1_difference": macro_f1})
    return rows


def _tested(runs: Sequence[PlannedRun], sources: set[str]) -> _Tested | None:
    answers, keys, labels = [], None, np.empty(0, np.int64)
    for run in runs:
        scores = scores_of_run(RunFolder(run.folder), "test")
        scores = scores.rows(np.isin(scores.sources, sorted(sources)))
        unordered = scores.keys()
        order = sorted(range(len(scores)), key=unordered.__getitem__)
        if keys not in (None, [unordered[at] for at in order]):
            raise RunError(run.folder, f"was not tested on the pictures that {runs[0].folder} was tested on")
        keys, labels = [unordered[at] for at in order], scores.labels[order]
        answers.append(scores.predicted[order])
    if not keys:
        return None
    return _Tested(keys, labels, np.array(answers), bootstrap(labels, np.array(answers)))


def _figures(tissue: str, found: _Tested) -> OnTissue:
    by_seed = [mean_scores(found.labels, answers[None]) for answers in found.answers]
    whole = mean_scores(found.labels, found.answers)
    n, resamples = len(found.labels), found.resamples
    low, high = wilson(round(whole.accuracy * n), n) if len(by_seed) == 1 else middle_95(resamples.accuracy)
    return OnTissue(
        tissue=tissue,
        n=n,
        accuracy=Estimate(value=whole.accuracy, low=low, high=high),
        macro_f1=_estimate(whole.macro_f1, resamples.macro_f1),
        accuracy_by_seed=tuple(one.accuracy for one in by_seed),
        macro_f1_by_seed=tuple(one.macro_f1 for one in by_seed),
    )


def _difference(reference: _Tested, found: _Tested) -> tuple[Difference, Estimate]:
    ours, theirs = mean_scores(found.labels, found.answers), mean_scores(reference.labels, reference.answers)
    accuracy = _estimate(ours.accuracy - theirs.accuracy, found.resamples.accuracy - reference.resamples.accuracy)
    p = p_value(found.labels, found.answers, reference.answers)
    return (
        Difference(**accuracy.model_dump(), p=p),
        _estimate(ours.macro_f1 - theirs.macro_f1, found.resamples.macro_f1 - reference.resamples.macro_f1),
    )


def _estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
    low, high = middle_95(draws)
    return Estimate(value=value, low=low, high=high)


def _row(entry: Entry, runs: Sequence[PlannedRun], cost: NetworkCost | None, on: tuple[OnTissue, ...]) -> Row:
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
        pictures_seen=epochs * epoch_pictures(config, images) if epochs else sum(images.values()),
        train_minutes=float(np.mean([RunFolder(run.folder).fit().train_s for run in runs])) / 60,
        on=on,
    )


def _budget(comparison: Comparison) -> str:
    budget = comparison.budget
    if budget.pictures:
        return f"{budget.pictures} training pictures seen by each entry, as near as whole epochs come to it"
    if budget.epochs:
        return f"{budget.epochs} epochs for each entry"
    if budget.minutes:
        return f"{budget.minutes:g} minutes of training for each entry, by a few steps timed beforehand"
    return "as each entry's configuration says"


def _reason(run: PlannedRun) -> str:
    return run.failure.read_text(encoding="utf-8").splitlines()[0]
