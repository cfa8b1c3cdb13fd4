"""Proportions with their Wilson score intervals, and the number of cells that a precision needs."""

from collections.abc import Callable
from math import ceil, sqrt
from statistics import NormalDist

Interval = tuple[float, float]  # low, high

#: More cells than this are never asked for.
MAX_CELLS = 1_000_000


def wilson(hits: float, n: float, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a proportion (Wilson 1927, J Am Stat Assoc 22:209); 0 to 1 if n is 0.

    Args:
        hits, n: counts, or effective counts of clustered cells.

    Raises:
        ValueError: `hits` is not between 0 and `n`.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is not a proportion")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = hits / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / n + spread / (4 * n))
    # Exactly 0 and 1 at the ends, which the formula misses by a rounding error.
    return 0.0 if hits == 0 else centre - half, 1.0 if hits == n else centre + half


def cells_for_half_width(share: float, half_width: float) -> int:
    """The fewest cells whose 95 % Wilson interval around `share` is at most twice `half_width` wide."""

    def enough(n: int) -> bool:
        low, high = wilson(share * n, n)
        return high - low <= 2 * half_width

    return _fewest(enough)


def cells_for_lower_limit(share: float, limit: float) -> int | None:
    """The fewest cells whose 95 % Wilson interval around `share` begins at `limit` or above.

    None if `share` is not above it. `MAX_CELLS` may not be enough.
    """
    if share <= limit:
        return None
    return _fewest(lambda n: wilson(share * n, n)[0] >= limit)


def _fewest(enough: Callable[[int], bool]) -> int:
    """The fewest cells for which `enough` holds, by bisection; at most `MAX_CELLS`."""
    low, high = 0, MAX_CELLS
    while high - low > 1:
        middle = ceil((low + high) / 2)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
