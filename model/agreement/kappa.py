"""Cohen's kappa: agreement of two readings beyond what their class frequencies give by chance (Cohen 1960)."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from model.agreement.proportion import Interval

Counts = NDArray[np.int64]  # (…, C, C), one reading in rows, the other in columns
Floats = NDArray[np.float64]

DRAWS = 2000
#: Largest kappa whose inverse hyperbolic tangent is taken.
NEARLY_ONE = 0.999


def cohen_kappa(counts: Counts | Floats) -> Floats:
    """Kappa, (…), of counts or shares; NaN where both readings name one and the same class throughout, and for no cell.

    Cohen 1960, doi 10.1177/001316446002000104, eq. 1.
    """
    total = counts.sum(axis=(-2, -1))
    observed = np.trace(counts, axis1=-2, axis2=-1)
    by_chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = (total * observed - by_chance) / (total * total - by_chance)
    return found


def kappa_interval(counts: Counts) -> Interval | None:
    """95 % interval of kappa over all clusters; None where kappa is not defined.

    The wider of the credible interval under a Dirichlet posterior over the table, which has a width at full agreement
    too, and the interval of a jackknife over clusters (Efron and Tibshirani 1993, chapter 11), with Student's t of
    G - 1 degrees of freedom, on the scale of the inverse hyperbolic tangent. A bootstrap of few clusters is too narrow.

    Args:
        counts: (G, C, C), of each cluster (patient).
    """
    counts = _occurring(counts)
    if counts.shape[-1] < 2:
        return None
    intervals = [_posterior(counts.sum(axis=0)), _jackknife(counts) if len(counts) > 1 else None]
    found = [each for each in intervals if each is not None]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def _posterior(counts: Counts) -> Interval | None:
    cells = counts.reshape(-1)
    drawn = np.random.default_rng(0).dirichlet(cells + 1 / len(cells), DRAWS)
    kappas = cohen_kappa(drawn.reshape(DRAWS, *counts.shape))
    defined = kappas[~np.isnan(kappas)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _jackknife(counts: Counts) -> Interval | None:
    """None if kappa is not defined for all clusters together, or without one of them."""
    total = counts.sum(axis=0)
    kappas = np.stack([cohen_kappa(total), *cohen_kappa(total - counts)])
    if np.isnan(kappas).any():
        return None
    value, *others = np.arctanh(np.clip(kappas, -NEARLY_ONE, NEARLY_ONE))
    clusters = len(others)
    half_width = t.ppf(0.975, clusters - 1) * np.sqrt((clusters - 1) * np.var(others))
    low, high = np.tanh([value - half_width, value + half_width])
    return float(low), float(high)


def _occurring(counts: Counts) -> Counts:
    """The tables without classes that occur in neither reading."""
    total = counts.sum(axis=0)
    occurs = (total.sum(axis=0) + total.sum(axis=1)) > 0
    return counts[:, occurs][:, :, occurs]


def one_class(counts: Counts, at: int) -> Counts:
    """The two-by-two table (…, 2, 2) of one class against all others."""
    both = counts[..., at, at]
    row, column = counts[..., at, :].sum(axis=-1), counts[..., :, at].sum(axis=-1)
    neither = counts.sum(axis=(-2, -1)) - row - column + both
    return np.stack([np.stack([both, row - both], axis=-1), np.stack([column - both, neither], axis=-1)], axis=-2)
