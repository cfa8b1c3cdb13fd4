"""Several models' answers to the same pictures: figures, their intervals, and differences that are paired by picture.

Knows labels and answers, one row of answers a training run. Knows no network and no file. What is said holds over
pictures like these; of other trainings of the same kind only the spread over seeds tells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, permutation_test

Labels = NDArray[np.int64]  # (n,)
Answers = NDArray[np.int64]  # (runs, n)
Resampled = NDArray[np.float64]  # (DRAWS,)

DRAWS = 2000
_CHUNK = 50  # draws at a time: 34,000 test pictures then take 14 MB


class Figures(NamedTuple):
    """Mean over the runs; as numbers, or over resampled pictures."""

    accuracy: float
    macro_f1: float


class Resamples(NamedTuple):
    """The figures over resampled pictures. Of two models the same draw holds the same pictures, so they subtract."""

    accuracy: Resampled
    macro_f1: Resampled


def figures(labels: Labels, answers: Answers) -> Figures:
    """Accuracy, and F1 as a mean over the classes that occur among the labels."""
    once = np.ones((1, len(labels)), np.float32)
    accuracy, macro_f1 = _weighted(once, labels, answers)[:, 0].tolist()
    return Figures(accuracy, macro_f1)


def resampled(labels: Labels, answers: Answers) -> Resamples:
    """The figures of DRAWS bootstrap samples of the pictures (Efron 1979), the same samples whatever the answers."""
    n = len(labels)
    random = np.random.default_rng(0)
    found = [
        _weighted(random.multinomial(n, np.full(n, 1 / n), _CHUNK).astype(np.float32), labels, answers)
        for _ in range(DRAWS // _CHUNK)
    ]
    return Resamples(*np.concatenate(found, axis=1))


def _weighted(weights: NDArray[np.float32], labels: Labels, answers: Answers) -> NDArray[np.float64]:
    """(2, draws): accuracy and macro F1 where each picture counts as often as `weights`, (draws, n), says."""
    classes = np.unique(labels)
    true = (labels[:, None] == classes).astype(np.float32)  # (n, C)
    rows = []
    for predicted in answers:
        answered = (predicted[:, None] == classes).astype(np.float32)
        hits = (weights @ (true * answered)).astype(np.float64)  # (draws, C)
        both = (weights @ (true + answered)).astype(np.float64)
        rows.append((hits.sum(axis=1) / len(labels), (2 * hits / np.maximum(both, 1)).mean(axis=1)))
    return np.mean(rows, axis=0)


def middle_95(draws: Resampled) -> tuple[float, float]:
    """The 95 % percentile interval."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def p_value(labels: Labels, first: Answers, second: Answers) -> float:
    """Two-sided p of "both are equally often right".

    One run each: McNemar's exact test (McNemar 1947), a sign test on the pictures that one alone has right. Several:
    its counterpart for shares of runs that are right, a permutation test that swaps the models picture by picture.
    """
    right, left = (first == labels).mean(axis=0), (second == labels).mean(axis=0)
    if len(first) == len(second) == 1:
        return mcnemar(int((right > left).sum()), int((left > right).sum()))
    found = permutation_test(
        (right, left),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        batch=500,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def mcnemar(first_alone: int, second_alone: int) -> float:
    """Exact two-sided p from the pictures that one model alone has right; 1 where there are none."""
    discordant = first_alone + second_alone
    return float(binomtest(first_alone, discordant).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p values raised so that none of all comparisons is called different by chance more than one time in twenty.

    Holm 1979, a step-down Bonferroni; in the order given.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()
