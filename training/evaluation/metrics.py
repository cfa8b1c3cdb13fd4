"""Figures from counts of confusions, each with its n and its interval, at three levels: strict, tolerant, lineage.

Knows arrays and class codes. Knows no network, no probabilities and no files.

Everything is computed from the confusion counts and from what counts as agreement, so one formula serves all levels and
a thousand resampled matrices alike. scikit-learn and torchmetrics, which know only the strict level, are held against
it in the tests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from model.contract import Metric
from training.evaluation.maturation import Agreement, strict

Labels = NDArray[np.int64]
Counts = NDArray[np.int64]  # (…, C, C); rows true, columns named
Floats = NDArray[np.float64]
Interval = tuple[float, float]  # low, high

BOOTSTRAP_DRAWS = 1000


def proportion(name: str, hits: int, n: int, split: str, code: str | None = None) -> Metric:
    """A share with its 95 % Wilson score interval (Wilson 1927); undefined shares (n = 0) are given as 0 of 0."""
    if n == 0:
        return Metric(name=name, code=code, value=0.0, low=0.0, high=1.0, n=0, split=split)
    low, high = wilson(hits, n)
    return Metric(name=name, code=code, value=hits / n, low=low, high=high, n=n, split=split)


def wilson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of `hits` in `n`; nothing is known where n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(hits, n).proportion_ci(confidence_level=confidence, method="wilson")
    return min(float(interval.low), hits / n), max(float(interval.high), hits / n)  # against rounding at 0 and 1


def count(labels: Labels, predicted: Labels, classes: int) -> Counts:
    """The confusion matrix (C, C) as counts; rows true, columns named."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


@dataclass(frozen=True, slots=True)
class Rates:
    """Recall, precision and F1 of each class, (…, C); 0 where there is nothing to divide by."""

    recall: Floats
    precision: Floats
    f1: Floats


def rates(counts: Counts, agreement: Agreement) -> Rates:
    """What share of each class is named right, what share of each name is right, and their harmonic mean.

    At the tolerant level a cell that got its class's neighbour's name is right for the recall of its class, and right
    for the precision of that name: of all cells named NGB, those that are NGB, MMZ or NGS.
    """
    right = counts * agreement
    recall = right.sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)
    precision = right.sum(axis=-2) / np.maximum(counts.sum(axis=-2), 1)
    f1 = 2 * recall * precision / np.maximum(recall + precision, np.finfo(float).tiny)
    return Rates(recall, precision, f1)


def accuracy(counts: Counts, agreement: Agreement, name: str, split: str) -> Metric:
    """Share of pictures whose class was named, or what counts as it."""
    return proportion(name, int((counts * agreement).sum()), int(counts.sum()), split)


def averages(counts: Counts, agreement: Agreement, split: str, level: str = "") -> list[Metric]:
    """Macro F1, F1 weighted by class size, and balanced accuracy (macro recall), over the classes that occur.

    Their intervals are the middle 95 % of 1000 multinomial draws of the counts: a resampling of the pictures, class by
    class. The sizes of the classes stay, as they do in a stratified split: drawn with the rest, a class of one picture
    would be missing from a third of the draws, and the interval would lie below the figure. A class of which every
    picture is right does not vary, so for classes of a few pictures the intervals are too narrow.

    Args:
        level: what goes before each figure's name.
    """
    size = counts.sum(axis=-1)
    shares = counts / np.maximum(size, 1)[:, None]
    draws = np.random.default_rng(0).multinomial(size, shares, (BOOTSTRAP_DRAWS, len(counts)))
    drawn = _averages(draws, agreement)
    metrics = []
    for name, found in _averages(counts, agreement).items():
        value, n = float(found), int(counts.sum())
        low, high = (float(end) for end in np.quantile(drawn[name], [0.025, 0.975]))
        metrics.append(
            Metric(name=level + name, value=value, low=min(low, value), high=max(high, value), n=n, split=split)
        )
    return metrics


def _averages(counts: Counts, agreement: Agreement) -> dict[str, Floats]:
    """Over the classes that occur, which are the same in every draw."""
    size = counts.sum(axis=-1)
    here = size.reshape(-1, size.shape[-1])[0] > 0
    found = rates(counts, agreement)
    return {
        "macro_f1": found.f1[..., here].mean(axis=-1),
        "weighted_f1": (found.f1 * size).sum(axis=-1) / size.sum(axis=-1),
        "balanced_accuracy": found.recall[..., here].mean(axis=-1),
    }


def of_classes(counts: Counts, agreement: Agreement, codes: Sequence[str], split: str, level: str = "") -> list[Metric]:
    """Recall, precision and F1 of every class that occurs, each with its interval and its own n."""
    right = counts * agreement
    true, named = counts.sum(axis=1), counts.sum(axis=0)
    metrics = []
    for at in map(int, np.flatnonzero(true)):
        recalled, precise = int(right[at].sum()), int(right[:, at].sum())
        metrics += [
            proportion(f"{level}recall", recalled, int(true[at]), split, codes[at]),
            proportion(f"{level}precision", precise, int(named[at]), split, codes[at]),
            _f1(
                (recalled, int(true[at])),
                (precise, int(named[at])),
                int(counts[at, at]),
                f"{level}f1",
                codes[at],
                split,
            ),
        ]
    return metrics


def _f1(recalled: tuple[int, int], precise: tuple[int, int], both: int, name: str, code: str, split: str) -> Metric:
    """F1 of one class, from (right, of) of its recall and of its precision.

    Where the two share their hits, F1 = 2J / (1 + J) with J = hits / (true or named), a share of pictures, whose Wilson
    interval carries over (Hand, Christen and Kirielle 2021, arXiv 2008.00103). At the tolerant level they do not; there
    F1 grows with recall and with precision, so the ends of their 97.5 % intervals enclose it at 95 % (Bonferroni).

    Args:
        both: pictures of the class that bear its name.
    """
    n = recalled[1] + precise[1] - both  # of the class, or named so
    if recalled[0] == precise[0] == both:
        low, high = (2 * end / (1 + end) for end in wilson(both, n))
    else:
        ends = zip(wilson(*recalled, confidence=0.975), wilson(*precise, confidence=0.975), strict=True)
        low, high = (_harmonic(recall, precision) for recall, precision in ends)
    value = _harmonic(recalled[0] / max(recalled[1], 1), precise[0] / max(precise[1], 1))
    return Metric(name=name, code=code, value=value, low=min(low, value), high=max(high, value), n=n, split=split)


def _harmonic(recall: float, precision: float) -> float:
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def gathered(counts: Counts, groups: Sequence[str]) -> tuple[Counts, tuple[str, ...]]:
    """Counts between groups of classes, (G, G), and the groups in the order of their first class.

    Args:
        groups: of each class, such as its lineage.
    """
    names = tuple(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], dtype=np.int64)  # (G, C)
    return member @ counts @ member.T, names


def measure(
    counts: Counts, codes: Sequence[str], tolerated: Agreement, groups: Sequence[str], split: str
) -> list[Metric]:
    """All figures of one set of pictures that need no probabilities.

    Args:
        counts: (C, C), all classes competing.
        tolerated: (C, C), what the tolerant figures count as right.
        groups: the lineage of each class.
        split: which pictures these are; every figure carries it.
    """
    same = strict(len(codes))
    between, names = gathered(counts, groups)
    of_lineages = strict(len(names))
    return [
        accuracy(counts, same, "accuracy", split),
        accuracy(counts, tolerated, "tolerant_accuracy", split),
        accuracy(between, of_lineages, "lineage_accuracy", split),
        *averages(counts, same, split),
        *averages(counts, tolerated, split, "tolerant_"),
        *averages(between, of_lineages, split, "lineage_"),
        *_by_class(of_classes(counts, same, codes, split), of_classes(counts, tolerated, codes, split, "tolerant_")),
    ]


def _by_class(*levels: list[Metric]) -> Iterator[Metric]:
    """Class by class, the levels of each together."""
    for code in dict.fromkeys(metric.code for level in levels for metric in level):
        yield from (metric for level in levels for metric in level if metric.code == code)
