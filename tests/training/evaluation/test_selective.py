"""Risk against coverage, compared with counts at every threshold and with known areas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from training.evaluation.selective import COVERAGES, RiskCoverage, risk_coverage, selective_metrics

#: Probabilities that repeat: no threshold parts equals.
answers = st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=60)


def _curve(answers: list[tuple[int, bool]]) -> tuple[RiskCoverage, np.ndarray, np.ndarray]:
    confidence, correct = np.array([p / 8 for p, _ in answers]), np.array([right for _, right in answers])
    return risk_coverage(confidence, correct), confidence, correct


@given(answers)
def test_each_point_is_what_its_threshold_answers(answers: list[tuple[int, bool]]) -> None:
    curve, confidence, correct = _curve(answers)
    assert sorted(set(confidence), reverse=True) == curve.thresholds.tolist()
    for at, threshold in enumerate(curve.thresholds):
        sure = confidence >= threshold
        assert (curve.answered[at], curve.wrong[at]) == (sure.sum(), (~correct[sure]).sum())


@given(answers)
def test_all_answers_are_as_often_wrong_as_the_model(answers: list[tuple[int, bool]]) -> None:
    curve, _, correct = _curve(answers)
    assert curve.coverage[-1] == 1
    assert curve.risk[-1] == pytest.approx(1 - correct.mean())


@given(answers, st.floats(0.01, 1))
def test_a_coverage_is_reached_by_the_fewest_answers(answers: list[tuple[int, bool]], share: float) -> None:
    curve, _, _ = _curve(answers)
    at = curve.at_coverage(share)
    assert curve.coverage[at] >= share - 1e-9
    assert at == 0 or curve.coverage[at - 1] < share


def test_a_coverage_that_is_no_binary_fraction_is_met_exactly() -> None:
    curve = risk_coverage(np.linspace(0.99, 0.5, 100), np.ones(100, dtype=bool))
    assert 0.07 * 100 > 7  # in floating point
    assert curve.answered[curve.at_coverage(0.07)] == 7


@given(answers, st.floats(0, 1))
def test_a_risk_is_kept_by_the_most_answers(answers: list[tuple[int, bool]], limit: float) -> None:
    curve, _, _ = _curve(answers)
    at = curve.at_risk(limit)
    kept = [point for point, risk in enumerate(curve.risk) if risk <= limit]
    assert at == (kept[-1] if kept else None)


@settings(max_examples=examples(25))
@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=8))
def test_the_area_is_the_mean_over_all_orders_of_equals(answers: list[tuple[int, bool]]) -> None:
    curve, confidence, correct = _curve(answers)
    random, areas = np.random.default_rng(0), []
    for _ in range(2000):
        order = np.lexsort((random.random(len(confidence)), -confidence))
        areas.append((np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)).mean())
    error = np.std(areas) / len(areas) ** 0.5
    assert curve.area() == pytest.approx(np.mean(areas), abs=5 * error + 1e-9)


def test_the_area_of_known_orders() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    worst, best = np.array([False, True, True, True]), np.array([True, True, True, False])
    assert risk_coverage(confidence, worst).area() == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert risk_coverage(confidence, best).area() == pytest.approx(1 / 16)


def test_without_a_picture_there_is_no_risk() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        risk_coverage(np.empty(0), np.empty(0, dtype=bool))


def _measured(labels: list[int], named: list[int], confidence: list[float]) -> dict[str, tuple[float, int]]:
    probabilities = np.array([[p, 1 - p] if at == 0 else [1 - p, p] for at, p in zip(named, confidence, strict=True)])
    metrics = selective_metrics(np.array(labels), probabilities, "test")
    assert {metric.split for metric in metrics} == {"test"}
    return {metric.name: (metric.value, metric.n) for metric in metrics}


def test_figures_at_coverages_count_the_answered() -> None:
    confidence = [0.99 - 0.02 * at for at in range(20)]  # the two with the lowest confidence are wrong
    found = _measured([0] * 20, [0] * 18 + [1] * 2, confidence)
    assert [found[f"accuracy_at_{100 * share:.0f}_coverage"] for share in COVERAGES] == [
        (pytest.approx(18 / 19), 19),
        (1.0, 18),
        (1.0, 16),
    ]
    assert found["threshold_at_90_coverage"] == (pytest.approx(confidence[17]), 20)
    assert found["coverage_at_5_risk"] == (0.9, 20)


def test_a_threshold_is_tried_on_the_other_half() -> None:
    """Only the first half of each class is wrong below 0.8: its threshold suits the second half, not vice versa."""
    sure, unsure = [0.9] * 5, [0.7] * 5
    found = _measured([0] * 20, [0] * 5 + [1] * 5 + [0] * 10, (sure + unsure) * 2)
    # Threshold of the first half: 0.9, answers 5 of the second, all correct. Of the second: 0.7, answers all 10 of
    # the first, 5 of them correct.
    assert found["cross_coverage_at_5_risk"] == (15 / 20, 20)
    assert found["cross_accuracy_at_5_risk"] == (pytest.approx(10 / 15), 15)
    assert found["coverage_at_5_risk"] == (0.5, 20)


def test_where_no_risk_is_low_enough_nothing_is_answered_and_no_threshold_given() -> None:
    found = _measured([0] * 4, [1] * 4, [0.9, 0.8, 0.7, 0.6])
    assert found["coverage_at_5_risk"] == (0.0, 4)
    assert "threshold_at_5_risk" not in found
    assert found["cross_accuracy_at_5_risk"] == (0.0, 0)
