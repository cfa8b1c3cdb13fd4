"""Classification metrics with n and 95 % intervals at three levels: strict, tolerant and lineage.

Strict: only the class itself is correct. Tolerant: a neighbouring stage of maturation is correct too. Lineage: another
class of the same lineage is correct too. Readers agree better on lineages than on stages (Parmentier et al. 2020,
PMC7683448), and stages are cuts in a continuum, so all three levels are reported.

Everything is computed from a confusion matrix and an agreement matrix: one formula serves all levels and a thousand
resampled matrices. Tests compare the strict level with scikit-learn and torchmetrics.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.agreement.proportion import wilson
from model.contract import CellClass, Metric

Labels = NDArray[np.int64]
Counts = NDArray[np.int64]  # (…, C, C), confusion matrix; rows true, columns predicted
Agreement = NDArray[np.bool_]  # (C, C), symmetric: whether predicting j for i counts as correct; True on the diagonal
Floats = NDArray[np.float64]

BOOTSTRAP_DRAWS = 1000


def strict(count: int) -> Agreement:
    """The agreement matrix (C, C) in which only the class itself is correct."""
    return np.eye(count, dtype=np.bool_)


def tolerant(codes: Sequence[str], chains: Sequence[Sequence[str]]) -> Agreement:
    """The agreement matrix (C, C) in which direct neighbours in a chain of maturation are correct too.

    A stage missing from `codes` leaves a gap: the stages on its two sides are not neighbours.
    """
    index = {code: at for at, code in enumerate(codes)}
    agreement = strict(len(codes))
    for chain in chains:
        for younger, older in zip(chain, chain[1:], strict=False):
            if younger in index and older in index:
                agreement[index[younger], index[older]] = agreement[index[older], index[younger]] = True
    return agreement


def lineages(classes: Sequence[CellClass]) -> tuple[str, ...]:
    """The lineage of each class; a class of lineage `other` is a group of its own, under its code.

    Classes of lineage `other` (a blast, an artefact) have no lineage in common, so confusing two of them is an error.
    """
    return tuple(c.code if c.lineage == "other" else c.lineage for c in classes)


def proportion(name: str, hits: int, n: int, split: str, code: str | None = None) -> Metric:
    """A proportion with its 95 % Wilson score interval (Wilson 1927); n = 0 gives 0 with the interval 0 to 1."""
    low, high = wilson(hits, n)
    return Metric(name=name, code=code, value=hits / n if n else 0.0, low=low, high=high, n=n, split=split)


def confusion_matrix(labels: Labels, predicted: Labels, classes: int) -> Counts:
    """The confusion matrix (C, C) as counts; rows true, columns predicted."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


@dataclass(frozen=True, slots=True)
class ClassRates:
    """Recall, precision and F1 of each class, (…, C); 0 where undefined."""

    recall: Floats
    precision: Floats
    f1: Floats


def class_rates(counts: Counts, agreement: Agreement) -> ClassRates:
    """Recall, precision and F1 of each class under an agreement matrix.

    At the tolerant level a cell predicted as a neighbour of its class counts as correct for the recall of its class
    and for the precision of the predicted class: of all cells predicted NGB, those labelled NGB, MMZ or NGS.
    """
    correct = counts * agreement
    recall = correct.sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)
    precision = correct.sum(axis=-2) / np.maximum(counts.sum(axis=-2), 1)
    f1 = 2 * recall * precision / np.maximum(recall + precision, np.finfo(float).tiny)
    return ClassRates(recall, precision, f1)


def accuracy(counts: Counts, agreement: Agreement, name: str, split: str) -> Metric:
    """Share of correct predictions."""
    return proportion(name, int((counts * agreement).sum()), int(counts.sum()), split)


def average_metrics(counts: Counts, agreement: Agreement, split: str, level: str = "") -> list[Metric]:
    """Macro F1, weighted F1 and balanced accuracy (macro recall) over the classes that occur.

    Intervals: middle 95 % of 1000 multinomial draws of the counts, class by class (stratified bootstrap). Class sizes
    stay fixed, as in a stratified split: with random sizes, a class of one picture would be missing from a third of
    the draws, and the interval would lie below the value. A class predicted without error has no variance here, so
    intervals are too narrow for classes of a few pictures.

    Args:
        level: prefix of each metric's name.
    """
    size = counts.sum(axis=-1)
    shares = counts / np.maximum(size, 1)[:, None]
    draws = np.random.default_rng(0).multinomial(size, shares, (BOOTSTRAP_DRAWS, len(counts)))
    drawn = _averages(draws, agreement)
    metrics = []
    for name, average in _averages(counts, agreement).items():
        value, n = float(average), int(counts.sum())
        low, high = (float(end) for end in np.quantile(drawn[name], [0.025, 0.975]))
        metrics.append(
            Metric(name=level + name, value=value, low=min(low, value), high=max(high, value), n=n, split=split)
        )
    return metrics


def _averages(counts: Counts, agreement: Agreement) -> dict[str, Floats]:
    """Averages over the classes that occur; the same classes in every draw."""
    size = counts.sum(axis=-1)
    occurs = size.reshape(-1, size.shape[-1])[0] > 0
    of_class = class_rates(counts, agreement)
    return {
        "macro_f1": of_class.f1[..., occurs].mean(axis=-1),
        "weighted_f1": (of_class.f1 * size).sum(axis=-1) / size.sum(axis=-1),
        "balanced_accuracy": of_class.recall[..., occurs].mean(axis=-1),
    }


def class_metrics(
    counts: Counts, agreement: Agreement, codes: Sequence[str], split: str, level: str = ""
) -> list[Metric]:
    """Recall, precision and F1 of every class that occurs, each with its own n and interval."""
    correct = counts * agreement
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    metrics = []
    for at in map(int, np.flatnonzero(true)):
        recall = int(correct[at].sum()), int(true[at])
        precision = int(correct[:, at].sum()), int(predicted[at])
        metrics += [
            proportion(f"{level}recall", *recall, split, codes[at]),
            proportion(f"{level}precision", *precision, split, codes[at]),
            _f1(recall, precision, int(counts[at, at]), f"{level}f1", codes[at], split),
        ]
    return metrics


def _f1(recall: tuple[int, int], precision: tuple[int, int], both: int, name: str, code: str, split: str) -> Metric:
    """F1 of one class, with its interval.

    If recall and precision have the same hits, F1 = 2J / (1 + J) with J = hits / (labelled or predicted as the class).
    J is a proportion, so its Wilson interval carries over (Hand, Christen and Kirielle 2021, arXiv 2008.00103).
    Otherwise (tolerant level): F1 grows with recall and with precision, so the ends of their 97.5 % intervals bound it
    at 95 % (Bonferroni).

    Args:
        recall, precision: hits, and pictures they are a share of.
        both: pictures both labelled and predicted as the class.
    """
    n = recall[1] + precision[1] - both  # labelled or predicted as the class
    if recall[0] == precision[0] == both:
        low, high = (2 * end / (1 + end) for end in wilson(both, n))
    else:
        ends = zip(wilson(*recall, confidence=0.975), wilson(*precision, confidence=0.975), strict=True)
        low, high = (_harmonic_mean(*end) for end in ends)
    value = _harmonic_mean(recall[0] / max(recall[1], 1), precision[0] / max(precision[1], 1))
    return Metric(name=name, code=code, value=value, low=min(low, value), high=max(high, value), n=n, split=split)


def _harmonic_mean(recall: float, precision: float) -> float:
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def group_counts(counts: Counts, groups: Sequence[str]) -> tuple[Counts, tuple[str, ...]]:
    """The confusion matrix between groups of classes, (G, G), and the groups in the order of their first class.

    Args:
        groups: of each class, for example its lineage.
    """
    names = tuple(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], dtype=np.int64)  # (G, C)
    return member @ counts @ member.T, names


def classification_metrics(
    counts: Counts, codes: Sequence[str], tolerated: Agreement, groups: Sequence[str], split: str
) -> list[Metric]:
    """All metrics of one set of pictures that need no probabilities.

    Args:
        counts: (C, C), confusion matrix over all classes.
        tolerated: (C, C), what the tolerant metrics count as correct.
        groups: the lineage of each class.
        split: description of the pictures; every metric carries it.
    """
    same = strict(len(codes))
    between, names = group_counts(counts, groups)
    of_lineages = strict(len(names))
    return [
        accuracy(counts, same, "accuracy", split),
        accuracy(counts, tolerated, "tolerant_accuracy", split),
        accuracy(between, of_lineages, "lineage_accuracy", split),
        *average_metrics(counts, same, split),
        *average_metrics(counts, tolerated, split, "tolerant_"),
        *average_metrics(between, of_lineages, split, "lineage_"),
        *_by_class(
            class_metrics(counts, same, codes, split), class_metrics(counts, tolerated, codes, split, "tolerant_")
        ),
    ]


def _by_class(*levels: list[Metric]) -> Iterator[Metric]:
    """The metrics class by class, all levels of a class together."""
    for code in dict.fromkeys(metric.code for level in levels for metric in level):
        yield from (metric for level in levels for metric in level if metric.code == code)
