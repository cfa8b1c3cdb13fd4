"""Paired comparison of models on the same pictures: bootstrap intervals, McNemar's test, Holm's correction.

Intervals and p values hold for pictures like these. The variation between trainings shows only in the spread over
seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, permutation_test

Labels = NDArray[np.int64]  # (n,)
Predictions = NDArray[np.int64]  # (runs, n)
Draws = NDArray[np.float64]  # (BOOTSTRAP_DRAWS,)

BOOTSTRAP_DRAWS = 2000
_CHUNK = 50  # draws at a time: 14 MB for 34,000 pictures


class MeanScores(NamedTuple):
    """Accuracy and macro F1, averaged over runs."""

    accuracy: float
    macro_f1: float


class ScoreDraws(NamedTuple):
    """Bootstrap draws of both scores. A draw contains the same pictures for every model, so draws can be subtracted."""

    accuracy: Draws
    macro_f1: Draws


def mean_scores(labels: Labels, predictions: Predictions) -> MeanScores:
    """Accuracy and macro F1 (over the classes that occur among the labels), averaged over runs."""
    once = np.ones((1, len(labels)), np.float32)
    accuracy, macro_f1 = _weighted_scores(once, labels, predictions)[:, 0].tolist()
    return MeanScores(accuracy, macro_f1)


def bootstrap(labels: Labels, predictions: Predictions) -> ScoreDraws:
    """Both scores in 2000 bootstrap samples of the pictures (Efron 1979); the samples are the same on every call."""
    n = len(labels)
    random = np.random.default_rng(0)
    draws = [
        _weighted_scores(random.multinomial(n, np.full(n, 1 / n), _CHUNK).astype(np.float32), labels, predictions)
        for _ in range(BOOTSTRAP_DRAWS // _CHUNK)
    ]
    return ScoreDraws(*np.concatenate(draws, axis=1))


def _weighted_scores(weights: NDArray[np.float32], labels: Labels, predictions: Predictions) -> NDArray[np.float64]:
    """Accuracy and macro F1, (2, draws), of pictures counted `weights` times, (draws, n); averaged over runs."""
    classes = np.unique(labels)
    true = (labels[:, None] == classes).astype(np.float32)  # (n, C)
    rows = []
    for predicted in predictions:
        of_class = (predicted[:, None] == classes).astype(np.float32)
        hits = (weights @ (true * of_class)).astype(np.float64)  # (draws, C)
        either = (weights @ (true + of_class)).astype(np.float64)
        rows.append((hits.sum(axis=1) / len(labels), (2 * hits / np.maximum(either, 1)).mean(axis=1)))
    return np.mean(rows, axis=0)


def middle_95(draws: Draws) -> tuple[float, float]:
    """The 95 % percentile interval."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def mean_with_interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean of one value a picture, and its 95 % bootstrap interval over the pictures."""
    n = len(values)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), BOOTSTRAP_DRAWS)
    return float(values.mean()), *middle_95(counts @ values / n)


def p_value(labels: Labels, first: Predictions, second: Predictions) -> float:
    """Two-sided p value of the hypothesis that both models are equally often correct.

    One run each: McNemar's exact test (McNemar 1947). Several runs: a permutation test that swaps the models picture
    by picture, on the share of runs that are correct.
    """
    first_correct, second_correct = (first == labels).mean(axis=0), (second == labels).mean(axis=0)
    if len(first) == len(second) == 1:
        first_only = int((first_correct > second_correct).sum())
        return mcnemar(first_only, int((second_correct > first_correct).sum()))
    result = permutation_test(
        (first_correct, second_correct),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        batch=500,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p value from the numbers of pictures that only one model predicts correctly; 1 if both are 0."""
    discordant = first_only + second_only
    return float(binomtest(first_only, discordant).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for multiple comparisons (Holm 1979, step-down Bonferroni), in the given order."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
