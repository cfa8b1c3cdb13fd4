"""Figures from labels and probabilities, each with its n and its interval.

The ECE stands alone: it is biased upwards, resampled still more, so that a bootstrap need not even cover it.
Knows arrays and class codes. Knows no network and no files.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from model.contract import Metric

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]
Interval = tuple[float, float]  # low, high

ECE_BINS = 15
BOOTSTRAP_DRAWS = 1000


def proportion(name: str, hits: int, n: int, split: str, code: str | None = None) -> Metric:
    """A share with its 95 % Wilson score interval (Wilson 1927); undefined shares (n = 0) are given as 0 of 0."""
    if n == 0:
        return Metric(name=name, code=code, value=0.0, low=0.0, high=1.0, n=0, split=split)
    interval = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Metric(name=name, code=code, value=hits / n, low=interval.low, high=interval.high, n=n, split=split)


def expected_calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    """ECE in 15 equal bins of the top probability (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [abs(correct[bins == b].sum() - confidence[bins == b].sum()) for b in range(ECE_BINS)]
    return float(sum(gaps) / len(labels))


def macro_f1(labels: Labels, predicted: Labels) -> float:
    """Mean F1 over the classes that occur among the labels."""
    return float(f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0))


def measure(labels: Labels, probabilities: Probabilities, codes: tuple[str, ...], split: str) -> list[Metric]:
    """The figures of one split: accuracy, macro F1, balanced accuracy, ECE, and recall and precision a class.

    Args:
        labels: (N,) class indices.
        probabilities: (N, C), all classes competing.
        split: which pictures these are; every figure carries it.
    """
    predicted = probabilities.argmax(axis=1)
    n = len(labels)
    recalls = [float((predicted[labels == c] == c).mean()) for c in np.unique(labels)]
    f1, balanced = _bootstrap(labels, predicted)
    overall = [
        proportion("accuracy", int((predicted == labels).sum()), n, split),
        Metric(name="macro_f1", value=macro_f1(labels, predicted), low=f1[0], high=f1[1], n=n, split=split),
        Metric(
            name="balanced_accuracy",
            value=float(np.mean(recalls)),
            low=balanced[0],
            high=balanced[1],
            n=n,
            split=split,
        ),
        Metric(name="ece", value=expected_calibration_error(labels, probabilities), n=n, split=split),
    ]
    return overall + [m for c in np.unique(labels) for m in _of_class(labels, predicted, int(c), codes[c], split)]


def _of_class(labels: Labels, predicted: Labels, index: int, code: str, split: str) -> list[Metric]:
    hits = int(((labels == index) & (predicted == index)).sum())
    return [
        proportion("recall", hits, int((labels == index).sum()), split, code),
        proportion("precision", hits, int((predicted == index).sum()), split, code),
    ]


def _bootstrap(labels: Labels, predicted: Labels) -> tuple[Interval, Interval]:
    """95 % percentile intervals of macro F1 and balanced accuracy over resampled pictures.

    From confusion counts, so that 1000 draws take a moment.
    """
    classes = np.unique(labels)
    every = np.union1d(labels, predicted)
    counts = np.zeros((len(every), len(every)))
    np.add.at(counts, (np.searchsorted(every, labels), np.searchsorted(every, predicted)), 1)
    rows = np.searchsorted(every, classes)
    generator = np.random.default_rng(0)
    draws = generator.multinomial(len(labels), counts.ravel() / counts.sum(), BOOTSTRAP_DRAWS)
    drawn = draws.reshape(-1, *counts.shape)
    hits = np.einsum("bii->bi", drawn)
    true, answered = drawn.sum(axis=2), drawn.sum(axis=1)
    f1, recall = 2 * hits / np.maximum(true + answered, 1), hits / np.maximum(true, 1)
    return _middle_95(f1[:, rows].mean(axis=1)), _middle_95(recall[:, rows].mean(axis=1))


def _middle_95(draws: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
