"""Fitting a drift reference to pictures: directions, class means, covariance, and thresholds by bootstrap.

A group is a set of pictures that belong together, such as a specimen, given as a number. Without known groups, pictures
of like colour are a group (`colour_groups`). The reference stores how many groups there were.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest
from model.drift.distance import (
    MIN_COMPARED,
    MIN_PICTURES,
    FeatureSums,
    appearance_shift,
    jensen_shannon,
    shares,
)
from model.drift.features import Embeddings, Pictures, embedding_features, picture_features
from model.drift.reference import COLOURS, KINDS, Array, DriftReference, Scale, Thresholds

#: Directions of the embedding. Those of the bundled model's reference explain 90 % of its variance.
DIRECTIONS = 16
#: Least pictures and groups of a reference.
MIN_REFERENCE, MIN_GROUPS = 200, 10
#: A class with fewer pictures has no mean, so its appearance is not compared.
MIN_CLASS_PICTURES = 20
#: Groups of like colour if no groups are known: 2 ** COLOUR_SPLITS.
COLOUR_SPLITS = 5
WINDOWS = (MIN_COMPARED, 50, MIN_PICTURES, 200, 500, 1000, 2000, 5000)
QUANTILE, DRAWS = 0.999, 4000
_RIDGE, _FLOOR = 1e-6, 1e-8
_DIGITS = 7


@dataclass(slots=True, eq=False)
class ReferenceSamples:
    """Embedding, features, predicted class and group of each picture, until the reference is fitted.

    Either every picture has a group, or none has.
    """

    embeddings: list[Embeddings] = field(default_factory=list)
    picture_features: list[NDArray[np.float32]] = field(default_factory=list)
    predicted: list[NDArray[np.intp]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def add(
        self, embeddings: Embeddings, probabilities: NDArray[np.float32], pictures: Pictures, groups: Sequence[int] = ()
    ) -> None:
        """Add pictures, the model's outputs for them, and the group number of each; no groups: unknown."""
        self.embeddings.append(embeddings.copy())
        self.picture_features.append(picture_features(pictures))
        self.predicted.append(probabilities.argmax(axis=1))
        self.groups.extend(groups)

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return sum(map(len, self.predicted))


def fit_reference(
    samples: ReferenceSamples, manifest: Manifest, source: str, *, draws: int = DRAWS, seed: int = 0
) -> DriftReference:
    """Fit the reference to samples.

    Args:
        source: description of the pictures.
        draws: bootstrap windows of each size for the thresholds.

    Raises:
        ValueError: too few pictures, too few groups, or no class with enough pictures.
    """
    embeddings = np.concatenate(samples.embeddings or [np.empty((0, 1), np.float32)])
    groups = _groups(samples)
    centre, basis = _directions(embeddings)
    rows = (embedding_features(embeddings, centre, basis), np.concatenate(samples.picture_features))
    predicted = np.concatenate(samples.predicted)
    pictures = _Pictures(np.concatenate(rows, axis=1, dtype=np.float64), predicted, groups, len(manifest.classes))
    counts = np.bincount(predicted, minlength=pictures.classes)
    known = counts >= MIN_CLASS_PICTURES
    if not known.any():
        raise ValueError(f"no class is predicted {MIN_CLASS_PICTURES} times; use more pictures")
    means = _means(pictures.sums(np.arange(len(predicted))), known)
    covariance, codes = _covariance(pictures, means, known), manifest.codes
    return DriftReference(
        model_sha256=manifest.sha256,
        source=source,
        pictures=len(predicted),
        groups=int(groups.max()) + 1,
        quantile=QUANTILE,
        class_pictures=dict(zip(codes, counts.tolist(), strict=True)),
        class_means={code: _row(mean) for code, mean, is_known in zip(codes, means, known, strict=True) if is_known},
        covariance=tuple(_row(row) for row in covariance),
        centre=centre,
        directions=basis.ravel(),
        thresholds=_thresholds(pictures, Scale(covariance), draws, seed),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    rows: Array  # (N, F)
    predicted: NDArray[np.intp]  # (N,)
    groups: NDArray[np.intp]  # (N,)
    classes: int

    def sums(self, chosen: NDArray[np.intp]) -> FeatureSums:
        """Sums over pictures by index; an index may be repeated."""
        found = FeatureSums.empty(self.classes, self.rows.shape[1])
        if len(chosen) <= len(self.rows):
            found.add(self.predicted[chosen], self.rows[chosen])
            return found
        weights = np.bincount(chosen, minlength=len(self.rows))
        found.add(self.predicted, self.rows, weights)
        return found


def _groups(samples: ReferenceSamples) -> NDArray[np.intp]:
    """Group number of each picture, from 0.

    Raises:
        ValueError: too few groups or pictures.
    """
    count, known = samples.pictures, len(samples.groups) > 0
    found, numbered = np.unique(np.array(samples.groups, dtype=np.int64), return_inverse=True)
    if count < MIN_REFERENCE or (known and len(found) < MIN_GROUPS):
        has = f"{count} pictures" + (f" in {len(found)} groups" if known else "")
        raise ValueError(f"{has}; a drift reference needs at least {MIN_REFERENCE} pictures in {MIN_GROUPS} groups")
    if known:
        return numbered
    return colour_groups(np.concatenate(samples.picture_features), np.concatenate(samples.predicted))


def colour_groups(picture_features: NDArray[np.float32], predicted: NDArray[np.intp]) -> NDArray[np.intp]:
    """Group number of each picture (N,): groups of like colour of about equal size, a proxy for slides.

    A slide has one stain and one light, so its pictures are more alike in colour than others. The colour of a
    picture is compared with the mean of its predicted class. All groups are halved COLOUR_SPLITS times at the median
    of the feature that varies most within each (a k-d tree, Bentley 1975).

    Args:
        picture_features: (N, 8), from `picture_features`.
        predicted: (N,), predicted class.
    """
    colours = picture_features[:, :COLOURS].astype(np.float64)
    for named in np.unique(predicted):
        colours[predicted == named] -= colours[predicted == named].mean(axis=0)
    spread = colours.std(axis=0)
    colours /= np.where(spread > 0, spread, 1)
    groups = np.zeros(len(colours), np.intp)
    for _ in range(COLOUR_SPLITS):
        upper = np.zeros(len(colours), np.intp)
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            feature = colours[members].var(axis=0).argmax()
            upper[members[np.argsort(colours[members, feature], kind="stable")[len(members) // 2 :]]] = 1
        groups = 2 * groups + upper
    return groups


def _directions(embeddings: Embeddings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean (D,), and principal directions (D, K), each with the sign that makes its largest component positive."""
    exact = embeddings.astype(np.float64)
    centre = exact.mean(axis=0)
    spread = exact - centre
    _, vectors = np.linalg.eigh(spread.T @ spread)
    basis = vectors[:, ::-1][:, :DIRECTIONS]
    largest = np.abs(basis).argmax(axis=0)
    basis = basis * np.sign(basis[largest, np.arange(basis.shape[1])])
    return centre.astype(np.float32), np.ascontiguousarray(basis, dtype=np.float32)


def _means(sums: FeatureSums, known: NDArray[np.bool_]) -> Array:
    return np.where(known[:, None], sums.totals / np.maximum(sums.counts, 1)[:, None], 0)


def _covariance(pictures: _Pictures, means: Array, known: NDArray[np.bool_]) -> Array:
    """(F, F): covariance within the known classes, plus a small ridge for features that do not vary."""
    in_known = known[pictures.predicted]
    residuals = pictures.rows[in_known] - means[pictures.predicted[in_known]]
    covariance: Array = residuals.T @ residuals / len(residuals)
    covariance[np.diag_indices_from(covariance)] += _RIDGE * np.diag(covariance) + _FLOOR
    return covariance


def _row(values: Array) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)


def _thresholds(pictures: _Pictures, scale: Scale, draws: int, seed: int) -> tuple[Thresholds, ...]:
    """Thresholds by bootstrap: each draw splits the groups; one half is the reference, windows come from the other.

    So a threshold includes the sampling error of the window and of the reference. Whole groups are drawn, with
    replacement, because pictures of one specimen are alike. Windows of single pictures would be too close to the mean.
    """
    random = np.random.default_rng(seed)
    members = np.split(np.argsort(pictures.groups, kind="stable"), np.cumsum(np.bincount(pictures.groups))[:-1])
    found = np.array([_draw_windows(pictures, scale, members, random) for _ in range(draws)])  # (draws, windows, kinds)
    quantiles = np.nanquantile(found, QUANTILE, axis=0)
    return tuple(
        Thresholds.model_validate({"pictures": size} | dict(zip(KINDS, _row(row), strict=True)))
        for size, row in zip(WINDOWS, quantiles, strict=True)
    )


def _draw_windows(
    pictures: _Pictures, scale: Scale, members: list[NDArray[np.intp]], random: np.random.Generator
) -> list[list[float]]:
    """Distances of each kind for one window of each size; each window extends the previous one."""
    order = random.permutation(len(members))
    half = len(order) // 2
    reference = pictures.sums(np.concatenate([members[at] for at in order[:half]]))
    known = reference.counts >= MIN_CLASS_PICTURES / 2
    means, mix = _means(reference, known), shares(reference.counts)
    window, begun = FeatureSums.empty(pictures.classes, pictures.rows.shape[1]), 0
    chosen = _draw_groups([members[at] for at in order[half:]], random)
    found = []
    for size in WINDOWS:
        window += pictures.sums(chosen[begun:size])
        begun = size
        comparable = window.counts[known].sum() > 0
        distances = scale.distances(appearance_shift(window, means, known)) if comparable else {}
        distances["class_mix"] = jensen_shannon(shares(window.counts), mix)
        found.append([distances.get(kind, np.nan) for kind in KINDS])
    return found


def _draw_groups(members: list[NDArray[np.intp]], random: np.random.Generator) -> NDArray[np.intp]:
    """Pictures for the largest window, from groups drawn with replacement, in order within each group."""
    average = sum(map(len, members)) / len(members)
    drawn: list[NDArray[np.intp]] = []
    while sum(map(len, drawn)) < WINDOWS[-1]:
        count = int(WINDOWS[-1] / average) + 1
        drawn += [members[at] for at in random.integers(len(members), size=count)]
    return np.concatenate(drawn)[: WINDOWS[-1]]
