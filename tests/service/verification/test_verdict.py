"""The verdict on a class, from its two rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.agreement.proportion import wilson
from service.verification.document import Rate
from service.verification.verdict import verdict


def rate(hits: int, n: int) -> Rate:
    low, high = wilson(hits, n)
    return Rate(hits=hits, n=n, share=hits / n if n else None, low=low, high=high)


rates = st.integers(0, 500).flatmap(lambda n: st.integers(0, n).map(lambda hits: rate(hits, n)))


@pytest.mark.parametrize(
    ("sensitivity", "predictive_value", "expected"),
    [
        ((96, 100), (95, 100), "verified"),
        ((96, 100), (70, 100), "not verified"),  # its interval ends below 0.8
        ((78, 100), (95, 100), "not verified"),  # around 0.8, precise, and below it
        ((7, 10), (95, 100), "too few"),  # around 0.8 and wide
        ((82, 100), (95, 100), "too few"),  # above 0.8, but not its interval
        ((0, 0), (0, 0), "too few"),
        ((0, 0), (0, 40), "not verified"),  # nothing of the class, and 40 cells named so
    ],
)
def test_the_verdict(sensitivity: tuple[int, int], predictive_value: tuple[int, int], expected: str) -> None:
    found = verdict(rate(*sensitivity), rate(*predictive_value), 0.8, 0.1, supported=True)
    assert found.verdict == expected


def test_an_unsupported_class_is_never_verified() -> None:
    assert verdict(rate(100, 100), rate(100, 100), 0.8, 0.1, supported=False).verdict == "not verified"


@given(rates, rates, st.floats(0.3, 0.95), st.floats(0.03, 0.2))
def test_the_missing_cells_are_enough_at_the_rates_found(
    sensitivity: Rate, predictive_value: Rate, goal: float, precision: float
) -> None:
    found = verdict(sensitivity, predictive_value, goal, precision, supported=True)
    if found.verdict != "too few":
        assert (found.missing_cells, found.expected) == (0, None)
        return
    if found.missing_cells > 900_000:  # a share so near the goal that no count tells
        return
    later = [_with_more(each, found.missing_cells, goal) for each in (sensitivity, predictive_value)]
    reached = verdict(*later, goal, precision, supported=True).verdict
    if found.expected is None:  # a rate without a cell says nothing
        assert None in (sensitivity.share, predictive_value.share)
    else:
        assert reached == found.expected


def _with_more(found: Rate, cells: int, goal: float) -> Rate:
    """The rate with more cells of the same share, by its interval; hits need not be whole."""
    n, share = found.n + cells, goal if found.share is None else found.share
    low, high = wilson(share * n, n)
    return Rate(hits=round(share * n), n=n, share=share, low=low, high=high)
