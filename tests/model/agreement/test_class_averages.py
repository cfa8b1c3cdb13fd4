"""Averages over classes: intervals agree with an independent computation, cover, and know patients."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.metrics import balanced_accuracy_score, f1_score

from model.agreement.class_averages import (
    accuracy,
    balanced_accuracy,
    draw_counts,
    macro_f1,
    mean_of,
    weighted_f1,
)

Labels = NDArray[np.int64]


def _predictions(seed: int, each: int, right: tuple[float, ...]) -> tuple[Labels, Labels]:
    """Labels and predictions of `each` pictures of every class; a share is right, the rest another class."""
    random, classes = np.random.default_rng(seed), len(right)
    labels = np.repeat(np.arange(classes), each)
    wrong = (labels + random.integers(1, classes, len(labels))) % classes
    return labels, np.where(random.random(len(labels)) < np.array(right)[labels], labels, wrong)


def test_values_are_those_of_scikit_learn() -> None:
    labels, predicted = _predictions(1, 30, (0.9, 0.6, 0.2, 0.8))
    drawn = draw_counts(labels, predicted, 4)
    assert drawn.figure(accuracy).value == pytest.approx((labels == predicted).mean())
    assert drawn.figure(macro_f1).value == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert drawn.figure(weighted_f1).value == pytest.approx(f1_score(labels, predicted, average="weighted"))
    assert drawn.figure(balanced_accuracy).value == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_the_interval_of_balanced_accuracy_agrees_with_the_posteriors_of_its_recalls() -> None:
    """Independently: each recall has the posterior Beta(hits + 1/2, misses + 1/2), and their mean is moved."""
    labels, predicted = _predictions(2, 20, (1.0, 0.9, 0.0, 0.5))
    hits = np.array([(predicted[labels == at] == at).sum() for at in range(4)])
    posterior = beta.rvs(hits + 0.5, 20.5 - hits, size=(200_000, 4), random_state=3).mean(axis=1)
    value = (hits / 20).mean()
    low, high = np.quantile(posterior, [0.025, 0.975]) - posterior.mean() + value
    found = draw_counts(labels, predicted, 4).figure(balanced_accuracy)
    assert found.interval() == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_all_or_nothing_has_a_width(right: float) -> None:
    labels, predicted = _predictions(4, 3, (right,) * 6)
    for score in (macro_f1, balanced_accuracy, accuracy):
        low, high = draw_counts(labels, predicted, 6).figure(score).interval()
        assert 0.05 < high - low < 0.5
        assert right in (low, high)


def test_intervals_cover_where_percentiles_of_the_posterior_do_not() -> None:
    """Twelve classes of ten pictures with a recall of 0.9: the prior moves the mean by more than its sd."""
    covered, percentiles = [], []
    for seed in range(60):
        labels, predicted = _predictions(seed, 10, (0.9,) * 12)
        found = draw_counts(labels, predicted, 12).figure(balanced_accuracy)
        low, high = found.interval()
        covered.append(low <= 0.9 <= high)
        low, high = np.quantile(found.of_pictures, [0.025, 0.975])
        percentiles.append(low <= 0.9 <= high)
    assert np.mean(covered) > 0.88 > np.mean(percentiles)


def test_patients_widen_and_one_patient_says_nothing() -> None:
    random = np.random.default_rng(5)
    patients, labels = np.repeat(np.arange(6), 40), np.tile([0, 1], 120)
    right = random.random(240) < np.repeat([0.95, 0.9, 0.95, 0.3, 0.2, 0.9], 40)
    predicted = np.where(right, labels, 1 - labels)
    alone = draw_counts(labels, predicted, 2).figure(macro_f1).interval()
    together = draw_counts(labels, predicted, 2, patients).figure(macro_f1).interval()
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])
    assert draw_counts(labels, predicted, 2, np.zeros(240, np.int64)).figure(macro_f1).interval() == (0, 1)
    independent = draw_counts(labels, predicted, 2, np.arange(240)).figure(macro_f1).interval()
    assert independent == pytest.approx(alone, abs=0.01)


def test_models_are_compared_on_the_same_draws() -> None:
    labels, predicted = _predictions(6, 30, (0.8, 0.7, 0.9))
    one, same = (draw_counts(labels, predicted.copy(), 3).figure(macro_f1) for _ in range(2))
    assert (one - same).difference_interval() == (0, 0)
    better = np.where(np.arange(90) % 9 == 0, labels, predicted)
    gain = draw_counts(labels, better, 3).figure(macro_f1) - one
    low, high = gain.difference_interval()
    width = one.interval()[1] - one.interval()[0]
    assert low <= gain.value <= high and high - low < width
    assert mean_of([one, same]).interval() == pytest.approx(one.interval())
