"""Paired comparison of models on the same pictures: intervals, McNemar's test, Holm's correction.

Intervals and p values hold for pictures like these. The variation between trainings shows only in the spread over
seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, permutation_test

from model.agreement.class_averages import (
    Drawn,
    Labels,
    accuracy,
    balanced_accuracy,
    draw_counts,
    macro_f1,
    mean_of,
)
from model.agreement.clustered import effective_share

Predictions = NDArray[np.int64]  # (runs, n)

BOOTSTRAP_DRAWS = 2000


class Scores(NamedTuple):
    """Accuracy, macro F1 and balanced accuracy, averaged over runs; those of two models can be subtracted."""

    accuracy: Drawn
    macro_f1: Drawn
    balanced_accuracy: Drawn


def draw_scores(labels: Labels, predictions: Predictions, classes: int, patients: Labels | None = None) -> Scores:
    """The scores of one model, over the classes that occur among the labels.

    Args:
        predictions: of each run.
        classes: number of classes; the same for all models that are compared.
        patients: (n,), number of the patient of each picture; None: patients are not known.
    """
    drawn = [draw_counts(labels, run, classes, patients) for run in predictions]
    return Scores(*(mean_of([one.figure(score) for one in drawn]) for score in (accuracy, macro_f1, balanced_accuracy)))


def draw_accuracy(labels: Labels, predicted: Labels, classes: int, patients: Labels | None = None) -> Drawn:
    """The accuracy of one run."""
    return draw_counts(labels, predicted, classes, patients).figure(accuracy)


def mean_with_interval(values: NDArray[np.float64], patients: Labels | None = None) -> tuple[float, float, float]:
    """The mean of one value a picture, -1 to 1, and its 95 % bootstrap interval over the pictures.

    Where patients are known, the width is that of an effective number of pictures.
    """
    n, value = len(values), float(values.mean())
    share = 1.0 if patients is None else effective_share(values - value, patients)
    if not share:
        return value, -1.0, 1.0
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), BOOTSTRAP_DRAWS)
    low, high = value + (np.quantile(counts @ values / n, [0.025, 0.975]) - value) / share**0.5
    return value, max(float(low), -1.0), min(float(high), 1.0)


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
