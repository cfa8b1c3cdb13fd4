"""The differential count of predicted classes with 95 % Wilson intervals.

The denominator follows ICSH 2008, given by `countable` of each class. The count is what the model suggests; a person
signs the result.
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
    """The share of one class in the denominator, in per cent, with its 95 % Wilson interval.

    `percent`, `low` and `high` are None if no cell is counted. An unsupported class has a share, so that all shares
    add up to 100, and no interval: its count is not a sample of such cells.
    """

    cell_class: CellClass
    supported: bool
    count: int
    percent: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Differential:
    """The shares of the countable classes in logit order, and the cells outside the denominator.

    `counted_unsupported` of the `counted` cells were predicted as an unsupported class. Their true class is unknown,
    which makes every other share uncertain too.
    """

    counted: int
    counted_unsupported: int
    shares: tuple[Share, ...]
    excluded: tuple[tuple[CellClass, int], ...]
    problems: int


def wilson_interval(count: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of a proportion, 0..1 (Wilson 1927, J Am Stat Assoc 22:209).

    Raises:
        ValueError: `total` is 0, or `count` is not between 0 and `total`.
    """
    if not 0 <= count <= total or total == 0:
        raise ValueError(f"{count} of {total} is not a proportion")
    share, spread = count / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / total + spread / (4 * total))
    # Exactly 0 and 1 at the ends, which the formula misses by a rounding error.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return low, high


def is_counted(cell_class: CellClass, *, count_other: bool) -> bool:
    """Whether a class is in the denominator; `count_other` decides for classes countable "by_setting"."""
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
        codes: one code for each answered picture, or counts by code.
        classes: the manifest's, in logit order.
        unsupported: codes of unsupported classes; counted like the others.
        problems: number of pictures without an answer; not in the denominator.
        count_other: whether classes countable "by_setting" are counted.

    Raises:
        ValueError: a code is not among the classes.
    """
    counts = Counter(codes)
    unknown = set(counts) - {cell_class.code for cell_class in classes}
    if unknown:
        raise ValueError(f"unknown class codes: {sorted(unknown)}")
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
