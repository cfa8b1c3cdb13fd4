"""The verdict on a class: verified, not verified, or too few cells to tell."""

from typing import NamedTuple

from model.agreement.proportion import cells_for_half_width, cells_for_lower_limit
from service.verification.document import Rate, Verdict


class ClassVerdict(NamedTuple):
    """A verdict, its reason, and how many more labelled cells it takes at the rates found."""

    verdict: Verdict
    why: str
    missing_cells: int = 0


def verdict(
    sensitivity: Rate, predictive_value: Rate, goal: float, precision: float, *, supported: bool
) -> ClassVerdict:
    """The verdict on a class.

    Verified: the intervals of sensitivity and predictive value begin at the goal or above. Not verified: one of them
    ends below the goal, or is precise with a share that is not above it. Otherwise there are too few cells.

    Args:
        precision: half width of an interval that is taken as precise.
        supported: whether the model claims the class.
    """
    if not supported:
        return ClassVerdict("not verified", "unsupported: the model has too few training cells of this class")
    for name, found in (("sensitivity", sensitivity), ("predictive value", predictive_value)):
        if found.share is not None and _fails(found, goal, precision):
            return ClassVerdict("not verified", f"{name} {found.share:.3f} is not above {goal:g}")
    if min(sensitivity.low, predictive_value.low) >= goal:
        return ClassVerdict("verified", f"both intervals begin at {goal:g} or above")
    missing = max(_missing(sensitivity, goal, precision), _missing(predictive_value, goal, precision))
    wide = "sensitivity" if sensitivity.low < goal else "predictive value"
    return ClassVerdict("too few", f"the interval of the {wide} begins below {goal:g}", missing)


def _fails(found: Rate, goal: float, precision: float) -> bool:
    share = found.share or 0.0
    return found.high < goal or (share <= goal and found.high - found.low <= 2 * precision)


def _missing(found: Rate, goal: float, precision: float) -> int:
    """How many more cells this rate needs: to begin above the goal, or if it is not above it, to be precise.

    Clustered cells count as fewer: the number grows by n over the effective number of cells.
    """
    if found.low >= goal:
        return 0
    share = goal if found.share is None else found.share
    needed = cells_for_lower_limit(share, goal) or cells_for_half_width(share, precision)
    if found.n:
        needed = round(needed * max(1.0, found.n / _effective(found)))
    return max(1, needed - found.n)


def _effective(found: Rate) -> float:
    """The number of independent cells whose interval is as wide."""
    share = found.share or 0.0
    return float(min(found.n, cells_for_half_width(share, max((found.high - found.low) / 2, 1e-6))))
