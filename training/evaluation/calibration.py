"""Temperature scaling and calibration error (Guo et al. 2017, arXiv 1706.04599)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from model.contract import Metric
from training.evaluation.metrics import Floats, Labels

Logits = NDArray[np.float32]
Temperatures = NDArray[np.float64] | float  # (N,) or one for all

#: Search range. A temperature at its ends means that the calibration block does not determine one.
TEMPERATURE_BOUNDS = (0.1, 10.0)
MIN_GAIN_NATS = 1e-6
ECE_BINS = 15
CHANCE_DRAWS = 400


def fit_temperature(logits: Logits, labels: Labels) -> float | None:
    """The temperature T that minimises the negative log likelihood of softmax(logits / T) (section 4.2).

    Returns:
        None if an end of the search range is as good: without a wrong prediction, for example, lower is always better.

    Raises:
        ValueError: there are no labels.
    """
    if len(labels) == 0:
        raise ValueError(
            "no calibration picture shows the intended tissue (card.tissue): the temperature cannot be fitted"
        )

    def mean_loss(log_t: float) -> float:
        return float(nll(logits, labels, np.exp(log_t)).mean())

    bounds = np.log(TEMPERATURE_BOUNDS)
    optimum = minimize_scalar(mean_loss, bounds=bounds, method="bounded")
    at_bounds = min(mean_loss(bound) for bound in bounds)
    return float(np.exp(optimum.x)) if optimum.fun < at_bounds - MIN_GAIN_NATS else None


def log_probabilities(logits: Logits, temperature: Temperatures) -> Floats:
    """log softmax(logits / T), (N, C)."""
    return log_softmax(logits.astype(np.float64) / np.broadcast_to(temperature, len(logits))[:, None], axis=1)


def nll(logits: Logits, labels: Labels, temperature: Temperatures) -> Floats:
    """Negative log likelihood of each picture's label, (N,), in nats."""
    return -log_probabilities(logits, temperature)[np.arange(len(labels)), labels]


def brier_scores(probabilities: Floats, labels: Labels) -> Floats:
    """Brier score of each picture, (N,): squared distance to the one-hot label, 0 to 2 (Brier 1950)."""
    one_hot = np.zeros_like(probabilities)
    one_hot[np.arange(len(labels)), labels] = 1
    return ((probabilities - one_hot) ** 2).sum(axis=1)


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
    bins = _bins(confidence)
    n = np.bincount(bins, minlength=ECE_BINS)
    hits = np.bincount(bins[correct], minlength=ECE_BINS)
    return Reliability(n, hits, np.bincount(bins, confidence, ECE_BINS) / np.maximum(n, 1))


def _bins(confidence: Floats) -> NDArray[np.int64]:
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
    bins = _bins(confidence)
    n = np.bincount(bins, minlength=ECE_BINS)
    expected = np.bincount(bins, confidence, ECE_BINS)
    generator = np.random.default_rng(0)
    eces = np.empty(CHANCE_DRAWS)
    for draw in range(CHANCE_DRAWS):
        hits = np.bincount(bins[generator.random(len(bins)) < confidence], minlength=ECE_BINS)
        eces[draw] = np.abs(hits - expected).sum() / n.sum()
    return eces


def calibration_metrics(logits: Logits, labels: Labels, temperature: Temperatures, split: str) -> list[Metric]:
    """NLL, Brier score and ECE before and after temperature scaling, and the ECE expected by chance.

    Args:
        logits: (N, C), before temperature scaling.
        temperature: one for all, or that of each picture's fold, (N,).
    """
    n, metrics = len(labels), []
    for suffix, t in (("", temperature), ("_before_temperature", 1.0)):
        probabilities = np.exp(log_probabilities(logits, t))
        ece = expected_calibration_error(labels, probabilities)
        metrics += [
            _mean(f"nll{suffix}", nll(logits, labels, t), split),
            _mean(f"brier{suffix}", brier_scores(probabilities, labels), split),
            Metric(name=f"ece{suffix}", value=ece, n=n, split=split),
        ]
        if not suffix:
            chance = chance_ece(probabilities.max(axis=1))
            low, high = np.quantile(chance, [0.025, 0.975])
            metrics.append(Metric(name="ece_by_chance", value=chance.mean(), low=low, high=high, n=n, split=split))
    return metrics


def _mean(name: str, values: Floats, split: str) -> Metric:
    """The mean with its 95 % interval from the standard error; no interval for a single picture."""
    n, value = len(values), float(values.mean())
    if n < 2:
        return Metric(name=name, value=value, n=n, split=split)
    half_width = 1.96 * float(values.std(ddof=1)) / n**0.5
    return Metric(name=name, value=value, low=max(value - half_width, 0.0), high=value + half_width, n=n, split=split)
