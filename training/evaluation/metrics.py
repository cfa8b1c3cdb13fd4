"""Classification metrics with n and 95 % intervals at three levels: strict, tolerant and lineage.

Strict: only the class itself is correct. Tolerant: a neighbouring stage of maturation is correct too. Lineage: another
class of the same lineage is correct too. Readers agree better on lineages than on stages (Parmentier et al. 2020,
PMC7683448), and stages are cuts in a continuum, so all three levels are reported.

Averages over classes are computed from a confusion matrix and an agreement matrix: one formula serves all levels and
all draws of the matrix (model/agreement/class_averages.py). Tests compare the strict level with scikit-learn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.agreement import clustered
from model.agreement.class_averages import (
    Agreement,
    Counts,
    DrawnCounts,
    Floats,
    Labels,
    balanced_accuracy,
    draw_counts,
    macro_f1,
    weighted_f1,
)
from model.agreement.clustered import Proportion
from model.contract import CellClass, Metric

Matrices = TypeVar("Matrices", Counts, Floats)  # (…, C, C), confusion matrices
#: Name of a metric → the average over classes.
AVERAGES = {"macro_f1": macro_f1, "weighted_f1": weighted_f1, "balanced_accuracy": balanced_accuracy}


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


def confusion_matrix(labels: Labels, predicted: Labels, classes: int) -> Counts:
    """The confusion matrix (C, C) as counts; rows true, columns predicted."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


@dataclass(frozen=True, slots=True)
class Pictures:
    """Labels and predictions of N pictures."""

    labels: Labels  # (N,)
    predicted: Labels  # (N,)
    patients: Labels | None = None  # (N,), number of each picture's patient; None: unknown

    def proportion(self, hits: NDArray[np.bool_], among: NDArray[np.bool_], confidence: float = 0.95) -> Proportion:
        """The share of hits among some of the pictures; its interval accounts for patients."""
        patients = None if self.patients is None else self.patients[among]
        return clustered.proportion(hits[among], patients, confidence)

    def metric(
        self, name: str, hits: NDArray[np.bool_], among: NDArray[np.bool_], split: str, code: str | None = None
    ) -> Metric:
        """A share as a metric; that of nothing is 0 with the interval 0 to 1."""
        found = self.proportion(hits, among)
        low, high, value = found.low, found.high, found.share or 0.0
        return Metric(name=name, code=code, value=value, low=low, high=high, n=found.n, split=split)


def average_metrics(drawn: DrawnCounts, agreement: Agreement, split: str, level: str = "") -> list[Metric]:
    """Macro F1, weighted F1 and balanced accuracy (macro recall) over the classes that occur, with their intervals.

    Args:
        level: prefix of each metric's name.
    """
    metrics = []
    for name, average in AVERAGES.items():
        found = drawn.figure(partial(average, agreement=agreement))
        low, high = found.interval()
        n = int(drawn.counts.sum())
        metrics.append(Metric(name=level + name, value=found.value, low=low, high=high, n=n, split=split))
    return metrics


def class_metrics(
    pictures: Pictures, agreement: Agreement, codes: Sequence[str], split: str, level: str = ""
) -> list[Metric]:
    """Recall, precision and F1 of every class that occurs, each with its own n and interval."""
    correct = agreement[pictures.labels, pictures.predicted]
    metrics = []
    for at in np.unique(pictures.labels).tolist():
        labelled, predicted = pictures.labels == at, pictures.predicted == at
        metrics += [
            pictures.metric(f"{level}recall", correct, labelled, split, codes[at]),
            pictures.metric(f"{level}precision", correct, predicted, split, codes[at]),
            _f1(pictures, correct, (labelled, predicted), f"{level}f1", codes[at], split),
        ]
    return metrics


def _f1(
    pictures: Pictures,
    correct: NDArray[np.bool_],
    of_class: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    name: str,
    code: str,
    split: str,
) -> Metric:
    """F1 of one class, with its interval.

    If recall and precision have the same hits, F1 = 2J / (1 + J) with J = hits / (labelled or predicted as the class).
    J is a proportion, so its Wilson interval carries over (Hand, Christen and Kirielle 2021, arXiv 2008.00103).
    Otherwise (tolerant level): F1 grows with recall and with precision, so the ends of their 97.5 % intervals bound it
    at 95 % (Bonferroni).

    Args:
        of_class: masks of the pictures labelled and of those predicted as the class.
    """
    labelled, predicted = of_class
    both, either = labelled & predicted, labelled | predicted
    recall, precision = (pictures.proportion(correct, among, 0.975) for among in of_class)
    if recall.hits == precision.hits == both.sum():
        jaccard = pictures.proportion(both, either)
        low, high = (2 * end / (1 + end) for end in (jaccard.low, jaccard.high))
    else:
        low, high = _harmonic_mean(recall.low, precision.low), _harmonic_mean(recall.high, precision.high)
    value, n = _harmonic_mean(recall.share or 0.0, precision.share or 0.0), int(either.sum())
    return Metric(name=name, code=code, value=value, low=min(low, value), high=max(high, value), n=n, split=split)


def _harmonic_mean(recall: float, precision: float) -> float:
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def group_counts(counts: Matrices, groups: Sequence[str]) -> tuple[Matrices, tuple[str, ...]]:
    """The confusion matrix between groups of classes, (…, G, G), and the groups in the order of their first class.

    Args:
        groups: of each class, for example its lineage.
    """
    names = tuple(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], dtype=np.int64)  # (G, C)
    return member @ counts @ member.T, names


def classification_metrics(
    pictures: Pictures, codes: Sequence[str], tolerated: Agreement, groups: Sequence[str], split: str
) -> list[Metric]:
    """All metrics of one set of pictures that need no probabilities.

    Args:
        tolerated: (C, C), what the tolerant metrics count as correct.
        groups: the lineage of each class.
        split: description of the pictures; every metric carries it.
    """
    same, everything = strict(len(codes)), np.ones(len(pictures.labels), np.bool_)
    drawn = draw_counts(pictures.labels, pictures.predicted, len(codes), pictures.patients)
    between = _grouped(drawn, groups)
    of_lineages = strict(between.counts.shape[-1])
    lineage = np.array([[one == other for other in groups] for one in groups])
    levels = {"accuracy": same, "tolerant_accuracy": tolerated, "lineage_accuracy": lineage}
    right = {name: level[pictures.labels, pictures.predicted] for name, level in levels.items()}
    return [
        *(pictures.metric(name, hits, everything, split) for name, hits in right.items()),
        *average_metrics(drawn, same, split),
        *average_metrics(drawn, tolerated, split, "tolerant_"),
        *average_metrics(between, of_lineages, split, "lineage_"),
        *_by_class(
            class_metrics(pictures, same, codes, split), class_metrics(pictures, tolerated, codes, split, "tolerant_")
        ),
    ]


def _grouped(drawn: DrawnCounts, groups: Sequence[str]) -> DrawnCounts:
    """The matrix and its draws between groups of classes."""
    patients = None if drawn.of_patients is None else group_counts(drawn.of_patients, groups)[0]
    between, of_pictures = group_counts(drawn.counts, groups)[0], group_counts(drawn.of_pictures, groups)[0]
    return DrawnCounts(between, of_pictures, patients, drawn.widening)


def _by_class(*levels: list[Metric]) -> Iterator[Metric]:
    """The metrics class by class, all levels of a class together."""
    for code in dict.fromkeys(metric.code for level in levels for metric in level):
        yield from (metric for level in levels for metric in level if metric.code == code)
