"""The differential by the model against the laboratory's, over patients: Bland-Altman and Passing-Bablok."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.agreement.method_comparison import Line, bland_altman, passing_bablok
from service.inference.differential import is_counted
from service.verification.document import Comparison, Estimate
from service.verification.observations import Observations

#: Fewest counted cells of a patient whose shares are compared.
MIN_CELLS = 20
#: Fewest patients of a comparison.
MIN_PATIENTS = 5


class PatientShares(NamedTuple):
    """Shares of each class in each patient's counted cells, in per cent, (P, C)."""

    laboratory: NDArray[np.float64]
    model: NDArray[np.float64]


def patient_shares(found: Observations, *, count_other: bool) -> PatientShares | None:
    """Shares of the patients with enough counted cells; None if patients are unknown or too few.

    A cell is in the denominator of a method if that method names a countable class.
    """
    if found.patients is None:
        return None
    counted = np.array([*(is_counted(each, count_other=count_other) for each in found.manifest.classes), False])
    labelled = found.labelled
    rows = np.unique(found.patients[labelled], return_inverse=True)[1]
    counts = [_counts(rows, labels[labelled], counted) for labels in (found.labels, found.predicted)]
    enough = np.min([each.sum(axis=1) for each in counts], axis=0) >= MIN_CELLS
    if enough.sum() < MIN_PATIENTS:
        return None
    return PatientShares(*(100 * each[enough] / each[enough].sum(axis=1, keepdims=True) for each in counts))


def _counts(rows: NDArray[np.int64], labels: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Counted cells by patient and class, (P, C)."""
    counts = np.zeros((rows.max(initial=-1) + 1, len(counted)))
    np.add.at(counts, (rows, labels), 1)
    return (counts * counted)[:, :-1]


def comparisons(found: Observations, shares: PatientShares) -> tuple[Comparison, ...]:
    """One comparison for each class that occurs in a patient, in logit order."""
    occurs = np.flatnonzero((shares.laboratory + shares.model).any(axis=0))
    return tuple(_comparison(found.manifest.codes[at], shares.laboratory[:, at], shares.model[:, at]) for at in occurs)


def _comparison(code: str, laboratory: NDArray[np.float64], model: NDArray[np.float64]) -> Comparison:
    bias, line = bland_altman(laboratory, model), _line(laboratory, model)
    low, high = bias.bias_interval
    return Comparison(
        code=code,
        patients=bias.n,
        bias=Estimate(value=bias.bias, low=low, high=high),
        limits=bias.limits,
        slope=line and _estimate(line, "slope"),
        intercept=line and _estimate(line, "intercept"),
        differs=_differs(line),
    )


def _line(laboratory: NDArray[np.float64], model: NDArray[np.float64]) -> Line | None:
    """The Passing-Bablok line; None if either method finds no such cell in half of the patients."""
    rare = min(np.median(laboratory), np.median(model)) == 0
    return None if rare else passing_bablok(laboratory, model)


def _differs(line: Line | None) -> bool | None:
    """Whether slope or intercept differ from those of equal methods; None if that cannot be said."""
    if line is None or line.slope_interval is None or line.intercept_interval is None:
        return None
    (low, high), (left, right) = line.slope_interval, line.intercept_interval
    return not (low <= 1 <= high and left <= 0 <= right)


def _estimate(line: Line, name: str) -> Estimate:
    low, high = getattr(line, f"{name}_interval") or (None, None)
    return Estimate(value=getattr(line, name), low=low, high=high)
