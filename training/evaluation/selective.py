"""Selective classification: the risk-coverage curve (El-Yaniv and Wiener 2010; Geifman and El-Yaniv, arXiv 1705.08500).

A prediction is answered if its top probability reaches a threshold; a person reads the others. Coverage is the share
of pictures answered, risk the share of errors among them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.agreement.class_averages import Floats, Labels
from model.contract import Metric
from training.evaluation.metrics import Pictures

COVERAGES = (0.95, 0.9, 0.8)
RISK_LIMIT = 0.05


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """A point for every distinct threshold, from the highest (fewest answered) to the lowest (all answered).

    Pictures with the same probability are answered together or not at all.
    """

    thresholds: Floats  # (K,), falling; answered are probabilities of at least this
    answered: NDArray[np.int64]  # (K,), rising; the last is n
    wrong: NDArray[np.int64]  # (K,), errors among the answered

    @property
    def n(self) -> int:
        """Number of pictures."""
        return int(self.answered[-1])

    @property
    def coverage(self) -> Floats:
        """Share answered, (K,)."""
        return self.answered / self.n

    @property
    def risk(self) -> Floats:
        """Share of errors among the answered, (K,)."""
        return self.wrong / self.answered

    def at_coverage(self, share: float) -> int:
        """Index of the first point that answers at least this share."""
        return int(np.searchsorted(self.answered, share * self.n - 1e-9))

    def at_risk(self, limit: float) -> int | None:
        """Index of the point with the highest coverage at this risk or less; None if there is none."""
        within = np.flatnonzero(self.risk <= limit)
        return int(within[-1]) if len(within) else None

    def area(self) -> float:
        """Area under the curve (AURC): mean risk over 1 to n answers (arXiv 1805.08206, eq. 3).

        Errors among pictures of equal probability are spread evenly: the mean over all their orders.
        """
        answers = np.arange(1, self.n + 1)
        wrong = np.interp(answers, np.concatenate([[0], self.answered]), np.concatenate([[0], self.wrong]))
        return float((wrong / answers).mean())


def risk_coverage(confidence: Floats, correct: NDArray[np.bool_]) -> RiskCoverage:
    """The curve of top probabilities (N,) and correct predictions (N,).

    Raises:
        ValueError: N is 0.
    """
    if len(confidence) == 0:
        raise ValueError("a risk-coverage curve needs at least one picture")
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    wrong = np.cumsum(~correct[order], dtype=np.int64)
    ends = np.flatnonzero(np.append(sorted_confidence[1:] != sorted_confidence[:-1], True))
    return RiskCoverage(sorted_confidence[ends], ends + 1, wrong[ends])


def selective_metrics(
    labels: Labels, probabilities: Floats, split: str, patients: Labels | None = None
) -> list[Metric]:
    """Accuracy and threshold at 95, 90 and 80 % coverage, coverage at 5 % risk, and AURC.

    Coverage at 5 % risk is given twice: on the pictures that the threshold was chosen on, which is optimistic, and
    cross-validated (`cross_`) with the threshold of the other half of the pictures.

    Args:
        patients: (N,), number of the patient of each picture; None: patients are not known.
    """
    pictures = Pictures(labels, probabilities.argmax(axis=1), patients)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    curve = risk_coverage(confidence, correct)
    metrics = []
    for share in COVERAGES:
        at, name = curve.at_coverage(share), f"{share * 100:.0f}_coverage"
        metrics += [
            pictures.metric(f"accuracy_at_{name}", correct, confidence >= curve.thresholds[at], split),
            _metric(f"threshold_at_{name}", float(curve.thresholds[at]), curve.n, split),
        ]
    limit = f"{RISK_LIMIT * 100:.0f}_risk"
    at_limit = curve.at_risk(RISK_LIMIT)
    answered = 0 if at_limit is None else int(curve.answered[at_limit])
    metrics.append(_metric(f"coverage_at_{limit}", answered / curve.n, curve.n, split))
    if at_limit is not None:
        metrics.append(_metric(f"threshold_at_{limit}", float(curve.thresholds[at_limit]), curve.n, split))
    metrics += _cross_validated(pictures, confidence, limit, split)
    metrics.append(_metric("aurc", curve.area(), curve.n, split))
    return metrics


def _cross_validated(pictures: Pictures, confidence: Floats, limit: str, split: str) -> list[Metric]:
    """Coverage and accuracy if each half of the pictures uses the 5 % risk threshold of the other half."""
    correct, first = pictures.predicted == pictures.labels, first_half(pictures.labels)
    answered = np.zeros(len(correct), np.bool_)
    for chosen_on in (first, ~first):
        if not chosen_on.any() or chosen_on.all():
            continue
        curve = risk_coverage(confidence[chosen_on], correct[chosen_on])
        at = curve.at_risk(RISK_LIMIT)
        if at is not None:
            answered |= ~chosen_on & (confidence >= curve.thresholds[at])
    everything = np.ones(len(correct), np.bool_)
    return [
        pictures.metric(f"cross_coverage_at_{limit}", answered, everything, split),
        pictures.metric(f"cross_accuracy_at_{limit}", correct, answered, split),
    ]


def first_half(labels: Labels) -> NDArray[np.bool_]:
    """A mask (N,) of the first half of each class in the given order.

    If pictures are in file order and file names follow patients, most patients are in one half. In Matek 2021 they do
    not (`marrowlens-train file-order`): there the halves are random in effect, and a patient may be in both.
    """
    first = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        first[rows[: len(rows) // 2]] = True
    return first


def _metric(name: str, value: float, n: int, split: str) -> Metric:
    return Metric(name=name, value=value, n=n, split=split)
