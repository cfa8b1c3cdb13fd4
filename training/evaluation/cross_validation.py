"""k-fold cross-validation: the test blocks of several runs pooled, each picture predicted once by a run that did not
train on it.

A fold contains one or two pictures of a class of eight. Only pooled counts are informative, with wide intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model import atomic_file, csv_file
from model.contract import Metric
from model.report.page import Table
from training.config import Config
from training.evaluation.evaluate import describe_splits, measure
from training.evaluation.scores import Scores, concatenate, scores_of_run, write_evaluation
from training.run import Evaluation, RunError, RunFolder, display_names

Key = tuple[str, str, str]  # source, class, file

#: Metrics reported fold by fold.
FOLD_METRICS = ("accuracy", "tolerant_accuracy", "macro_f1", "balanced_accuracy", "ece")


@dataclass(frozen=True)
class PooledFolds:
    """Several folds as one evaluation."""

    evaluation: Evaluation  # its temperature is the geometric mean over the folds
    scores: Scores  # each picture with the temperature of its fold
    folds: list[tuple[str, Metric]]  # run, metric of that fold alone
    untested: int  # pictures in no fold's test block


def pool_folds(runs: Sequence[RunFolder]) -> PooledFolds:
    """Pool the test blocks of evaluated runs.

    Raises:
        RunError: fewer than two runs; a run has not been evaluated; runs differ in classes, sources, network or
            tolerated neighbours; two runs were tested on the same picture.
    """
    if len(runs) < 2:
        raise RunError(runs[0].folder, "only one run to pool; name the run folders of all folds")
    config = runs[0].config()
    for run in runs[1:]:
        _check_same(run, runs[0], config)
    parts = [scores_of_run(run, "test") for run in runs]
    tested = _check_disjoint(runs, parts)
    # A run lists only unreadable training pictures; its own test pictures are in the training block of another run.
    readable = (
        set[Key]().union(*(run.image_keys() for run in runs)).difference(*(run.unreadable_keys() for run in runs))
    )
    untested = len(readable - tested)
    evaluations = [run.evaluation() for run in runs]
    temperature = float(np.exp(np.mean([np.log(evaluation.temperature) for evaluation in evaluations])))
    chosen = f"{len(runs)} folds pooled, each picture tested once"
    if untested:
        chosen = f"{len(runs)} folds pooled, {len(tested)} of {len(tested) + untested} pictures tested, each once"
    scores = concatenate(parts)
    folds = [
        (name, metric)
        for name, fold in zip(display_names(runs), evaluations, strict=True)
        for metric in fold.metrics
        if metric.name in FOLD_METRICS
    ]
    return PooledFolds(measure(config, scores, temperature, describe_splits(config, chosen)), scores, folds, untested)


def fold_tables(pooled: PooledFolds) -> list[Table]:
    """A table a source: its metrics fold by fold, with mean and standard deviation."""
    tables = []
    for source in pooled.evaluation.splits:
        folds: dict[str, dict[str, Metric]] = {}
        for run, metric in pooled.folds:
            if metric.split.startswith(f"{source} ("):
                folds.setdefault(run, {})[metric.name] = metric
        rows = [
            (run, *(f"{metrics[name].value:.3f}" for name in FOLD_METRICS), str(_n(metrics)))
            for run, metrics in folds.items()
        ]
        spread = []
        for name in FOLD_METRICS:
            values = [metrics[name].value for metrics in folds.values()]
            spread.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
        rows.append(("mean ± sd", *spread, str(sum(map(_n, folds.values())))))
        note = "The standard deviation is no confidence interval: folds share most of their training pictures."
        tables.append(Table(f"{source}, fold by fold", ("run", *FOLD_METRICS, "n"), tuple(rows), note))
    return tables


def _n(metrics: Mapping[str, Metric]) -> int:
    return metrics["accuracy"].n


def _check_same(run: RunFolder, first: RunFolder, expected: Config) -> None:
    config = run.config()
    for what, same in (
        ("other classes", config.classes == expected.classes),
        ("other sources", config.data.sources == expected.data.sources),
        ("another network", config.model == expected.model),
        ("other tolerated neighbours", config.evaluation == expected.evaluation),
    ):
        if not same:
            raise RunError(run.folder, f"has {what} than {first.folder}; folds may differ in the fold only")


def _check_disjoint(runs: Sequence[RunFolder], parts: Sequence[Scores]) -> set[Key]:
    owner: dict[Key, RunFolder] = {}
    for run, scores in zip(runs, parts, strict=True):
        keys = scores.keys()
        repeated = [key for key in keys if key in owner]
        if repeated:
            other, name = owner[repeated[0]].folder, "/".join(repeated[0])
            raise RunError(
                run.folder,
                f"{len(repeated)} of its test pictures, for example {name}, were tested in {other} already; name each "
                "fold once",
            )
        owner.update(dict.fromkeys(keys, run))
    return set(owner)


def write_pool(pooled: PooledFolds, runs: Sequence[RunFolder], out: Path) -> RunFolder:
    """Write a folder that `figures` and `audit` read like a run: metrics, predictions, logits, and folds.csv.

    Raises:
        RunError: the folder contains a trained run.
    """
    run = RunFolder(out)
    if run.weights.exists():
        raise RunError(run.weights, "is a trained run; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    atomic_file.write_bytes(out / "config.toml", (runs[0].folder / "config.toml").read_bytes())
    write_evaluation(run, pooled.evaluation, {"test": pooled.scores})
    with csv_file.replacing(run.folds) as rows:
        rows.writerow(("run", "split", "figure", "value", "n"))
        rows.writerows((name, m.split, m.name, f"{m.value:.4f}", m.n) for name, m in pooled.folds)
    return run
