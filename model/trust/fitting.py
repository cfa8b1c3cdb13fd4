"""Fitting a trust reference to known cells: cells of a trusted label that the model did not learn from.

The class means and the covariance come from training cells; every threshold comes from the known cells, which the
model has not seen. A laboratory can fit the thresholds again to its own cells (`recalibrate`).
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.fields import Code
from model.packing import pack_floats
from model.trust.novelty import MahalanobisDistance
from model.trust.quality import MEASURES, Measures
from model.trust.reference import ClassGaussians, Measure, NoveltyReference, Range, SetReference, TrustReference

#: Directions of the embedding with a variance of their own.
DIRECTIONS = 16
#: Share of known cells outside each end of a measure's range.
QUALITY_TAIL = 0.005
#: A measure that is checked at one end only. Small nuclei are of focus, and of classes that are not novel.
ONE_SIDED: dict[Measure, str] = {"nucleus_in_middle": "low", "focus": "low", "offset": "high"}
#: Least known cells.
MIN_PICTURES = 50
#: Distances stored, at most; more are thinned evenly.
MAX_DISTANCES = 1024


@dataclass(frozen=True, slots=True)
class Levels:
    """The shares of known cells that the thresholds aim at."""

    coverage: float = 0.9  # of each class, whose prediction set contains the class
    review_p: float = 0.1  # sent to review by novelty, rejected ones included
    reject_p: float = 0.03  # rejected by novelty


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPredictions:
    """The model's answers for cells, and their labels."""

    probabilities: NDArray[np.float32]  # (N, C)
    embeddings: NDArray[np.float32]  # (N, D)
    measures: Measures  # (N, 6), of the pictures
    labels: NDArray[np.int64]  # (N,), index of the class; -1: another class than the model's

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """The cells selected by a mask or by indices."""
        return type(self)(
            self.probabilities[chosen], self.embeddings[chosen], self.measures[chosen], self.labels[chosen]
        )


def fit_trust(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    known: LabelledPredictions,
    codes: tuple[Code, ...],
    source: str,
    levels: Levels = Levels(),
) -> TrustReference:
    """Fit a reference.

    Args:
        embeddings: (M, D), of training cells of the supported classes.
        labels: (M,), index of their class.
        known: cells of the supported classes that the model did not learn from.
        codes: of all classes, in logit order.
        source: description of the known cells.

    Raises:
        ValueError: too few cells.
    """
    return _calibrate(_gaussians(embeddings, labels, codes), known, codes, source, levels)


def recalibrate(
    reference: TrustReference, known: LabelledPredictions, codes: tuple[Code, ...], source: str
) -> TrustReference:
    """A reference with the same class means, covariance and levels, and thresholds fitted to other known cells.

    A class with too few of them for a threshold (`few_cells`) keeps its threshold and its row of the confusion matrix.

    Raises:
        ValueError: too few cells.
    """
    levels = Levels(reference.sets.coverage, reference.review_p, reference.reject_p)
    found = _calibrate(reference.novelty.gaussians, known, codes, source, levels)
    kept = set(few_cells(reference, known, codes))
    sets, old = found.sets, reference.sets
    return found.model_copy(
        update={
            "sets": sets.model_copy(
                update={
                    "thresholds": sets.thresholds | {code: old.thresholds[code] for code in kept},
                    "pictures": sets.pictures | {code: old.pictures[code] for code in kept},
                }
            ),
            "confusion": found.confusion | {code: reference.confusion[code] for code in kept},
        }
    )


def few_cells(reference: TrustReference, known: LabelledPredictions, codes: tuple[Code, ...]) -> tuple[Code, ...]:
    """The classes of a reference with fewer known cells than a threshold needs: 9 for sets of 90 %."""
    needed = math.ceil(1 / (1 - reference.sets.coverage) - 1e-9) - 1
    counts = np.bincount(known.labels, minlength=len(codes))
    return tuple(code for code in reference.sets.thresholds if counts[codes.index(code)] < needed)


def _calibrate(
    gaussians: ClassGaussians, known: LabelledPredictions, codes: tuple[Code, ...], source: str, levels: Levels
) -> TrustReference:
    if len(known) < MIN_PICTURES:
        raise ValueError(f"{len(known)} known cells; at least {MIN_PICTURES} are needed")
    distances = np.sort(MahalanobisDistance(gaussians).measure(known.embeddings))
    kept = np.unique(np.linspace(0, len(distances) - 1, min(len(distances), MAX_DISTANCES)).round().astype(int))
    return TrustReference(
        source=source,
        pictures=len(known),
        review_p=levels.review_p,
        reject_p=levels.reject_p,
        novelty=NoveltyReference(gaussians=gaussians, distances=_row(distances[kept])),
        sets=fit_sets(known, codes, levels.coverage),
        confusion=confusion(known, codes),
        quality={name: _range(name, known.measures[:, at]) for at, name in enumerate(MEASURES)},
    )


def _gaussians(embeddings: NDArray[np.float32], labels: NDArray[np.int64], codes: tuple[Code, ...]) -> ClassGaussians:
    """Class means and shared covariance (Tipping and Bishop 1999, eq. 8, of embeddings minus their class mean)."""
    classes, rows = np.unique(labels, return_inverse=True)
    means = np.stack([embeddings[rows == at].mean(axis=0, dtype=np.float64) for at in range(len(classes))])
    within = embeddings - means[rows]
    values, vectors = np.linalg.eigh(within.T @ within / len(within))
    kept = min(DIRECTIONS, len(values) - 1)
    return ClassGaussians(
        classes=tuple(codes[at] for at in classes),
        means=pack_floats(means.astype(np.float32).ravel()),
        directions=pack_floats(vectors[:, ::-1][:, :kept].T.astype(np.float32).ravel()),
        variances=_row(np.maximum(values[::-1][:kept], _tiny(values))),
        residual_variance=float(max(values[::-1][kept:].mean(), _tiny(values))),
    )


def _tiny(values: NDArray[np.float64]) -> float:
    """A variance below which a direction counts as constant, so that no distance is infinite."""
    return float(max(values.max() * 1e-6, 1e-12))


def fit_sets(known: LabelledPredictions, codes: tuple[Code, ...], coverage: float) -> SetReference:
    """Thresholds of class-conditional conformal prediction (Vovk et al. 2005; score 1 - p: Sadinle et al. 2019).

    With n cells of a class, the threshold is the k-th smallest probability of their class, k = floor((n + 1)(1 -
    coverage)); 0, which holds for every picture, if k is 0.
    """
    thresholds, pictures = {}, {}
    for at in np.unique(known.labels).tolist():
        found = np.sort(known.probabilities[known.labels == at, at])
        place = int(np.floor((len(found) + 1) * (1 - coverage) + 1e-9))
        thresholds[codes[at]] = float(found[place - 1]) if place else 0.0
        pictures[codes[at]] = len(found)
    return SetReference(coverage=coverage, thresholds=thresholds, pictures=pictures)


def confusion(known: LabelledPredictions, codes: tuple[Code, ...]) -> dict[Code, dict[Code, int]]:
    """True class → predicted class → number of known cells; without zeros."""
    predicted = known.probabilities.argmax(axis=1)
    found: dict[Code, dict[Code, int]] = {}
    for true in np.unique(known.labels).tolist():
        named, counts = np.unique(predicted[known.labels == true], return_counts=True)
        found[codes[true]] = {codes[at]: count for at, count in zip(named.tolist(), counts.tolist(), strict=True)}
    return found


def _range(name: Measure, values: NDArray[np.float32]) -> Range:
    low, high = (float(each) for each in np.quantile(values, [QUALITY_TAIL, 1 - QUALITY_TAIL]))
    side = ONE_SIDED.get(name)
    return Range(low=None if side == "high" else low, high=None if side == "low" else high)


def _row(values: NDArray[np.float32] | NDArray[np.float64]) -> tuple[float, ...]:
    """Seven significant digits: those of float32."""
    return tuple(float(f"{value:.7g}") for value in values)
