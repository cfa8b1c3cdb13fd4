"""How far the pictures of a window lie from the reference: sums of features in, a distance of each kind out.

Knows sums by class. Appearance is compared class by class, so that another mix of classes alone does not move it.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.drift.reference import Array, DriftReference, Kind, Thresholds

#: With fewer pictures in the window nothing is said; with fewer that can be compared, nothing of how they look.
MIN_PICTURES, MIN_COMPARED = 100, 20


@dataclass(slots=True, eq=False)
class Sums:
    """Of the pictures of a window: how many the model named each class, and the sum of their features."""

    counts: Array  # (C,)
    totals: Array  # (C, F)

    @classmethod
    def empty(cls, classes: int, features: int) -> Self:
        """Of no picture."""
        return cls(np.zeros(classes), np.zeros((classes, features)))

    def add(
        self,
        named: NDArray[np.intp],
        features: Array | NDArray[np.float32],
        times: NDArray[np.intp] | None = None,
    ) -> None:
        """Some pictures more. One whose features are no numbers is left out.

        Args:
            named: (N,) class that the model named.
            features: (N, F).
            times: (N,) how often each picture counts; once, unless told.
        """
        told = np.zeros((len(self.counts), len(named)))
        told[named, np.arange(len(named))] = 1 if times is None else times
        if not np.isfinite(np.add.reduce(features, axis=None)):  # one that is no number leaves no sum
            keep = np.isfinite(features).all(axis=1)
            told, features = told[:, keep], features[keep]
        self.counts += told.sum(axis=1)
        self.totals += told @ features

    def __iadd__(self, other: "Sums") -> Self:
        self.counts += other.counts
        self.totals += other.totals
        return self


@dataclass(frozen=True, slots=True)
class Reading:
    """What a window says: how many pictures are in it, and of each kind the distance and its threshold.

    All are absent below `MIN_PICTURES`, and those of appearance where fewer than `MIN_COMPARED` are of classes that the
    reference has.
    """

    pictures: int
    distances: dict[Kind, float]
    thresholds: dict[Kind, float]

    def drifted(self) -> list[Kind]:
        """The kinds whose distance is above its threshold."""
        return [kind for kind, distance in self.distances.items() if distance > self.thresholds[kind]]


class Ruler:
    """Measures windows against one reference."""

    def __init__(self, reference: DriftReference) -> None:
        self.reference = reference
        codes = tuple(reference.class_pictures)
        self.size = len(codes), len(reference.covariance)
        self._known = np.array([code in reference.class_means for code in codes])
        nothing = (0.0,) * self.size[1]
        self._means = np.array([reference.class_means.get(code, nothing) for code in codes])
        self._mix = shares(np.array(list(reference.class_pictures.values()), dtype=np.float64))

    def read(self, sums: Sums) -> Reading:
        """Embedding, colour, sharpness: Mahalanobis distance of the window's mean from that of the same mix of classes
        in the reference, in standard deviations of one picture. Of classes that the reference hardly has, pictures are
        left out. Class mix: Jensen-Shannon distance, 0 to 1.
        """
        told = int(sums.counts.sum())
        known = int(sums.counts[self._known].sum())
        distances: dict[Kind, float] = {}
        if told >= MIN_PICTURES and known >= MIN_COMPARED:
            distances |= self.reference.scale.lengths(appearance(sums, self._means, self._known))
        if told >= MIN_PICTURES:
            distances["class_mix"] = jensen_shannon(shares(sums.counts), self._mix)
        counted = {kind: told if kind == "class_mix" else known for kind in distances}
        thresholds = {kind: self._threshold(kind, counted[kind]) for kind in distances}
        return Reading(told, distances, thresholds)

    def _threshold(self, kind: Kind, pictures: int) -> float:
        """That of the largest window that is not larger: of a smaller one more is put down to chance."""
        rows = self.reference.thresholds
        row: Thresholds = next((row for row in reversed(rows) if row.pictures <= pictures), rows[0])
        return float(getattr(row, kind))


def appearance(sums: Sums, means: Array, known: NDArray[np.bool_]) -> Array:
    """(F,): the window's mean less that of its own mix of classes in the reference, over the classes known there."""
    counts = sums.counts[known]
    apart: Array = (sums.totals[known].sum(axis=0) - counts @ means[known]) / counts.sum()
    return apart


def shares(counts: Array) -> Array:
    """Counts, (C,), as parts of their sum."""
    found: Array = counts / counts.sum()
    return found


def jensen_shannon(one: Array, other: Array) -> float:
    """The distance of two distributions: 0 when they are equal, 1 when nothing is in both. Lin 1991, in bits."""
    middle = (one + other) / 2
    return float(np.sqrt(max(0.0, (_divergence(one, middle) + _divergence(other, middle)) / 2)))


def _divergence(of: Array, middle: Array) -> float:
    there = of > 0
    return float((of[there] * np.log2(of[there] / middle[there])).sum())
