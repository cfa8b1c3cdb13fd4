"""What is gained when the model answers only where it is sure: risk against coverage.

Knows top probabilities and whether each answer was right. Knows no classes, no network and no files.

Selective classification (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017, arXiv 1705.08500): answers below a
threshold of the top probability go to a person. Coverage is the share that is answered, risk the share of errors in it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.contract import Metric
from training.evaluation.metrics import Floats, Labels, proportion

COVERAGES = (0.95, 0.9, 0.8)
RISK_LIMIT = 0.05


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """One point for every threshold that tells pictures apart, from the surest answer to all answers.

    Pictures of the same probability are answered together or not at all: no threshold parts them.
    """

    thresholds: Floats  # (K,), falling: answered are the probabilities of at least this
    answered: NDArray[np.int64]  # (K,), rising; the last is n
    wrong: NDArray[np.int64]  # (K,), of those answered

    @property
    def n(self) -> int:
        """Pictures in all."""
        return int(self.answered[-1])

    @property
    def coverage(self) -> Floats:
        """Share that is answered, (K,)."""
        return self.answered / self.n

    @property
    def risk(self) -> Floats:
        """Share of errors among those answered, (K,)."""
        return self.wrong / self.answered

    def at_coverage(self, share: float) -> int:
        """The first point that answers at least this share."""
        return int(np.searchsorted(self.answered, share * self.n - 1e-9))

    def at_risk(self, limit: float) -> int | None:
        """The point that answers most at no more than this risk; None where there is none."""
        within = np.flatnonzero(self.risk <= limit)
        return int(within[-1]) if len(within) else None

    def area(self) -> float:
        """Area under the curve: the mean risk over all numbers of answers, 1 to n (arXiv 1805.08206, eq. 3).

        Within pictures of one probability the errors are spread evenly, which is their mean over all orders.
        """
        answers = np.arange(1, self.n + 1)
        wrong = np.interp(answers, np.concatenate([[0], self.answered]), np.concatenate([[0], self.wrong]))
        return float((wrong / answers).mean())


def risk_coverage(confidence: Floats, correct: NDArray[np.bool_]) -> RiskCoverage:
    """The curve of top probabilities (N,) and of which answers are right (N,).

    Raises:
        ValueError: there is no picture.
    """
    if len(confidence) == 0:
        raise ValueError("no picture, no risk")
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    wrong = np.cumsum(~correct[order], dtype=np.int64)
    ends = np.flatnonzero(np.append(sorted_confidence[1:] != sorted_confidence[:-1], True))
    return RiskCoverage(sorted_confidence[ends], ends + 1, wrong[ends])


def measure_selective(labels: Labels, probabilities: Floats, split: str) -> list[Metric]:
    """Accuracy and threshold at 95, 90 and 80 % coverage, area, and what a risk of 5 % leaves answered.

    The coverages at 5 % risk come twice: on the pictures that the threshold was chosen on, which flatters it, and
    `cross_` with the threshold of the other half (see `_halves`).
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    curve = risk_coverage(confidence, correct)
    metrics = []
    for share in COVERAGES:
        at, name = curve.at_coverage(share), f"{share * 100:.0f}_coverage"
        answered = int(curve.answered[at])
        metrics += [
            proportion(f"accuracy_at_{name}", answered - int(curve.wrong[at]), answered, split),
            _plain(f"threshold_at_{name}", float(curve.thresholds[at]), curve.n, split),
        ]
    limit = f"{RISK_LIMIT * 100:.0f}_risk"
    at_limit = curve.at_risk(RISK_LIMIT)
    answered = 0 if at_limit is None else int(curve.answered[at_limit])
    metrics.append(_plain(f"coverage_at_{limit}", answered / curve.n, curve.n, split))
    if at_limit is not None:
        metrics.append(_plain(f"threshold_at_{limit}", float(curve.thresholds[at_limit]), curve.n, split))
    metrics += [
        *_crossed(labels, confidence, correct, limit, split),
        _plain("aurc", curve.area(), curve.n, split),
    ]
    return metrics


def _crossed(labels: Labels, confidence: Floats, correct: NDArray[np.bool_], limit: str, split: str) -> list[Metric]:
    """What the threshold for 5 % risk, chosen on one half, answers of the other, and how much of that is right."""
    first = _halves(labels)
    answered, right = 0, 0
    for here in (first, ~first):
        if not here.any() or here.all():
            continue
        curve = risk_coverage(confidence[here], correct[here])
        at = curve.at_risk(RISK_LIMIT)
        if at is not None:
            sure = ~here & (confidence >= curve.thresholds[at])
            answered, right = answered + int(sure.sum()), right + int((sure & correct).sum())
    return [
        proportion(f"cross_coverage_at_{limit}", answered, len(labels), split),
        proportion(f"cross_accuracy_at_{limit}", right, answered, split),
    ]


def _halves(labels: Labels) -> NDArray[np.bool_]:
    """The first half of each class in the order given, (N,): neighbouring files, often one patient's, stay together."""
    first = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        first[rows[: len(rows) // 2]] = True
    return first


def _plain(name: str, value: float, n: int, split: str) -> Metric:
    return Metric(name=name, value=value, n=n, split=split)
