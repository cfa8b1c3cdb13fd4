"""ROC and precision-recall curves and their areas, compared with scikit-learn; intervals by Newcombe's example."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from training.evaluation.ranking import (
    auroc,
    auroc_influence,
    auroc_interval,
    average_precision,
    average_precision_influence,
    curves,
    ranking_metrics,
)


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


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(4, 60))
def test_influences_are_the_derivatives_of_scikit_learns_areas(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    of_class = random.random(n) < 0.5
    of_class[:2] = True, False
    probability = random.integers(0, 9, n) / 9  # with ties
    of_pictures = ((auroc_influence, roc_auc_score), (average_precision_influence, average_precision_score))
    for influence, area in of_pictures:
        found = influence(probability, of_class)
        assert found.sum() == pytest.approx(0, abs=1e-9)
        for at in range(n):
            heavier, lighter = np.ones(n), np.ones(n)
            heavier[at], lighter[at] = 1 + 1e-5, 1 - 1e-5
            ends = [area(of_class, probability, sample_weight=weight) for weight in (heavier, lighter)]
            assert found[at] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-5)


def test_intervals_by_patient_cover_the_true_areas() -> None:
    """150 simulated studies of 30 patients, whose cells of the class are all easier or all harder. Pictures taken as
    independent would cover the true area of the ROC curve in fewer than 85 %."""
    random = np.random.default_rng(1)
    patients = np.repeat(np.arange(30), 20)
    labels = np.tile(np.repeat([0, 1], [8, 12]), 30)

    def study() -> np.ndarray:
        shift = np.where(labels == 0, 1.5 + random.normal(0, 1, 30)[patients], 0)
        return np.asarray(norm.cdf(shift + random.normal(0, 1, len(labels))))

    areas = [(auroc(p, labels == 0), average_precision(curves(p, labels == 0))) for p in (study() for _ in range(200))]
    true = dict(zip(("auroc", "average_precision"), np.mean(areas, axis=0), strict=True))
    covered, independent = dict.fromkeys(true, 0), dict.fromkeys(true, 0)
    for _ in range(150):
        probability = study()
        both = np.stack([probability, 1 - probability], axis=1)
        for known, counted in ((patients, covered), (None, independent)):
            for metric in ranking_metrics(labels, both, ("A", "B"), "test", known):
                if metric.code == "A":
                    counted[metric.name] += metric.low <= true[metric.name] <= metric.high
    assert min(covered.values()) / 150 > 0.91
    assert independent["auroc"] / 150 < 0.85


def test_a_class_of_one_patient_says_nothing_about_others() -> None:
    labels = np.repeat([0, 1], 20)
    probability = np.linspace(0.9, 0.1, 40)
    both = np.stack([probability, 1 - probability], axis=1)
    patients = np.append(np.zeros(20, np.int64), np.arange(1, 21))
    found = ranking_metrics(labels, both, ("A", "B"), "test", patients)
    assert {(metric.low, metric.high) for metric in found if metric.name == "auroc" or metric.code == "A"} == {(0, 1)}
