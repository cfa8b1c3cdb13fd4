"""training/metrics.py, held against counts done by hand and against torchmetrics, which no one here wrote."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from training.metrics import expected_calibration_error, macro_f1, measure, proportion

CODES = ("A", "B", "C", "D")


def _drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)  # D never occurs among the labels, but may be answered
    probabilities = random.dirichlet(np.ones(4), n).astype(np.float32)
    return labels, probabilities


def test_wilson_as_in_the_literature() -> None:
    # 8 of 8: 67.6 to 100 %; 5 % of 200: 2.7 to 9.0 % (Wilson 1927).
    whole, few = proportion("recall", 8, 8, "test"), proportion("recall", 10, 200, "test")
    assert (whole.low, whole.high) == (pytest.approx(0.676, abs=5e-4), pytest.approx(1.0))
    assert (few.low, few.high) == (pytest.approx(0.027, abs=5e-4), pytest.approx(0.090, abs=5e-4))


def test_a_share_of_nothing_claims_nothing() -> None:
    empty = proportion("precision", 0, 0, "test", "A")
    assert (empty.low, empty.high, empty.n) == (0.0, 1.0, 0)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200))
def test_figures_agree_with_torchmetrics(seed: int, n: int) -> None:
    labels, probabilities = _drawn(seed, n)
    predicted = probabilities.argmax(axis=1)
    target, scores = torch.from_numpy(labels), torch.from_numpy(probabilities)
    figures = {m.name: m.value for m in measure(labels, probabilities, CODES, "test") if m.code is None}
    assert figures["accuracy"] == pytest.approx(multiclass_accuracy(scores, target, 4, average="micro").item())
    ece = multiclass_calibration_error(scores, target, 4, n_bins=15, norm="l1").item()
    assert expected_calibration_error(labels, probabilities) == pytest.approx(ece, abs=1e-5)
    each = multiclass_f1_score(torch.from_numpy(predicted), target, 4, average=None)
    assert macro_f1(labels, predicted) == pytest.approx(each[np.unique(labels)].mean().item(), abs=1e-6)


def test_every_figure_carries_its_n_and_split() -> None:
    labels, probabilities = _drawn(1, 90)
    metrics = measure(labels, probabilities, CODES, "last block")
    assert {m.split for m in metrics} == {"last block"}
    recalls = {m.code: m.n for m in metrics if m.name == "recall"}
    assert recalls == {code: int((labels == i).sum()) for i, code in enumerate(CODES[:3])}
    assert {m.name for m in metrics if m.low is None} == {"ece"}
    for figure in metrics:
        if figure.low is not None and figure.high is not None:
            assert figure.low <= figure.value <= figure.high


def test_bootstrapped_intervals_are_as_wide_as_sampling_says() -> None:
    """Of 4000 pictures of two classes in equal parts, recalls of 0.9 and 0.7: the mean's standard error is known."""
    labels = np.repeat([0, 1], 2000)
    right = np.concatenate([np.arange(2000) < 1800, np.arange(2000) < 1400])
    probabilities = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
    found = next(m for m in measure(labels, probabilities, ("A", "B"), "test") if m.name == "balanced_accuracy")
    half = 1.96 * np.sqrt(0.9 * 0.1 / 2000 + 0.7 * 0.3 / 2000) / 2
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.8 - half, abs=half / 5)
    assert found.high == pytest.approx(0.8 + half, abs=half / 5)
