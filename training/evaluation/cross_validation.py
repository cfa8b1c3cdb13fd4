"""The runs of a k-fold split, pooled: every picture predicted once, by a network that had not learned from it.

Knows run folders and what must hold between them. Knows no network.

For a class of eight pictures a fold holds one or two; only the pooled counts say anything, and still little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model import atomic_file, csv_file
from model.contract import Metric
from training.config import Config
from training.evaluation.evaluate import figures_of, in_words
from training.evaluation.scores import Scores, joined, scores_of_run, write_evaluation
from training.evaluation.tables import Table
from training.run import Evaluation, RunError, RunFolder, display_names

Key = tuple[str, str, str]  # source, class, file

#: What is told of each fold by itself.
OF_A_FOLD = ("accuracy", "tolerant_accuracy", "macro_f1", "balanced_accuracy", "ece")


@dataclass(frozen=True)
class Pool:
    """Several folds as one evaluation."""

    evaluation: Evaluation  # its temperature is the geometric mean of the folds'
    scores: Scores  # each picture with the temperature of its fold
    folds: list[tuple[str, Metric]]  # run, figure: those of each fold by itself
    untested: int  # pictures that no fold tested


def pool(runs: Sequence[RunFolder]) -> Pool:
    """Put the test blocks of evaluated runs together.

    Raises:
        RunError: fewer than two runs, one that has not been evaluated, runs that differ in classes, sources, network
            or forgiven neighbours, or a picture that two runs tested.
    """
    if len(runs) < 2:
        raise RunError(runs[0].folder, "one run is no pool; name the folders of all folds")
    config = runs[0].config()
    for run in runs[1:]:
        _check_alike(run, runs[0], config)
    parts = [scores_of_run(run, "test") for run in runs]
    tested = _check_apart(runs, parts)
    # One run lists what its training could not read; its own test pictures are in another's training.
    readable = set[Key]().union(*(run.pictures() for run in runs)).difference(*(run.unreadable() for run in runs))
    untested = len(readable - tested)
    evaluations = [run.evaluation() for run in runs]
    temperature = float(np.exp(np.mean([np.log(evaluation.temperature) for evaluation in evaluations])))
    which = f"{len(runs)} folds pooled, each picture tested once"
    if untested:
        which = f"{len(runs)} folds pooled, {len(tested)} of {len(tested) + untested} pictures tested, each once"
    scores = joined(parts)
    evaluation = figures_of(config, scores, temperature, in_words(config, which))
    figures = [
        (name, metric)
        for name, of_fold in zip(display_names(runs), evaluations, strict=True)
        for metric in of_fold.metrics
        if metric.name in OF_A_FOLD
    ]
    return Pool(evaluation, scores, figures, untested)


def fold_tables(pool: Pool) -> list[Table]:
    """Each source's figures fold by fold, with their mean and standard deviation over the folds."""
    made = []
    for source in pool.evaluation.splits:
        folds: dict[str, dict[str, Metric]] = {}
        for run, metric in pool.folds:
            if metric.split.startswith(f"{source} ("):
                folds.setdefault(run, {})[metric.name] = metric
        rows = [(run, *(f"{found[name].value:.3f}" for name in OF_A_FOLD), _n(found)) for run, found in folds.items()]
        spread = []
        for name in OF_A_FOLD:
            values = [found[name].value for found in folds.values()]
            spread.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
        rows.append(("mean ± sd", *spread, str(sum(int(_n(found)) for found in folds.values()))))
        note = "The spread over folds is no interval: folds share most of what they learned from."
        made.append(Table(f"{source}, fold by fold", ("run", *OF_A_FOLD, "n"), tuple(rows), note))
    return made


def _n(found: Mapping[str, Metric]) -> str:
    return str(found["accuracy"].n)


def _check_alike(run: RunFolder, first: RunFolder, expected: Config) -> None:
    config = run.config()
    for what, same in (
        ("other classes", config.classes == expected.classes),
        ("other sources", config.data.sources == expected.data.sources),
        ("another network", config.model == expected.model),
        ("other forgiven neighbours", config.evaluation == expected.evaluation),
    ):
        if not same:
            raise RunError(run.folder, f"it has {what} than {first.folder}; folds differ in nothing but the fold")


def _check_apart(runs: Sequence[RunFolder], parts: Sequence[Scores]) -> set[Key]:
    owner: dict[Key, RunFolder] = {}
    for run, scores in zip(runs, parts, strict=True):
        keys = scores.keys()
        again = [key for key in keys if key in owner]
        if again:
            other, name = owner[again[0]].folder, "/".join(again[0])
            raise RunError(run.folder, f"{len(again)} of its test pictures, as {name}, were tested in {other} already")
        owner.update(dict.fromkeys(keys, run))
    return set(owner)


def write_pool(pool: Pool, runs: Sequence[RunFolder], out: Path) -> RunFolder:
    """Write a folder that `figures` and `audit` read as a run's: figures, predictions, logits, and folds.csv.

    Raises:
        RunError: the folder holds a trained run.
    """
    pooled = RunFolder(out)
    if pooled.weights.exists():
        raise RunError(pooled.weights, "this folder holds a trained run; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    atomic_file.write_bytes(out / "config.toml", (runs[0].folder / "config.toml").read_bytes())
    write_evaluation(pooled, pool.evaluation, {"test": pool.scores})
    with csv_file.replacing(pooled.folds) as rows:
        rows.writerow(("run", "split", "figure", "value", "n"))
        rows.writerows((run, m.split, m.name, f"{m.value:.4f}", m.n) for run, m in pool.folds)
    return pooled
