"""Wilson intervals, alone and clustered by patient, against published values, scipy, and as invariants."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from model.agreement.clustered import proportion
from model.agreement.proportion import cells_for_half_width, cells_for_lower_limit, wilson

counts = st.integers(1, 100_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [  # in per cent, as haematologists quote them for differentials of 500 and 200 cells
        (5, 500, 0.4, 2.3),
        (25, 500, 3.4, 7.3),
        (100, 500, 16.7, 23.7),
        (10, 200, 2.7, 9.0),
        (8, 8, 67.6, 100.0),
    ],
)
def test_intervals_are_the_published_ones(count: int, total: int, low: float, high: float) -> None:
    assert [round(100 * bound, 1) for bound in wilson(count, total)] == [low, high]


@given(counts, st.sampled_from([0.9, 0.95, 0.975]))
def test_intervals_are_those_of_scipy(count_and_total: tuple[int, int], confidence: float) -> None:
    count, total = count_and_total
    expected = binomtest(count, total).proportion_ci(confidence, method="wilson")
    assert wilson(count, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(counts)
def test_an_interval_contains_its_proportion_and_mirrors(count_and_total: tuple[int, int]) -> None:
    count, total = count_and_total
    low, high = wilson(count, total)
    assert 0 <= low <= count / total <= high <= 1
    assert (low == 0) == (count == 0)
    assert (high == 1) == (count == total)
    mirrored_low, mirrored_high = wilson(total - count, total)
    assert (1 - mirrored_high, 1 - mirrored_low) == pytest.approx((low, high), abs=1e-12)


def test_no_cell_says_nothing() -> None:
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("count", "total"), [(-1, 5), (6, 5)])
def test_what_is_no_proportion_is_refused(count: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"{count} of {total}"):
        wilson(count, total)


@given(st.floats(0, 1), st.floats(0.01, 0.4))
def test_the_fewest_cells_for_a_precision(share: float, half_width: float) -> None:
    n = cells_for_half_width(share, half_width)
    low, high = wilson(share * n, n)
    assert high - low <= 2 * half_width
    low, high = wilson(share * (n - 1), n - 1)
    assert high - low > 2 * half_width


@given(st.floats(0.55, 1), st.floats(0.1, 0.5))
def test_the_fewest_cells_for_a_lower_limit(share: float, limit: float) -> None:
    n = cells_for_lower_limit(share, limit)
    assert n is not None
    assert wilson(share * n, n)[0] >= limit
    assert wilson(share * (n - 1), n - 1)[0] < limit
    assert cells_for_lower_limit(limit, limit) is None


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_one_patient_for_each_cell_is_hardly_wider_than_no_patients(hits: list[bool]) -> None:
    if len(hits) == 1:
        return
    alone = proportion(np.array(hits))
    clustered = proportion(np.array(hits), np.arange(len(hits)))
    assert (alone.hits, alone.n, alone.share) == (clustered.hits, clustered.n, clustered.share)
    assert clustered.low <= alone.low <= alone.high <= clustered.high
    if len(hits) >= 40:
        assert alone.low - clustered.low < 0.02


def test_cells_that_agree_within_patients_count_as_patients() -> None:
    hits = np.repeat([True] * 8 + [False] * 2, 50)  # 10 patients, each right or wrong throughout
    found = proportion(hits, np.repeat(np.arange(10), 50))
    low, high = wilson(8, 10)
    assert found.clusters == 10
    assert found.low < low + 0.02
    assert found.high > high - 0.02


@pytest.mark.parametrize("sizes", [[30] * 20, [3] * 10 + [57] * 10])
def test_intervals_by_patient_cover_the_true_share(sizes: list[int]) -> None:
    """500 simulated studies of 20 patients whose own shares scatter around 0.8: cells taken as independent would cover
    the true share in fewer than 80 %."""
    random = np.random.default_rng(1)
    covered = independent = 0
    patients = np.repeat(np.arange(20), sizes)
    for _ in range(500):
        hits = random.random(len(patients)) < random.beta(8, 2, 20)[patients]
        found = proportion(hits, patients)
        covered += found.low <= 0.8 <= found.high
        low, high = wilson(int(hits.sum()), hits.size)
        independent += low <= 0.8 <= high
    assert covered / 500 == pytest.approx(0.95, abs=0.03)
    assert independent / 500 < 0.8


def test_a_patient_with_nearly_all_cells_counts_as_hardly_more_than_one() -> None:
    found = proportion(np.ones(200, np.bool_), np.repeat(np.arange(5), [196, 1, 1, 1, 1]))
    assert (found.clusters, found.high) == (5, 1)
    assert found.low < 0.1


def test_one_patient_says_nothing_about_others() -> None:
    found = proportion(np.ones(20, np.bool_), np.zeros(20, np.int64))
    assert (found.share, found.low, found.high, found.clusters) == (1, 0, 1, 1)
    assert proportion(np.array([], np.bool_)).share is None


def test_the_table_of_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs/verify.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (0\.\d\d|1\.00) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    for share, above, precise in rows:
        assert (cells_for_lower_limit(float(share), 0.8), cells_for_half_width(float(share), 0.05)) == (
            int(above),
            int(precise),
        )
