"""Temperature scaling and calibration error (Guo et al. 2017, arXiv 1706.04599)."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax

from model.agreement.calibration import chance_ece, expected_calibration_error
from model.agreement.class_averages import Floats, Labels
from model.agreement.clustered import effective_share
from model.agreement.proportion import Interval
from model.contract import Metric

Logits = NDArray[np.float32]
Temperatures = NDArray[np.float64] | float  # (N,) or one for all

#: Search range. A temperature at its ends means that the calibration block does not determine one.
TEMPERATURE_BOUNDS = (0.1, 10.0)
MIN_GAIN_NATS = 1e-6
#: Half the 95 % quantile of chi-squared with one degree of freedom.
MAX_FALL_NATS = 1.92


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


def temperature_interval(
    logits: Logits, labels: Labels, temperature: float, patients: Labels | None = None
) -> Interval:
    """The 95 % profile-likelihood interval of a fitted temperature: where the log likelihood falls by 1.92.

    Where patients are known, it may fall by 1.92 times the design effect (as of a composite likelihood: Rotnitzky and
    Jewell 1990, doi 10.1093/biomet/77.3.485). It ends at the search range where the pictures do not bound it.

    Args:
        patients: (N,), number of the patient of each picture; None: patients are not known.
    """
    share = 1.0 if patients is None else effective_share(_slopes(logits, labels, temperature), patients)
    if not share:
        return TEMPERATURE_BOUNDS

    def fall(log_t: float) -> float:
        return float(nll(logits, labels, np.exp(log_t)).sum() - least) - MAX_FALL_NATS / share

    least = float(nll(logits, labels, temperature).sum())
    at = np.log(temperature)
    bounds = np.log(TEMPERATURE_BOUNDS)
    ends = (brentq(fall, *sorted((bound, at))) if fall(bound) > 0 else bound for bound in bounds)
    low, high = (float(np.exp(end)) for end in ends)
    return low, high


def _slopes(logits: Logits, labels: Labels, temperature: float) -> Floats:
    """Derivative of each picture's negative log likelihood by log T, (N,), relative to the mean."""
    probabilities = np.exp(log_probabilities(logits, temperature))
    expected = (probabilities * logits).sum(axis=1)
    slopes: Floats = (logits[np.arange(len(labels)), labels] - expected) / temperature
    return slopes - slopes.mean()


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


def calibration_metrics(
    logits: Logits, labels: Labels, temperature: Temperatures, split: str, patients: Labels | None = None
) -> list[Metric]:
    """NLL, Brier score and ECE before and after temperature scaling, and the ECE expected by chance.

    Args:
        logits: (N, C), before temperature scaling.
        temperature: one for all, or that of each picture's fold, (N,).
        patients: (N,), number of the patient of each picture; None: patients are not known.
    """
    n, metrics = len(labels), []
    for suffix, t in (("", temperature), ("_before_temperature", 1.0)):
        probabilities = np.exp(log_probabilities(logits, t))
        ece = expected_calibration_error(labels, probabilities)
        metrics += [
            _mean(f"nll{suffix}", nll(logits, labels, t), split, patients),
            _mean(f"brier{suffix}", brier_scores(probabilities, labels), split, patients),
            Metric(name=f"ece{suffix}", value=ece, n=n, split=split),
        ]
        if not suffix:
            chance = chance_ece(probabilities.max(axis=1))
            low, high = np.quantile(chance, [0.025, 0.975])
            metrics.append(Metric(name="ece_by_chance", value=chance.mean(), low=low, high=high, n=n, split=split))
    return metrics


def _mean(name: str, values: Floats, split: str, patients: Labels | None) -> Metric:
    """The mean with its 95 % interval from the standard error; no interval for one picture, or pictures of one patient.

    Where patients are known, the standard error is that of an effective number of pictures.
    """
    n, value = len(values), float(values.mean())
    share = 1.0 if patients is None else effective_share(values - value, patients)
    if n < 2 or not share:
        return Metric(name=name, value=value, n=n, split=split)
    half_width = 1.96 * float(values.std(ddof=1)) / (n * share) ** 0.5
    return Metric(name=name, value=value, low=max(value - half_width, 0.0), high=value + half_width, n=n, split=split)
