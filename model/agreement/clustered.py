"""Proportions of cells that come in clusters: cells of one patient are more alike than cells of many."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from model.agreement.proportion import wilson

Labels = NDArray[np.int64]


class Proportion(NamedTuple):
    """A share of n cells with its interval, 95 % by default; the share is None if n is 0."""

    hits: int
    n: int
    share: float | None
    low: float
    high: float
    clusters: int | None  # patients that the interval allows for; None: cells taken as independent


def proportion(hits: NDArray[np.bool_], clusters: Labels | None = None, confidence: float = 0.95) -> Proportion:
    """The share of hits with its Wilson interval.

    With clusters, the interval is that of an effective number of cells: n divided by the design effect (Rao and Scott
    1992, doi 10.2307/2532311) and, for few clusters, by the square of t over z (Korn and Graubard 1998, Survey
    Methodology 24:193). It is never more than n. If all cells are hits or none is, no variation between clusters can be
    seen, and the effective number falls by t over z only. One cluster says nothing about others: its cells are taken as
    independent.

    Args:
        hits: (n,).
        clusters: (n,), number of the patient of each cell; None: patients are not known.
    """
    count, n = int(hits.sum()), len(hits)
    if not n:
        return Proportion(0, 0, None, 0.0, 1.0, None)
    share = count / n
    effective, found = (n, None) if clusters is None else _effective_cells(hits, clusters)
    low, high = wilson(share * effective, effective, confidence)
    return Proportion(count, n, share, min(low, share), max(high, share), found)


def _effective_cells(hits: NDArray[np.bool_], clusters: Labels) -> tuple[float, int | None]:
    """The effective number of cells, and the number of clusters if there are at least two."""
    _, rows = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(rows)
    count, n, share = len(sizes), len(hits), hits.mean()
    if count < 2:
        return n, None
    residuals = np.bincount(rows, weights=hits - share)
    variance = count / (count - 1) * (residuals**2).sum() / n**2  # of a ratio (Cochran 1977, eq. 6.13)
    simple = share * (1 - share) / n
    effect = max(1.0, variance / simple) if simple else 1.0
    small = float(norm.ppf(0.975) / t.ppf(0.975, count - 1)) ** 2
    return n / effect * small, count
