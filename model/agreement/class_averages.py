"""Accuracy, macro F1, weighted F1 and balanced accuracy of predictions, and their 95 % intervals.

One method for all of them, and for differences of two models on the same pictures: the Bayesian bootstrap (Rubin 1981,
doi 10.1214/aos/1176345338). Each draw weights every picture by a random exponential number. Class sizes stay fixed, as
in a stratified split. To each class, half a right and half a wrong picture are added, also with random weights: the
recall of a class then has the posterior of Jeffreys' prior, which has a width at 0 and 100 % as well (Brown, Cai and
DasGupta 2001, doi 10.1214/ss/1009213286).

The added pictures draw every class towards one half. Averaged over classes this shift remains while the width shrinks,
so the draws are moved to the measured value. docs/decisions/0030-intervals.md shows the coverage.

Where patients are known, a second set of draws weights whole patients; the wider interval counts. Few patients widen it
by Student's t over z, with the effective number of patients of unequal sizes (as in model/agreement/clustered.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from model.agreement.proportion import Interval

Labels = NDArray[np.int64]  # (n,)
Counts = NDArray[np.int64]  # (…, C, C), confusion matrix; rows true, columns predicted
Floats = NDArray[np.float64]
Agreement = NDArray[np.bool_]  # (C, C), whether predicting j for i counts as correct; True on the diagonal
Score = Callable[[Floats], Floats]  # confusion matrices (…, C, C) → a figure of each, (…)

DRAWS = 2000
#: Pictures added to each class: half of one that is right, half of one that is wrong.
ADDED = 0.5
_CHUNK = 100  # draws at a time: 27 MB for 34,000 pictures


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure and its draws. Those of models on the same pictures can be subtracted and averaged."""

    value: float
    of_pictures: Floats  # (DRAWS,)
    of_patients: Floats | None  # (DRAWS,); None: patients are not known
    widening: float  # of the draws of patients

    def __sub__(self, other: "Drawn") -> "Drawn":
        if self.of_patients is None or other.of_patients is None:
            return Drawn(self.value - other.value, self.of_pictures - other.of_pictures, None, 1.0)
        patients = self.of_patients - other.of_patients
        return Drawn(self.value - other.value, self.of_pictures - other.of_pictures, patients, self.widening)

    def interval(self, lowest: float = 0.0, highest: float = 1.0) -> Interval:
        """The 95 % interval; differences: from -1."""
        ends = [_around(self.value, self.of_pictures, 1.0)]
        if self.of_patients is not None:
            ends.append(_around(self.value, self.of_patients, self.widening))
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        return max(low, lowest), min(high, highest)

    def difference_interval(self) -> Interval:
        """The 95 % interval of a difference."""
        return self.interval(lowest=-1.0)


def _around(value: float, draws: Floats, widening: float) -> Interval:
    """The percentile interval, moved to the value; the value itself if the draws do not differ."""
    low, high = np.quantile(draws, [0.025, 0.975]) - draws.mean()
    if high - low < 1e-12:
        return value, value
    return value + min(float(low) * widening, 0.0), value + max(float(high) * widening, 0.0)


def mean_of(figures: Sequence[Drawn]) -> Drawn:
    """The mean of several trainings on the same pictures."""
    first = figures[0]
    patients = None
    if first.of_patients is not None:
        patients = np.mean([figure.of_patients for figure in figures if figure.of_patients is not None], axis=0)
    value, pictures = float(np.mean([f.value for f in figures])), np.mean([f.of_pictures for f in figures], axis=0)
    return Drawn(value, pictures, patients, first.widening)


@dataclass(frozen=True, slots=True)
class DrawnCounts:
    """A confusion matrix (C, C) and draws of it, (DRAWS, C, C)."""

    counts: Counts
    of_pictures: Floats
    of_patients: Floats | None
    widening: float

    def figure(self, score: Score) -> Drawn:
        """A figure of the matrix, with its draws."""
        patients = None if self.of_patients is None else score(self.of_patients)
        value = float(score(self.counts.astype(np.float64)))
        return Drawn(value, score(self.of_pictures), patients, self.widening)


def draw_counts(labels: Labels, predicted: Labels, classes: int, patients: Labels | None = None) -> DrawnCounts:
    """Draws of the confusion matrix. The weights are the same on every call, so models can be compared.

    Args:
        patients: (n,), number of the patient of each picture; None: patients are not known.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    cells, n = labels * classes + predicted, len(labels)
    pictures = _drawn(cells, counts, np.arange(n))
    if patients is None:
        return DrawnCounts(counts, pictures, None, 1.0)
    numbers = np.unique(patients, return_inverse=True)[1]
    return DrawnCounts(counts, pictures, _drawn(cells, counts, numbers), _widening(np.bincount(numbers)))


def _drawn(cells: Labels, counts: Counts, units: Labels) -> Floats:
    """Draws (DRAWS, C, C) with one random weight a unit, (n,): a picture or a patient."""
    random, classes, number = np.random.default_rng(0), len(counts), int(units.max(initial=-1)) + 1
    draws = np.empty((DRAWS, classes, classes))
    for start in range(0, DRAWS, _CHUNK):
        weights = random.standard_exponential((_CHUNK, number))
        for at, of_draw in enumerate(weights, start):
            draws[at] = np.bincount(cells, of_draw[units], classes * classes).reshape(classes, classes)
    size = counts.sum(axis=1)
    draws += _added(classes) * (size > 0)[:, None]
    total = draws.sum(axis=2, keepdims=True)
    scaled: Floats = draws * (size[:, None] / np.where(total > 0, total, 1))
    return scaled


@cache
def _added(classes: int) -> Floats:
    """Weights (DRAWS, C, C) of the added pictures: the wrong half is spread evenly over the other classes."""
    shape = np.full((classes, classes), ADDED / max(classes - 1, 1))
    np.fill_diagonal(shape, ADDED)
    return np.random.default_rng(1).standard_gamma(shape, (DRAWS, classes, classes))


def _widening(sizes: Labels) -> float:
    """Student's t over z for the effective number of patients (Kish); infinite for one patient."""
    freedom = float(sizes.sum()) ** 2 / float((sizes.astype(np.float64) ** 2).sum()) - 1
    return float(t.ppf(0.975, freedom) / norm.ppf(0.975)) if freedom > 1e-9 else float("inf")


def accuracy(counts: Floats) -> Floats:
    """Share of correct predictions, (…)."""
    return _share(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def macro_f1(counts: Floats, agreement: Agreement | None = None) -> Floats:
    """F1 averaged over the classes that occur, (…).

    Args:
        agreement: (C, C), which predictions count as correct; None: only the class itself.
    """
    return _over_occurring(_f1_by_class(counts, agreement), counts)


def balanced_accuracy(counts: Floats, agreement: Agreement | None = None) -> Floats:
    """Recall averaged over the classes that occur, (…)."""
    return _over_occurring(_share(_correct(counts, agreement).sum(axis=-1), counts.sum(axis=-1)), counts)


def weighted_f1(counts: Floats, agreement: Agreement | None = None) -> Floats:
    """F1 averaged by class size, (…)."""
    size = counts.sum(axis=-1)
    return _share((_f1_by_class(counts, agreement) * size).sum(axis=-1), size.sum(axis=-1))


def _f1_by_class(counts: Floats, agreement: Agreement | None) -> Floats:
    """The harmonic mean of recall and precision of each class, (…, C); 0 where undefined."""
    correct = _correct(counts, agreement)
    recall = _share(correct.sum(axis=-1), counts.sum(axis=-1))
    precision = _share(correct.sum(axis=-2), counts.sum(axis=-2))
    return _share(2 * recall * precision, recall + precision)


def _correct(counts: Floats, agreement: Agreement | None) -> Floats:
    return counts * (np.eye(counts.shape[-1], dtype=np.bool_) if agreement is None else agreement)


def _share(part: Floats, whole: Floats) -> Floats:
    found: Floats = part / np.where(whole > 0, whole, 1)
    return found


def _over_occurring(of_class: Floats, counts: Floats) -> Floats:
    """The same classes in every draw: class sizes are fixed."""
    size = counts.sum(axis=-1)
    occurs = size.reshape(-1, size.shape[-1])[0] > 0
    found: Floats = of_class[..., occurs].mean(axis=-1) if occurs.any() else np.zeros(counts.shape[:-2])
    return found
