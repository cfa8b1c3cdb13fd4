"""From many pictures to a drift reference: directions, means, covariance, and thresholds by drawing windows again.

Knows arrays and chance. Does not know where pictures come from. Which picture belongs to whom is told as a number of
its group alone, and the reference keeps how many groups there were.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest
from model.drift.distance import MIN_COMPARED, MIN_PICTURES, Sums, appearance, jensen_shannon, shares
from model.drift.features import Embeddings, Pictures, embedding_features, picture_features
from model.drift.reference import KINDS, Array, DriftReference, Scale, Thresholds

#: Directions of the embedding: those of the bundled model's reference hold nine tenths of its variance.
DIRECTIONS = 16
#: A reference of fewer pictures or groups would be mostly chance.
MIN_REFERENCE, MIN_GROUPS = 200, 10
#: A class with fewer is not compared: its mean would be mostly chance.
MIN_CLASS_PICTURES = 20
#: Neighbours in file order that are drawn together where nobody says what belongs together.
RUN_LENGTH = 5
WINDOWS = (MIN_COMPARED, 50, MIN_PICTURES, 200, 500, 1000, 2000, 5000)
QUANTILE, DRAWS = 0.999, 4000
_RIDGE, _FLOOR = 1e-6, 1e-8
_DIGITS = 7


@dataclass(slots=True, eq=False)
class Gathered:
    """What is kept of each picture until the reference is made."""

    embeddings: list[Embeddings] = field(default_factory=list)
    looks: list[NDArray[np.float32]] = field(default_factory=list)
    named: list[NDArray[np.intp]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def add(
        self, embeddings: Embeddings, probabilities: NDArray[np.float32], pictures: Pictures, groups: Sequence[int]
    ) -> None:
        """Some pictures, what the model made of them, and the number of the group that each belongs to."""
        self.embeddings.append(embeddings.copy())
        self.looks.append(picture_features(pictures))
        self.named.append(probabilities.argmax(axis=1))
        self.groups.extend(groups)


def made(gathered: Gathered, manifest: Manifest, source: str, *, draws: int = DRAWS, seed: int = 0) -> DriftReference:
    """The reference of what was gathered.

    Args:
        source: which pictures, in a sentence.
        draws: windows of each size that thresholds are taken from.

    Raises:
        ValueError: too few pictures, too few groups, or no class with enough pictures.
    """
    embeddings = np.concatenate(gathered.embeddings or [np.empty((0, 1), np.float32)])
    groups = _numbered(gathered.groups)
    centre, basis = _directions(embeddings)
    rows = (embedding_features(embeddings, centre, basis), np.concatenate(gathered.looks))
    named = np.concatenate(gathered.named)
    pictures = _Pictures(np.concatenate(rows, axis=1, dtype=np.float64), named, groups, len(manifest.classes))
    counts = np.bincount(named, minlength=pictures.classes)
    known = counts >= MIN_CLASS_PICTURES
    if not known.any():
        raise ValueError(f"the model names no class {MIN_CLASS_PICTURES} times")
    means = _means(pictures.sums(np.arange(len(named))), known)
    covariance = _covariance(pictures, means, known)
    return DriftReference(
        model_sha256=manifest.sha256,
        source=source,
        pictures=len(named),
        groups=int(groups.max()) + 1,
        quantile=QUANTILE,
        class_pictures=dict(zip(manifest.codes, counts.tolist(), strict=True)),
        class_means={code: _row(mean) for code, mean, told in zip(manifest.codes, means, known, strict=True) if told},
        covariance=tuple(_row(row) for row in covariance),
        centre=centre,
        directions=basis.ravel(),
        thresholds=_thresholds(pictures, Scale(covariance), draws, seed),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    rows: Array  # (N, F)
    named: NDArray[np.intp]  # (N,)
    groups: NDArray[np.intp]  # (N,)
    classes: int

    def sums(self, chosen: NDArray[np.intp]) -> Sums:
        """Of pictures by their numbers, of which one may stand there several times."""
        found = Sums.empty(self.classes, self.rows.shape[1])
        if len(chosen) <= len(self.rows):
            found.add(self.named[chosen], self.rows[chosen])
            return found
        times = np.bincount(chosen, minlength=len(self.rows))
        found.add(self.named, self.rows, times)
        return found


def _numbered(groups: Sequence[int]) -> NDArray[np.intp]:
    """Groups by their numbers from 0 on.

    Raises:
        ValueError: too few of them, or of pictures.
    """
    found, numbered = np.unique(np.array(groups, dtype=np.int64), return_inverse=True)
    if len(numbered) < MIN_REFERENCE or len(found) < MIN_GROUPS:
        has = f"{len(numbered)} pictures in {len(found)} groups"
        raise ValueError(f"{has}: a drift reference needs {MIN_REFERENCE} in {MIN_GROUPS}")
    return numbered


def _directions(embeddings: Embeddings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre (D,), and the directions of most variance (D, K), each so that its largest number is positive."""
    exact = embeddings.astype(np.float64)
    centre = exact.mean(axis=0)
    spread = exact - centre
    _, vectors = np.linalg.eigh(spread.T @ spread)
    basis = vectors[:, ::-1][:, :DIRECTIONS]
    largest = np.abs(basis).argmax(axis=0)
    basis = basis * np.sign(basis[largest, np.arange(basis.shape[1])])
    return centre.astype(np.float32), np.ascontiguousarray(basis, dtype=np.float32)


def _means(sums: Sums, known: NDArray[np.bool_]) -> Array:
    return np.where(known[:, None], sums.totals / np.maximum(sums.counts, 1)[:, None], 0)


def _covariance(pictures: _Pictures, means: Array, known: NDArray[np.bool_]) -> Array:
    """(F, F), within the known classes, and a trifle on the diagonal, for what does not vary at all."""
    mine = known[pictures.named]
    apart = pictures.rows[mine] - means[pictures.named[mine]]
    covariance: Array = apart.T @ apart / len(apart)
    covariance[np.diag_indices_from(covariance)] += _RIDGE * np.diag(covariance) + _FLOOR
    return covariance


def _row(values: Array) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)


def _thresholds(pictures: _Pictures, scale: Scale, draws: int, seed: int) -> tuple[Thresholds, ...]:
    """Half of the groups, drawn anew each time, is the reference, and windows are drawn from the other half.

    So a threshold allows for what chance does to a window and to the reference, which a window drawn from all of it
    would share. Groups are drawn whole, with replacement: pictures of one specimen are alike.
    """
    random = np.random.default_rng(seed)
    members = np.split(np.argsort(pictures.groups, kind="stable"), np.cumsum(np.bincount(pictures.groups))[:-1])
    found = np.array([_drawn(pictures, scale, members, random) for _ in range(draws)])  # (draws, windows, kinds)
    quantiles = np.nanquantile(found, QUANTILE, axis=0)
    return tuple(
        Thresholds.model_validate({"pictures": size} | dict(zip(KINDS, _row(row), strict=True)))
        for size, row in zip(WINDOWS, quantiles, strict=True)
    )


def _drawn(
    pictures: _Pictures, scale: Scale, members: list[NDArray[np.intp]], random: np.random.Generator
) -> list[list[float]]:
    """The distance of each kind, for windows of each size that are drawn once: each begins with the one before."""
    order = random.permutation(len(members))
    half = len(order) // 2
    apart = pictures.sums(np.concatenate([members[at] for at in order[:half]]))
    known = apart.counts >= MIN_CLASS_PICTURES / 2
    means, mix = _means(apart, known), shares(apart.counts)
    window, begun = Sums.empty(pictures.classes, pictures.rows.shape[1]), 0
    chosen = _enough([members[at] for at in order[half:]], random)
    found = []
    for size in WINDOWS:
        window += pictures.sums(chosen[begun:size])
        begun = size
        comparable = window.counts[known].sum() > 0
        lengths = scale.lengths(appearance(window, means, known)) if comparable else {}
        lengths["class_mix"] = jensen_shannon(shares(window.counts), mix)
        found.append([lengths.get(kind, np.nan) for kind in KINDS])
    return found


def _enough(members: list[NDArray[np.intp]], random: np.random.Generator) -> NDArray[np.intp]:
    """As many pictures as the largest window has, from groups drawn with replacement, each in its order."""
    average = sum(map(len, members)) / len(members)
    drawn: list[NDArray[np.intp]] = []
    while sum(map(len, drawn)) < WINDOWS[-1]:
        count = int(WINDOWS[-1] / average) + 1
        drawn += [members[at] for at in random.integers(len(members), size=count)]
    return np.concatenate(drawn)[: WINDOWS[-1]]
