"""Calibration error of probabilities: bins of the top probability, and what chance alone gives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

ECE_BINS = 15
CHANCE_DRAWS = 400


@dataclass(frozen=True, slots=True)
class Reliability:
    """Pictures in 15 equal bins of the top probability."""

    n: NDArray[np.int64]  # (15,), pictures
    hits: NDArray[np.int64]  # (15,), correct predictions
    confidence: Floats  # (15,), mean top probability; 0 in an empty bin

    @property
    def ece(self) -> float:
        """Expected calibration error (arXiv 1706.04599, eq. 3)."""
        return float(np.abs(self.hits - self.confidence * self.n).sum() / self.n.sum())


def reliability(confidence: Floats, correct: NDArray[np.bool_]) -> Reliability:
    """Pictures and correct predictions in bins of the top probability.

    Args:
        confidence: (N,), top probability.
        correct: (N,), whether the prediction is the label.
    """
    bins = bins_of(confidence)
    n = np.bincount(bins, minlength=ECE_BINS)
    hits = np.bincount(bins[correct], minlength=ECE_BINS)
    return Reliability(n, hits, np.bincount(bins, confidence, ECE_BINS) / np.maximum(n, 1))


def bins_of(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each top probability, (N,)."""
    return np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)


def expected_calibration_error(labels: Labels, probabilities: Floats) -> float:
    """ECE in 15 equal bins of the top probability.

    It has no interval: it is biased upwards, and more so when resampled, so a bootstrap interval may not contain it.
    Compare it with `chance_ece`.
    """
    return reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels).ece


def chance_ece(confidence: Floats) -> Floats:
    """ECE of a perfectly calibrated model with these top probabilities, in 400 random draws of the correct predictions.

    Consistency resampling (Bröcker and Smith 2007, doi 10.1175/WAF993.1). A measured ECE below the upper end of these
    draws shows no miscalibration. With n pictures no model can be expected to reach 0.
    """
    bins = bins_of(confidence)
    n = np.bincount(bins, minlength=ECE_BINS)
    expected = np.bincount(bins, confidence, ECE_BINS)
    generator = np.random.default_rng(0)
    eces = np.empty(CHANCE_DRAWS)
    for draw in range(CHANCE_DRAWS):
        hits = np.bincount(bins[generator.random(len(bins)) < confidence], minlength=ECE_BINS)
        eces[draw] = np.abs(hits - expected).sum() / n.sum()
    return eces
