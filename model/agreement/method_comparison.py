"""Comparison of two methods that measure the same quantity in many patients: Bland-Altman and Passing-Bablok.

Both are what CLSI EP09 asks of a method comparison; it recommends at least 40 patients over the whole range.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from model.agreement.proportion import Interval

Values = NDArray[np.float64]

#: Fewest patients of a Passing-Bablok line.
MIN_PATIENTS = 10


@dataclass(frozen=True, slots=True)
class BlandAltman:
    """The mean difference, test minus reference, with its 95 % interval, and the 95 % limits of agreement."""

    n: int
    bias: float
    bias_interval: Interval
    limits: Interval


@dataclass(frozen=True, slots=True)
class Line:
    """Test = intercept + slope * reference, with 95 % intervals; None where an interval is unbounded."""

    n: int
    slope: float
    intercept: float
    slope_interval: Interval | None
    intercept_interval: Interval | None


def bland_altman(reference: Values, test: Values) -> BlandAltman:
    """Mean difference and limits of agreement (Bland and Altman 1986, doi 10.1016/S0140-6736(86)90837-8).

    Args:
        reference, test: (n,), values of the same patients.

    Raises:
        ValueError: fewer than two patients.
    """
    n, differences = len(reference), test - reference
    if n < 2:
        raise ValueError(f"{n} patients; a comparison needs two")
    bias, deviation = float(differences.mean()), float(differences.std(ddof=1))
    half = float(t.ppf(0.975, n - 1)) * deviation / sqrt(n)
    return BlandAltman(n, bias, (bias - half, bias + half), (bias - 1.96 * deviation, bias + 1.96 * deviation))


def passing_bablok(reference: Values, test: Values) -> Line | None:
    """The line through the shifted median of all pairwise slopes (Passing and Bablok 1983, J Clin Chem Clin Biochem
    21:709); None for fewer than `MIN_PATIENTS` patients, and where too few differ to define a slope.

    Args:
        reference, test: (n,), values of the same patients.
    """
    n = len(reference)
    slopes = _slopes(reference, test)
    if n < MIN_PATIENTS or not len(slopes):
        return None
    shift = int((slopes < -1).sum())
    middle = (len(slopes) - 1) / 2 + shift
    slope = float(_at(slopes, int(np.floor(middle))) + _at(slopes, int(np.ceil(middle)))) / 2
    if not np.isfinite(slope):
        return None
    slope_interval = _slope_interval(slopes, n, shift)
    return Line(
        n, slope, _intercept(reference, test, slope), slope_interval, _intercepts(reference, test, slope_interval)
    )


def _slopes(reference: Values, test: Values) -> Values:
    """Slopes between all pairs, ascending; without pairs of equal values, and without slopes of -1."""
    first, second = np.triu_indices(len(reference), 1)
    across, up = reference[first] - reference[second], test[first] - test[second]
    differ = (across != 0) | (up != 0)
    across, up = across[differ], up[differ]
    vertical = np.copysign(np.inf, up)  # whatever the sign of the zero below it
    found = np.divide(up, across, out=vertical, where=across != 0)
    return np.sort(found[found != -1])


def _slope_interval(slopes: Values, n: int, shift: int) -> Interval | None:
    """The ranks of the paper's eq. 13, one too many slopes on each side if they are not whole."""
    spread = float(norm.ppf(0.975)) * sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = round((len(slopes) - spread) / 2)
    low, high = first - 1 + shift, len(slopes) - first + shift
    if first < 1 or high >= len(slopes):
        return None
    ends = float(slopes[low]), float(slopes[high])
    return ends if np.isfinite(ends).all() else None


def _at(slopes: Values, place: int) -> float:
    return float(slopes[min(place, len(slopes) - 1)])


def _intercept(reference: Values, test: Values, slope: float) -> float:
    return float(np.median(test - slope * reference))


def _intercepts(reference: Values, test: Values, slopes: Interval | None) -> Interval | None:
    if slopes is None:
        return None
    return _intercept(reference, test, slopes[1]), _intercept(reference, test, slopes[0])
