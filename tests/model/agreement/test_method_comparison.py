"""Bland-Altman and Passing-Bablok against published data, and as invariants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import theilslopes

from model.agreement.method_comparison import MIN_PATIENTS, bland_altman, passing_bablok

#: Peak expiratory flow by Wright's large and mini meter, l/min (Bland and Altman 1986, table 1, first readings).
LARGE = np.array([494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427], np.float64)
MINI = np.array([512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451], np.float64)

pairs_of_values = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
    min_size=MIN_PATIENTS,
    max_size=40,
    unique_by=lambda pair: pair[0],
)


def test_the_published_bias_and_limits() -> None:
    found = bland_altman(MINI, LARGE)
    assert (round(found.bias, 1), found.n) == (-2.1, 17)
    assert found.limits == pytest.approx((-2.1 - 1.96 * 38.8, -2.1 + 1.96 * 38.8), abs=0.2)
    assert found.bias_interval == pytest.approx((-22.0, 17.8), abs=0.2)  # the paper's, with t of 16 degrees of freedom


def test_one_patient_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="1 patients"):
        bland_altman(np.array([1.0]), np.array([2.0]))


@given(pairs_of_values)
def test_exchanging_the_methods_inverts_the_line(pairs: list[tuple[int, int]]) -> None:
    """The property that the shifted median is made for (Passing and Bablok 1983, section 2). It is exact where the
    number of slopes is odd and all rise, as between two methods of one quantity."""
    reference, noise = np.array(pairs, np.float64).T
    test = 61 * reference + noise
    forward, backward = passing_bablok(reference, test), passing_bablok(test, reference)
    assert forward is not None
    assert backward is not None
    if (len(pairs) * (len(pairs) - 1) // 2) % 2:
        assert forward.slope * backward.slope == pytest.approx(1)
    assert (forward.slope_interval is None) == (backward.slope_interval is None)
    if forward.slope_interval and backward.slope_interval:
        assert forward.slope_interval[0] * backward.slope_interval[1] == pytest.approx(1)


@given(pairs_of_values, st.integers(-5, 5), st.sampled_from([0.5, 1.0, 2.0]))
def test_an_exact_line_is_found(pairs: list[tuple[int, int]], intercept: int, slope: float) -> None:
    reference = np.array([pair[0] for pair in pairs], np.float64)
    found = passing_bablok(reference, intercept + slope * reference)
    assert found is not None
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept))


def test_without_falling_slopes_it_is_theil_and_sen() -> None:
    random = np.random.default_rng(3)
    reference = np.sort(random.uniform(0, 60, 40))
    test = 1.3 * reference + np.sort(random.normal(0, 2, 40))  # both rise, so no slope is below -1
    found, expected = passing_bablok(reference, test), theilslopes(test, reference)
    assert found is not None
    assert found.slope == pytest.approx(expected.slope)
    assert found.slope_interval == pytest.approx((expected.low_slope, expected.high_slope), rel=0.01)


def test_intervals_cover_the_true_line() -> None:
    """200 studies of 30 patients, both methods with the same error, true slope 1 and intercept 0."""
    random, slopes, intercepts = np.random.default_rng(4), 0, 0
    for _ in range(200):
        true = random.uniform(0, 40, 30)
        found = passing_bablok(true + random.normal(0, 2, 30), true + random.normal(0, 2, 30))
        assert found is not None
        assert found.slope_interval is not None
        assert found.intercept_interval is not None
        slopes += found.slope_interval[0] <= 1 <= found.slope_interval[1]
        intercepts += found.intercept_interval[0] <= 0 <= found.intercept_interval[1]
    assert slopes / 200 == pytest.approx(0.95, abs=0.04)
    assert intercepts / 200 == pytest.approx(0.95, abs=0.05)


def test_too_few_patients_or_no_variation_give_no_line() -> None:
    assert passing_bablok(np.arange(9.0), np.arange(9.0)) is None
    assert passing_bablok(np.zeros(20), np.zeros(20)) is None
    assert passing_bablok(np.zeros(20), np.arange(20.0)) is None
