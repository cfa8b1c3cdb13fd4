"""The differential count of predicted classes with 95 % Wilson intervals.

The denominator follows ICSH 2008, given by `countable` of each class. The count is what the model suggests; a person
signs the result.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from model.agreement.proportion import wilson
from model.contract import CellClass


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one class in the denominator, in per cent, with its 95 % Wilson interval.

    `percent`, `low` and `high` are None outside the denominator, and if no cell is counted. An unsupported class has a
    share, so that all shares add up to 100, and no interval: its count is not a sample of such cells.
    """

    code: str
    name: str
    lineage: str
    count: int
    supported: bool
    percent: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Differential:
    """The countable classes in logit order (`classes`), and the classes outside the denominator (`excluded`).

    `counted_unsupported` of the `counted` cells were predicted as an unsupported class. Their true class is unknown,
    which makes every other share uncertain too.
    """

    counted: int
    counted_unsupported: int
    classes: tuple[Share, ...]
    excluded: tuple[Share, ...]
    problems: int
    count_other: bool
    unsupported: tuple[str, ...]


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
    in_denominator = {each.code for each in classes if is_counted(each, count_other=count_other)}
    total = sum(counts[code] for code in in_denominator)
    cells = [
        Share(each.code, each.name, each.lineage, counts[each.code], each.code not in unsupported) for each in classes
    ]
    shares = tuple(_with_percent(share, total) for share in cells if share.code in in_denominator)
    return Differential(
        counted=total,
        counted_unsupported=sum(share.count for share in shares if not share.supported),
        classes=shares,
        excluded=tuple(share for share in cells if share.code not in in_denominator),
        problems=problems,
        count_other=count_other,
        unsupported=tuple(unsupported),
    )


def _with_percent(share: Share, total: int) -> Share:
    if total == 0:
        return share
    percent = 100 * share.count / total
    if not share.supported:
        return replace(share, percent=percent)
    low, high = wilson(share.count, total)
    return replace(share, percent=percent, low=100 * low, high=100 * high)
