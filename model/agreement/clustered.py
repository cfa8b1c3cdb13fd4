"""Proportions of cells that come in clusters: cells of one patient are more alike than cells of many."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from model.agreement.proportion import wilson

Labels = NDArray[np.int64]
#: Degrees of freedom that a single cluster has, up to rounding.
_NO_FREEDOM = 1e-9


class Proportion(NamedTuple):
    """A share of n cells with its interval, 95 % by default; the share is None if n is 0."""

    hits: int
    n: int
    share: float | None
    low: float
    high: float
    clusters: int | None  # patients of these cells; None: unknown, cells taken as independent


def proportion(hits: NDArray[np.bool_], clusters: Labels | None = None, confidence: float = 0.95) -> Proportion:
    """The share of hits with its Wilson interval.

    With clusters, the interval is that of an effective sample size: n divided by the design effect (Rao and Scott
    1992, doi 10.2307/2532311) and, for few clusters, by the square of t over z (Korn and Graubard 1998, Survey
    Methodology 24:193), with the effective number of clusters of unequal sizes (Kish). It is never more than n. If all
    cells are hits or none is, no variation between clusters can be seen, and the effective size falls by t over z
    only. One cluster says nothing about others: the interval is 0 to 1.

    Args:
        hits: (n,).
        clusters: (n,), number of the patient of each cell; None: patients are not known.
    """
    count, n = int(hits.sum()), len(hits)
    if not n:
        return Proportion(0, 0, None, 0.0, 1.0, None if clusters is None else 0)
    share = count / n
    if clusters is None:
        effective, found = float(n), None
    else:
        found = len(np.unique(clusters))
        effective = _effective_size(hits, clusters, confidence) if found > 1 else 0.0
    low, high = wilson(share * effective, effective, confidence)
    return Proportion(count, n, share, min(low, share), max(high, share), found)


def _effective_size(hits: NDArray[np.bool_], clusters: Labels, confidence: float) -> float:
    """The effective sample size of at least two clusters."""
    return len(hits) * effective_share(hits - hits.mean(), clusters, confidence=confidence)


def effective_share(
    influence: NDArray[np.float64],
    clusters: Labels,
    counted: NDArray[np.bool_] | None = None,
    confidence: float = 0.95,
) -> float:
    """How many independent cells a cell stands for, from 0 to 1: 1 / (design effect), and for few clusters less.

    Args:
        influence: (n,), of each cell on a figure; they sum to 0, and the sum of their squares is the variance of the
            figure if cells are independent, up to a factor.
        clusters: (n,), number of the patient of each cell.
        counted: (n,), the cells whose clusters are counted; None: all. If they are of one cluster, the share is 0.
    """
    _, rows = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(rows if counted is None else rows[counted])
    freedom, end = sizes.sum() ** 2 / (sizes**2).sum() - 1, (1 + confidence) / 2
    if freedom <= _NO_FREEDOM:
        return 0.0
    count, simple = int(rows.max()) + 1, (influence**2).sum()
    variance = count / (count - 1) * (np.bincount(rows, weights=influence) ** 2).sum()  # Cochran 1977, eq. 6.13
    effect = max(1.0, variance / simple) if simple else 1.0
    return float((norm.ppf(end) / t.ppf(end, freedom)) ** 2 / effect)
