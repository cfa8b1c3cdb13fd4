"""ROC and precision-recall curves and their areas, compared with scikit-learn; intervals by Newcombe's example."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from training.evaluation.ranking import auroc, auroc_interval, average_precision, curves, ranking_metrics


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 80))
def test_areas_and_curves_are_those_of_scikit_learn(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    of_class = random.random(n) < 0.5
    of_class[:2] = True, False
    probability = random.integers(0, 12, n) / 12  # with ties
    found = curves(probability, of_class)
    assert auroc(probability, of_class) == pytest.approx(roc_auc_score(of_class, probability))
    assert average_precision(found) == pytest.approx(average_precision_score(of_class, probability))
    false, true, _ = roc_curve(of_class, probability, drop_intermediate=False)
    assert found.false_positive_rate == pytest.approx(false)
    assert found.sensitivity == pytest.approx(true)


@given(area=st.floats(0, 1), count=st.integers(1, 300), others=st.integers(1, 300))
def test_an_interval_contains_its_area_and_always_has_a_width(area: float, count: int, others: int) -> None:
    low, high = auroc_interval(area, count, others)
    assert 0 <= low <= area <= high <= 1
    assert high - low > 0.001


def test_intervals_narrow_with_pictures_as_the_standard_error_says() -> None:
    """Hanley and McNeil 1982, table: an area of 0.9 of 100 and 100 has the standard error 0.0216."""
    low, high = auroc_interval(0.9, 100, 100)
    assert (high - low) / (2 * 1.96) == pytest.approx(0.0216, abs=0.003)


def test_a_class_that_all_pictures_have_has_no_curve() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4]])
    assert ranking_metrics(np.array([0, 0]), probabilities, ("A", "B"), "test") == []
    found = ranking_metrics(np.array([0, 1]), probabilities, ("A", "B"), "test")
    assert [(metric.name, metric.code, metric.value) for metric in found] == [
        ("auroc", "A", 1.0),
        ("average_precision", "A", 1.0),
        ("auroc", "B", 1.0),
        ("average_precision", "B", 1.0),
    ]
