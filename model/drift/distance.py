"""Distances of a window of pictures from the drift reference, computed from sums of features by class.

Appearance is compared class by class, so that a different class mix alone does not change it.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.drift.reference import Array, DriftReference, Kind, Thresholds

#: Least pictures in a window for any distance, and least comparable pictures for distances of appearance.
MIN_PICTURES, MIN_COMPARED = 100, 20


@dataclass(slots=True, eq=False)
class FeatureSums:
    """Number of pictures and sum of their features, by predicted class."""

    counts: Array  # (C,)
    totals: Array  # (C, F)

    @classmethod
    def empty(cls, classes: int, features: int) -> Self:
        """Sums over no pictures."""
        return cls(np.zeros(classes), np.zeros((classes, features)))

    def add(
        self,
        predicted: NDArray[np.intp],
        features: Array | NDArray[np.float32],
        weights: NDArray[np.intp] | None = None,
    ) -> None:
        """Add pictures. Pictures with a feature that is not finite are skipped.

        Args:
            predicted: (N,) predicted class.
            features: (N, F).
            weights: (N,) how often each picture counts; by default once.
        """
        one_hot = np.zeros((len(self.counts), len(predicted)))
        one_hot[predicted, np.arange(len(predicted))] = 1 if weights is None else weights
        if not np.isfinite(np.add.reduce(features, axis=None)):  # a sum shows NaN and infinity faster than a mask
            keep = np.isfinite(features).all(axis=1)
            one_hot, features = one_hot[:, keep], features[keep]
        self.counts += one_hot.sum(axis=1)
        self.totals += one_hot @ features

    def __iadd__(self, other: "FeatureSums") -> Self:
        self.counts += other.counts
        self.totals += other.totals
        return self


@dataclass(frozen=True, slots=True)
class DriftMeasurement:
    """Number of pictures in a window, and the distance and threshold of each kind.

    Without entries if there are fewer than `MIN_PICTURES`. Appearance is missing if fewer than `MIN_COMPARED` pictures
    are of classes in the reference.
    """

    pictures: int
    distances: dict[Kind, float]
    thresholds: dict[Kind, float]

    def drifted(self) -> list[Kind]:
        """The kinds with a distance above the threshold."""
        return [kind for kind, distance in self.distances.items() if distance > self.thresholds[kind]]


class DriftMeter:
    """Measures the distances of windows from one reference."""

    def __init__(self, reference: DriftReference) -> None:
        self.reference = reference
        codes = tuple(reference.class_pictures)
        self.size = len(codes), len(reference.covariance)
        self._known = np.array([code in reference.class_means for code in codes])
        zeros = (0.0,) * self.size[1]
        self._means = np.array([reference.class_means.get(code, zeros) for code in codes])
        self._mix = shares(np.array(list(reference.class_pictures.values()), dtype=np.float64))

    def measure(self, sums: FeatureSums) -> DriftMeasurement:
        """Measure a window.

        Embedding, colour and sharpness: Mahalanobis distance of the window's mean from the reference's mean for the
        same class mix, in standard deviations of one picture. Classes that are rare in the reference are left out.
        Class mix: Jensen-Shannon distance, 0 to 1.
        """
        pictures = int(sums.counts.sum())
        known = int(sums.counts[self._known].sum())
        distances: dict[Kind, float] = {}
        if pictures >= MIN_PICTURES and known >= MIN_COMPARED:
            distances |= self.reference.scale.distances(appearance_shift(sums, self._means, self._known))
        if pictures >= MIN_PICTURES:
            distances["class_mix"] = jensen_shannon(shares(sums.counts), self._mix)
        counted = {kind: pictures if kind == "class_mix" else known for kind in distances}
        thresholds = {kind: self._threshold(kind, counted[kind]) for kind in distances}
        return DriftMeasurement(pictures, distances, thresholds)

    def _threshold(self, kind: Kind, pictures: int) -> float:
        """The threshold of the largest tabulated window of at most this size."""
        rows = self.reference.thresholds
        row: Thresholds = next((row for row in reversed(rows) if row.pictures <= pictures), rows[0])
        return float(getattr(row, kind))


def appearance_shift(sums: FeatureSums, means: Array, known: NDArray[np.bool_]) -> Array:
    """(F,): the window's mean minus the reference's mean for the same class mix, over the classes with a mean."""
    counts = sums.counts[known]
    shift: Array = (sums.totals[known].sum(axis=0) - counts @ means[known]) / counts.sum()
    return shift


def shares(counts: Array) -> Array:
    """Counts (C,) divided by their sum."""
    fractions: Array = counts / counts.sum()
    return fractions


def jensen_shannon(one: Array, other: Array) -> float:
    """Jensen-Shannon distance of two distributions (Lin 1991, in bits): 0 if equal, 1 if disjoint."""
    middle = (one + other) / 2
    return float(np.sqrt(max(0.0, (_divergence(one, middle) + _divergence(other, middle)) / 2)))


def _divergence(of: Array, middle: Array) -> float:
    positive = of > 0
    return float((of[positive] * np.log2(of[positive] / middle[positive])).sum())
