"""Figures from labels and probabilities, each with its n and its interval.

Knows arrays and class codes. Knows no network and no files.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from model.contract import Metric

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]

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
    low, high = _bootstrap_macro_f1(labels, predicted)
    overall = [
        proportion("accuracy", int((predicted == labels).sum()), n, split),
        Metric(name="macro_f1", value=macro_f1(labels, predicted), low=low, high=high, n=n, split=split),
        Metric(name="balanced_accuracy", value=float(np.mean(recalls)), n=n, split=split),
        Metric(name="ece", value=expected_calibration_error(labels, probabilities), n=n, split=split),
    ]
    return overall + [m for c in np.unique(labels) for m in _of_class(labels, predicted, int(c), codes[c], split)]


def _of_class(labels: Labels, predicted: Labels, index: int, code: str, split: str) -> list[Metric]:
    hits = int(((labels == index) & (predicted == index)).sum())
    return [
        proportion("recall", hits, int((labels == index).sum()), split, code),
        proportion("precision", hits, int((predicted == index).sum()), split, code),
    ]


def _bootstrap_macro_f1(labels: Labels, predicted: Labels) -> tuple[float, float]:
    """95 % percentile interval over resampled pictures; from confusion counts, so that 1000 draws take a moment."""
    classes = np.unique(labels)
    every = np.union1d(labels, predicted)
    counts = np.zeros((len(every), len(every)))
    np.add.at(counts, (np.searchsorted(every, labels), np.searchsorted(every, predicted)), 1)
    rows = np.searchsorted(every, classes)
    generator = np.random.default_rng(0)
    draws = generator.multinomial(len(labels), counts.ravel() / counts.sum(), BOOTSTRAP_DRAWS)
    drawn = draws.reshape(-1, *counts.shape)
    hits = np.einsum("bii->bi", drawn)
    sums = drawn.sum(axis=1) + drawn.sum(axis=2)
    f1 = 2 * hits / np.maximum(sums, 1)
    low, high = np.quantile(f1[:, rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
