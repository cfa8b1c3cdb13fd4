"""The verdict on a class: verified, not verified, or too few cells to tell."""

from typing import NamedTuple

from model.agreement.proportion import cells_for_half_width, cells_for_lower_limit
from service.verification.document import Rate, Verdict
from service.verification.rates import effective_sample_size


class ClassVerdict(NamedTuple):
    """A verdict and its reason.

    If there are too few cells: the verdict that the rates found lead to, and how many more cells of the class it takes.
    """

    verdict: Verdict
    why: str
    expected: Verdict | None = None
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
    if sensitivity.patients == 1:
        return ClassVerdict("too few", "all cells of this class are of one patient; add cells of other patients")
    rates = {"sensitivity": sensitivity, "predictive value": predictive_value}
    if failing := [name for name, found in rates.items() if _fails(found, goal, precision)]:
        shares = " and ".join(f"{name} {rates[name].share:.3f}" for name in failing)
        return ClassVerdict("not verified", f"{shares}: not above {goal:g}")
    if unclear := {name: found for name, found in rates.items() if found.low < goal}:
        why = f"interval includes {goal:g}: {', '.join(unclear)}"
        return ClassVerdict("too few", why, *_outlook([*unclear.values()], goal, precision))
    return ClassVerdict("verified", f"both intervals begin at {goal:g} or above")


def _fails(found: Rate, goal: float, precision: float) -> bool:
    if found.share is None:
        return False
    return found.high < goal or (found.share <= goal and found.high - found.low <= 2 * precision)


def _outlook(unclear: list[Rate], goal: float, precision: float) -> tuple[Verdict | None, int]:
    """The verdict that the rates lead to, and the cells that are missing for it; None if a rate has no cell yet."""
    if any(found.share is None for found in unclear):
        return None, max(_missing(found, cells_for_half_width(goal, precision)) for found in unclear)
    low = [found for found in unclear if (found.share or 0) <= goal]
    if low:  # the first rate that becomes precise decides
        return "not verified", min(_missing(found, cells_for_half_width(found.share or 0, precision)) for found in low)
    needed = [(found, cells_for_lower_limit(found.share or 0, goal)) for found in unclear]
    return "verified", max(_missing(found, cells or 0) for found, cells in needed)


def _missing(found: Rate, needed: int) -> int:
    """How many more cells: at least 1, multiplied by the design effect."""
    if found.n:
        needed = round(needed * max(1.0, found.n / effective_sample_size(found)))
    return max(1, needed - found.n)
