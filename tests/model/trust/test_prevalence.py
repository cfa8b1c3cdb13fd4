"""Corrected shares: against an exact posterior, with simulated coverage, and at the edges."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, betabinom

from examples import examples
from model.trust.prevalence import ROW_PRIOR_CELLS, corrected_shares

#: Known cells of five classes (rows) and their names; the last column: names of no class.
CONFUSION = np.array(
    [
        [50, 4, 3, 2, 0, 1],
        [3, 54, 1, 0, 2, 0],
        [6, 0, 48, 3, 3, 0],
        [0, 1, 2, 56, 1, 0],
        [4, 3, 6, 1, 44, 2],
    ]
)


def _exact(confusion: NDArray[np.int64], predicted: NDArray[np.int64], points: int = 400) -> NDArray[np.float64]:
    """Posterior of the share of the first of two classes on a grid, with the two rates integrated on grids too."""
    share = (np.arange(points) + 0.5) / points
    rate = (np.arange(points) + 0.5) / points
    rows = confusion + ROW_PRIOR_CELLS / 2
    first, second = (beta.pdf(rate, row[0], row[1]) for row in rows)
    as_first = share[:, None, None] * rate[None, :, None] + (1 - share[:, None, None]) * rate[None, None, :]
    likelihood = np.exp(predicted[0] * np.log(as_first) + predicted[1] * np.log1p(-as_first))
    weights = np.einsum("src,r,c->s", likelihood, first, second) * beta.pdf(share, 0.5, 0.5)
    density: NDArray[np.float64] = weights / weights.sum()
    return density


@pytest.mark.parametrize(("confusion", "predicted"), [([[18, 2], [3, 17]], [30, 70]), ([[40, 10], [5, 45]], [4, 16])])
def test_two_classes_are_near_their_exact_bayesian_posterior(confusion: list[list[int]], predicted: list[int]) -> None:
    matrix, counts = np.array(confusion), np.array(predicted)
    density = _exact(matrix, counts)
    share = (np.arange(len(density)) + 0.5) / len(density)
    cumulated = np.cumsum(density)
    found = corrected_shares(matrix, counts)
    assert found.mean[0] == pytest.approx((density * share).sum(), abs=0.02)
    for bound, level in ((found.low[0], 0.025), (found.high[0], 0.975)):
        assert bound == pytest.approx(share[np.searchsorted(cumulated, level)], abs=0.05)


@pytest.mark.parametrize("size", [500, 10_000])
def test_intervals_cover_the_true_shares(size: int) -> None:
    """Of simulated specimens with a random mix, each time with a new sample of known cells."""
    generator = np.random.default_rng(0)
    rows = (CONFUSION + 0.2) / (CONFUSION + 0.2).sum(axis=1, keepdims=True)
    specimens = examples(60)
    covered = []
    for seed in range(specimens):
        mix = generator.dirichlet(np.ones(5))
        known = np.stack([generator.multinomial(60, row) for row in rows])
        predicted = sum(
            generator.multinomial(count, row) for count, row in zip(generator.multinomial(size, mix), rows, strict=True)
        )
        found = corrected_shares(known, np.asarray(predicted), seed=seed)
        covered.append((found.low <= mix) & (mix <= found.high))
    low, high = betabinom.ppf([0.0005, 0.9995], 5 * specimens, 95, 5) / (5 * specimens)  # 95 % give or take 2 points
    assert low <= np.mean(covered) <= min(high, 0.985)


def test_more_cells_never_widen_the_interval_and_absent_classes_can_be_zero() -> None:
    """10,000 cells, the largest batch, as a sampler that has not converged would show."""
    rows = CONFUSION / CONFUSION.sum(axis=1, keepdims=True)
    mix = np.array([0.05, 0.7, 0.05, 0.2, 0.0])
    found = [corrected_shares(CONFUSION, np.round(size * mix @ rows).astype(np.int64)) for size in (300, 1000, 10_000)]
    widths = [float((one.high - one.low).mean()) for one in found]
    assert widths[0] > widths[1] > widths[2]
    np.testing.assert_allclose(found[-1].mean, mix, atol=0.02)
    assert found[-1].low[4] == pytest.approx(0, abs=1e-4)


def test_a_perfect_matrix_leaves_the_shares_and_a_larger_one_narrows_the_interval() -> None:
    predicted = np.array([100, 300, 100, 0, 0, 0])
    known = np.hstack([np.eye(5, dtype=np.int64) * 10_000, np.zeros((5, 1), np.int64)])
    found = corrected_shares(known, predicted)
    np.testing.assert_allclose(found.mean, [0.2, 0.6, 0.2, 0, 0], atol=0.01)
    few, many = (corrected_shares(CONFUSION * factor, np.array([100, 300, 50, 20, 20, 10])) for factor in (1, 50))
    assert ((few.high - few.low) > (many.high - many.low)).all()


def test_shares_of_the_counted_classes_add_up_to_one_and_a_seed_repeats_them() -> None:
    predicted = np.array([100, 300, 50, 20, 20, 10])
    counted = np.array([True, True, False, True, False])
    found = corrected_shares(CONFUSION, predicted, counted, seed=3)
    assert len(found.mean) == 3 and found.mean.sum() == pytest.approx(1)
    assert ((0 <= found.low) & (found.low <= found.mean) & (found.mean <= found.high) & (found.high <= 1)).all()
    np.testing.assert_array_equal(found.mean, corrected_shares(CONFUSION, predicted, counted, seed=3).mean)


def test_names_that_no_known_cell_has_are_no_error() -> None:
    matrix = np.array([[10, 0, 0], [0, 10, 0]])
    found = corrected_shares(matrix, np.array([0, 0, 7]))
    assert np.isfinite(np.stack(found)).all() and found.mean.sum() == pytest.approx(1)


def test_other_shapes_and_no_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        corrected_shares(CONFUSION, np.array([1, 2]))
    with pytest.raises(ValueError, match="no cell was counted"):
        corrected_shares(CONFUSION, np.zeros(6, np.int64))
