"""Cohen's kappa against scikit-learn and a published table, and its interval by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from model.agreement.kappa import cohen_kappa, kappa_interval, one_class


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = float(cohen_kappa(confusion_matrix(first, second, labels=range(4))))
    if len(set(first) | set(second)) == 1:  # nothing to agree about
        assert np.isnan(found)
        return
    assert found == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    for at in range(4):
        table = one_class(confusion_matrix(first, second, labels=range(4)), at)
        of_class = [[each == at for each in reading] for reading in (first, second)]
        assert table.tolist() == confusion_matrix(*of_class, labels=[True, False]).tolist()


def test_kappa_of_a_published_table() -> None:
    """Fleiss, Statistical Methods for Rates and Proportions (1981), table 13.1."""
    table = np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]])
    assert round(float(cohen_kappa(table)), 2) == 0.68


def test_the_interval_covers_the_true_kappa() -> None:
    """300 studies of two readers who agree in 80 % of 200 cells of two equally frequent classes: kappa 0.6."""
    random, covered = np.random.default_rng(2), 0
    for _ in range(300):
        counts = random.multinomial(200, [0.4, 0.1, 0.1, 0.4]).reshape(1, 2, 2)
        low, high = kappa_interval(counts) or (0, 0)
        covered += low <= 0.6 <= high
    assert covered / 300 == pytest.approx(0.95, abs=0.035)


def test_patients_that_differ_widen_the_interval() -> None:
    good, bad = np.array([[25, 0], [0, 25]]), np.array([[13, 12], [12, 13]])
    clustered = kappa_interval(np.array([good, bad] * 5))
    together = kappa_interval(np.array([good, bad] * 5).sum(axis=0, keepdims=True))
    assert clustered is not None
    assert together is not None
    assert clustered[0] < together[0] < together[1] < clustered[1]


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "agreement"), [(3, 0.7), (5, 0.85), (10, 0.95)])
def test_the_interval_covers_with_few_patients(patients: int, agreement: float) -> None:
    """200 studies of patients of 40 cells of five classes; the share on which two readers agree varies by patient."""
    random = np.random.default_rng(3)

    def table(cells: int) -> NDArray[np.int64]:
        first = random.choice(5, cells, p=random.dirichlet(np.full(5, 2.0)))
        agreed = random.random(cells) < random.beta(8 * agreement, 8 * (1 - agreement))
        second = np.where(agreed, first, random.integers(0, 5, cells))
        return np.asarray(confusion_matrix(first, second, labels=range(5)))

    truth = float(cohen_kappa(np.sum([table(100) for _ in range(2000)], axis=0)))
    covered = 0
    for _ in range(200):
        low, high = kappa_interval(np.stack([table(40) for _ in range(patients)])) or (1, -1)
        covered += low <= truth <= high
    assert covered / 200 >= 0.91


def test_full_agreement_of_a_few_cells_has_a_width() -> None:
    low, high = kappa_interval(np.array([[[5, 0], [0, 5]]])) or (1, 1)
    assert low < 0.8
    assert high > 0.99


def test_no_interval_where_kappa_is_not_defined() -> None:
    assert kappa_interval(np.zeros((1, 2, 2), np.int64)) is None
    assert kappa_interval(np.array([[[9, 0], [0, 0]]])) is None
    assert kappa_interval(np.array([[[9, 1], [0, 0]]])) is not None
