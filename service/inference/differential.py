"""The differential count: how many cells of each class, with 95 % intervals. Pure arithmetic, no I/O.

Knows which classes enter the denominator (ICSH 2008 as the contract's `countable` says it) and which the model claims
nothing for. Does not know pictures, HTTP or where the classes came from: it counts what the model suggested, and a
person signs.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import sqrt

from model.contract import CellClass

#: Two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """One class's part of the denominator: count, per cent, and the bounds of its 95 % Wilson interval in per cent.

    Without a single counted cell there is no share to speak of: the three percentages are None. A class that is not
    supported has a share, so that all add up to 100, and no interval: its count is how often the name was given, not a
    sample of such cells.
    """

    cell_class: CellClass
    supported: bool
    count: int
    percent: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Differential:
    """Shares of the countable classes in logit order, and what was left out of the denominator.

    `counted_unsupported` of the `counted` cells were given the name of a class that is not supported: what they are is
    open, and with them every other share.
    """

    counted: int
    counted_unsupported: int
    shares: tuple[Share, ...]
    excluded: tuple[tuple[CellClass, int], ...]
    problems: int


def wilson_interval(count: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Bounds, 0..1, of the Wilson score interval of a proportion (Wilson 1927, J Am Stat Assoc 22:209).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= count <= total or total == 0:
        raise ValueError(f"{count} of {total} is not a proportion")
    share, spread = count / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / total + spread / (4 * total))
    # At the two ends the bound is exactly 0 or 1; the formula misses it by a rounding error.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return low, high


def is_counted(cell_class: CellClass, *, count_other: bool) -> bool:
    """Whether a class enters the denominator; `count_other` settles the classes left to the laboratory."""
    return cell_class.countable == "always" or (cell_class.countable == "by_setting" and count_other)


def differential(
    codes: Iterable[str] | Mapping[str, int],
    classes: tuple[CellClass, ...],
    *,
    unsupported: Collection[str] = (),
    problems: int = 0,
    count_other: bool = False,
) -> Differential:
    """Count predicted class codes.

    Args:
        codes: one a picture that was answered, or how often each was given.
        classes: the manifest's, in logit order.
        unsupported: codes of the classes for which nothing is claimed; counted like the others.
        problems: pictures that got no answer; never in the denominator.
        count_other: whether classes countable "by_setting" are counted.

    Raises:
        ValueError: a code that is not a class.
    """
    counts = Counter(codes)
    unknown = set(counts) - {cell_class.code for cell_class in classes}
    if unknown:
        raise ValueError(f"not classes of this model: {sorted(unknown)}")
    counted = [cell_class for cell_class in classes if is_counted(cell_class, count_other=count_other)]
    total = sum(counts[cell_class.code] for cell_class in counted)
    shares = tuple(
        _share(cell_class, counts[cell_class.code], total, supported=cell_class.code not in unsupported)
        for cell_class in counted
    )
    return Differential(
        counted=total,
        counted_unsupported=sum(share.count for share in shares if not share.supported),
        shares=shares,
        excluded=tuple((left, counts[left.code]) for left in classes if left not in counted),
        problems=problems,
    )


def _share(cell_class: CellClass, count: int, total: int, *, supported: bool) -> Share:
    if total == 0:
        return Share(cell_class, supported, 0, None, None, None)
    percent = 100 * count / total
    if not supported:
        return Share(cell_class, supported, count, percent, None, None)
    low, high = wilson_interval(count, total)
    return Share(cell_class, supported, count, percent, 100 * low, 100 * high)
