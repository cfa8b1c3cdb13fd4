"""How far the probabilities can be believed: the temperature, what it mends, and by how much chance alone would err.

Knows logits and labels. Knows no network, no files and no classes' names.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from model.contract import Metric
from training.evaluation.metrics import Floats, Labels

Logits = NDArray[np.float32]
Temperatures = NDArray[np.float64] | float  # (N,) or one for all

#: Outside of these a temperature says that the calibration block does not determine it.
TEMPERATURE_BOUNDS = (0.1, 10.0)
NO_GAIN_NATS = 1e-6
ECE_BINS = 15
CHANCE_DRAWS = 400


def fit_temperature(logits: Logits, labels: Labels) -> float | None:
    """The T that minimises the negative log likelihood of softmax(logits / T) (arXiv 1706.04599, section 4.2).

    None where a bound is as good: pictures that are all right, for one, are the better the lower it is.

    Raises:
        ValueError: there are no labels to fit it on.
    """
    if len(labels) == 0:
        raise ValueError("no calibration picture shows the tissue that the model is for: no temperature can be fitted")

    def loss(log_t: float) -> float:
        return float(losses(logits, labels, np.exp(log_t)).mean())

    bounds = np.log(TEMPERATURE_BOUNDS)
    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    at_bounds = min(loss(bound) for bound in bounds)
    return float(np.exp(found.x)) if found.fun < at_bounds - NO_GAIN_NATS else None


def log_probabilities(logits: Logits, temperature: Temperatures) -> Floats:
    """log softmax(logits / T), (N, C)."""
    return log_softmax(logits.astype(np.float64) / np.broadcast_to(temperature, len(logits))[:, None], axis=1)


def losses(logits: Logits, labels: Labels, temperature: Temperatures) -> Floats:
    """The negative log likelihood of each picture's label, (N,), in nats."""
    return -log_probabilities(logits, temperature)[np.arange(len(labels)), labels]


def brier_scores(probabilities: Floats, labels: Labels) -> Floats:
    """The Brier score of each picture, (N,): squared distance to the label over all classes, 0 to 2 (Brier 1950)."""
    true = np.zeros_like(probabilities)
    true[np.arange(len(labels)), labels] = 1
    return ((probabilities - true) ** 2).sum(axis=1)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Pictures by their top probability, in 15 equal bins; empty bins have n = 0."""

    n: NDArray[np.int64]  # (15,)
    hits: NDArray[np.int64]  # (15,)
    confidence: Floats  # (15,), mean top probability of a bin; 0 where it is empty

    @property
    def ece(self) -> float:
        """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
        return float(np.abs(self.hits - self.confidence * self.n).sum() / self.n.sum())


def bins_of(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each top probability, (N,)."""
    return np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)


def reliability(confidence: Floats, correct: NDArray[np.bool_]) -> Reliability:
    """Bin pictures by top probability (N,) and count how many of each bin are right."""
    bins = bins_of(confidence)
    n = np.bincount(bins, minlength=ECE_BINS)
    hits = np.bincount(bins[correct], minlength=ECE_BINS)
    return Reliability(n, hits, np.bincount(bins, confidence, ECE_BINS) / np.maximum(n, 1))


def expected_calibration_error(labels: Labels, probabilities: Floats) -> float:
    """ECE in 15 equal bins of the top probability.

    It stands without an interval: it is biased upwards, resampled still more, so that a bootstrap need not even cover
    it. What to hold it against is `chance_of_error`.
    """
    return reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels).ece


def chance_of_error(confidence: Floats) -> Floats:
    """The ECE of a perfectly calibrated model with these top probabilities, in 400 draws of which answers are right.

    Consistency resampling (Bröcker and Smith 2007, doi 10.1175/WAF993.1): below the upper end of these, a measured ECE
    does not show that anything is wrong, and no model of that n can be expected to reach 0.
    """
    bins = bins_of(confidence)
    n = np.bincount(bins, minlength=ECE_BINS)
    expected = np.bincount(bins, confidence, ECE_BINS)
    generator = np.random.default_rng(0)
    found = np.empty(CHANCE_DRAWS)
    for draw in range(CHANCE_DRAWS):
        hits = np.bincount(bins[generator.random(len(bins)) < confidence], minlength=ECE_BINS)
        found[draw] = np.abs(hits - expected).sum() / n.sum()
    return found


def measure_calibration(logits: Logits, labels: Labels, temperature: Temperatures, split: str) -> list[Metric]:
    """Loss, Brier score and ECE before and after the temperature, and the ECE that chance alone would give.

    Args:
        logits: (N, C), before the temperature.
        temperature: one for all, or that of each picture's fold, (N,).
    """
    metrics = []
    for suffix, t in (("", temperature), ("_before_temperature", 1.0)):
        probabilities = np.exp(log_probabilities(logits, t))
        metrics += [
            _mean(f"nll{suffix}", losses(logits, labels, t), split),
            _mean(f"brier{suffix}", brier_scores(probabilities, labels), split),
            Metric(
                name=f"ece{suffix}", value=expected_calibration_error(labels, probabilities), n=len(labels), split=split
            ),
        ]
        if not suffix:
            chance = chance_of_error(probabilities.max(axis=1))
            low, high = np.quantile(chance, [0.025, 0.975])
            metrics.append(
                Metric(name="ece_by_chance", value=chance.mean(), low=low, high=high, n=len(labels), split=split)
            )
    return metrics


def _mean(name: str, values: Floats, split: str) -> Metric:
    """A mean with its 95 % interval from the standard error (no interval from a single picture)."""
    n, value = len(values), float(values.mean())
    if n < 2:
        return Metric(name=name, value=value, n=n, split=split)
    half = 1.96 * float(values.std(ddof=1)) / n**0.5
    return Metric(name=name, value=value, low=max(value - half, 0.0), high=value + half, n=n, split=split)
