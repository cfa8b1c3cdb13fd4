"""Metrics and calibration error, compared with counts by hand, scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score
from torchmetrics.functional.classification import multiclass_calibration_error

from model.agreement.calibration import expected_calibration_error
from model.agreement.class_averages import Counts
from training.evaluation.metrics import (
    Metric,
    Pictures,
    classification_metrics,
    confusion_matrix,
    group_counts,
    strict,
)

CODES = ("A", "B", "C", "D")
GROUPS = ("one", "one", "two", "two")
#: A and B are neighbours, and so are B and C.
TOLERATED = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)


def _drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)  # D is never a label, but may be predicted
    return labels, random.integers(0, 4, n)


def _pictures(counts: Counts) -> Pictures:
    """Pictures with this confusion matrix."""
    labels, predicted = np.nonzero(counts)
    each = counts[labels, predicted]
    return Pictures(np.repeat(labels, each), np.repeat(predicted, each))


def _measured(counts: Counts) -> list[Metric]:
    return classification_metrics(_pictures(counts), CODES, TOLERATED, GROUPS, "last block")


def _overall(counts: Counts) -> dict[str, float]:
    return {metric.name: metric.value for metric in _measured(counts) if metric.code is None}


def _share(hits: int, n: int) -> Metric:
    right = np.arange(n) < hits
    labels = np.zeros(n, np.int64)
    return Pictures(labels, (~right).astype(np.int64)).metric("recall", right, labels == 0, "test", "A")


def test_wilson_as_in_the_literature() -> None:
    # 8 of 8: 67.6 to 100 %; 5 % of 200: 2.7 to 9.0 % (Wilson 1927).
    whole, few = _share(8, 8), _share(10, 200)
    assert (whole.low, whole.high) == (pytest.approx(0.676, abs=5e-4), pytest.approx(1.0))
    assert (few.low, few.high) == (pytest.approx(0.027, abs=5e-4), pytest.approx(0.090, abs=5e-4))


def test_a_share_of_nothing_claims_nothing() -> None:
    empty = _share(0, 0)
    assert (empty.low, empty.high, empty.n) == (0.0, 1.0, 0)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200))
def test_strict_figures_agree_with_scikit_learn(seed: int, n: int) -> None:
    labels, predicted = _drawn(seed, n)
    found = _overall(confusion_matrix(labels, predicted, 4))
    here = np.unique(labels)
    assert found["accuracy"] == pytest.approx((labels == predicted).mean())
    for average in ("macro", "weighted"):
        expected = f1_score(labels, predicted, labels=here, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    macro_recall = recall_score(labels, predicted, labels=here, average="macro", zero_division=0)
    assert found["balanced_accuracy"] == pytest.approx(macro_recall)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200))
def test_what_is_forgiven_only_helps(seed: int, n: int) -> None:
    labels, predicted = _drawn(seed, n)
    found = _overall(confusion_matrix(labels, predicted, 4))
    assert found["tolerant_accuracy"] == pytest.approx(TOLERATED[labels, predicted].mean())
    assert found["tolerant_accuracy"] >= found["accuracy"]
    assert found["tolerant_balanced_accuracy"] >= found["balanced_accuracy"] - 1e-12
    same = np.array(GROUPS)[labels] == np.array(GROUPS)[predicted]
    assert found["lineage_accuracy"] == pytest.approx(same.mean())


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200))
def test_ece_agrees_with_torchmetrics(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    labels, probabilities = random.integers(0, 4, n), random.dirichlet(np.ones(4), n)
    ece = multiclass_calibration_error(
        torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(labels), 4, n_bins=15, norm="l1"
    )
    assert expected_calibration_error(labels, probabilities.astype(np.float32)) == pytest.approx(ece.item(), abs=1e-5)


def test_every_figure_carries_its_n_split_and_interval() -> None:
    labels, predicted = _drawn(1, 90)
    metrics = _measured(confusion_matrix(labels, predicted, 4))
    assert {m.split for m in metrics} == {"last block"}
    recalls = {m.code: m.n for m in metrics if m.name == "recall"}
    assert recalls == {code: int((labels == i).sum()) for i, code in enumerate(CODES[:3])}
    for figure in metrics:
        assert figure.low is not None and figure.high is not None
        assert figure.low <= figure.value <= figure.high


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 12))
def test_an_interval_holds_its_figure_however_rare_the_classes(seed: int, classes: int) -> None:
    """Classes of one picture each: draws without some of them would all be below the value."""
    random = np.random.default_rng(seed)
    counts = np.eye(classes, dtype=np.int64)
    counts[random.integers(classes), random.integers(classes)] += 1
    codes = tuple(f"c{at}" for at in range(classes))
    for figure in classification_metrics(_pictures(counts), codes, strict(classes), codes, "test"):
        assert figure.low is not None and figure.high is not None
        assert figure.low <= figure.value <= figure.high
    perfect = _pictures(np.eye(classes, dtype=np.int64))
    for figure in classification_metrics(perfect, codes, strict(classes), codes, "test"):
        if figure.name in ("macro_f1", "weighted_f1", "balanced_accuracy"):
            assert figure.low is not None
            assert (figure.value, figure.high) == (1, 1) and figure.low < 0.95, figure


def test_bootstrapped_intervals_are_as_wide_as_sampling_says() -> None:
    """4000 pictures of two equal classes with recalls 0.9 and 0.7: the standard error of the mean is known."""
    counts = np.array([[1800, 200], [600, 1400]])
    metrics = classification_metrics(_pictures(counts), ("A", "B"), strict(2), ("one", "two"), "test")
    found = next(m for m in metrics if m.name == "balanced_accuracy")
    half = 1.96 * np.sqrt(0.9 * 0.1 / 2000 + 0.7 * 0.3 / 2000) / 2
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.8 - half, abs=half / 5)
    assert found.high == pytest.approx(0.8 + half, abs=half / 5)


def test_groups_are_counted_together() -> None:
    counts = np.arange(16).reshape(4, 4)
    between, names = group_counts(counts, ("x", "y", "x", "y"))
    assert names == ("x", "y")
    assert between.tolist() == [[0 + 2 + 8 + 10, 1 + 3 + 9 + 11], [4 + 6 + 12 + 14, 5 + 7 + 13 + 15]]
