"""Scores and differences of models on the same pictures, compared with scipy, scikit-learn and hand calculation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import accuracy_score, f1_score

from examples import examples
from model.agreement.class_averages import DRAWS
from training.evaluation.paired import draw_scores, holm, mcnemar, p_value

seeds = st.integers(0, 2**32 - 1)


def _answers(seed: int, n: int, right: float, runs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and predictions (runs, n) of five classes; about this share is correct."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, n)
    guesses = random.integers(0, 5, (runs, n))
    return labels, np.where(random.random((runs, n)) < right, labels, guesses)


def _gains(gained: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Draws of a gain in accuracy from the posterior of each class, which has one added picture (Jeffreys' prior)."""
    shares = np.random.default_rng(0).beta(np.maximum(gained, 1e-9), size - gained + 1, (100_000, len(size)))
    return shares @ (size / size.sum())


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_twice_the_smaller_tail(first: int, second: int) -> None:
    tail = binom.cdf(min(first, second), first + second, 0.5)
    assert mcnemar(first, second) == pytest.approx(min(2 * tail, 1.0))
    assert mcnemar(first, second) == mcnemar(second, first)


@given(seeds, st.integers(2, 200), st.floats(0, 1), st.integers(1, 3))
def test_figures_are_those_of_scikit_learn(seed: int, n: int, right: float, runs: int) -> None:
    labels, answers = _answers(seed, n, right, runs)
    found = draw_scores(labels, answers, 5)
    assert found.accuracy.value == pytest.approx(np.mean([accuracy_score(labels, a) for a in answers]), abs=1e-6)
    macro = [f1_score(labels, a, labels=np.unique(labels), average="macro", zero_division=0) for a in answers]
    assert found.macro_f1.value == pytest.approx(np.mean(macro), abs=1e-6)


@settings(max_examples=examples(10))
@given(seeds)
def test_a_difference_is_over_the_same_pictures(seed: int) -> None:
    labels, answers = _answers(seed, 300, 0.7)
    better = answers.copy()
    wrong = np.flatnonzero(answers[0] != labels)[:30]
    better[0, wrong] = labels[wrong]
    gained = draw_scores(labels, better, 5).accuracy - draw_scores(labels, answers, 5).accuracy
    assert gained.value == pytest.approx(0.1)
    # Thirty of 300 pictures more are correct and none fewer: the paired interval is that of their number in each class.
    expected = _gains(np.bincount(labels[wrong], minlength=4), np.bincount(labels, minlength=4))
    below = [(expected < end - 0.1 + expected.mean()).mean() for end in gained.difference_interval()]
    assert below == pytest.approx([0.025, 0.975], abs=5 * (0.025 * 0.975 / DRAWS) ** 0.5)  # five standard errors
    assert p_value(labels, better, answers) == pytest.approx(mcnemar(30, 0))
    unchanged = draw_scores(labels, answers, 5).accuracy - draw_scores(labels, answers.copy(), 5).accuracy
    assert unchanged.difference_interval() == (0, 0)


def test_of_several_runs_the_same_question_is_answered_by_permutation() -> None:
    labels, first = _answers(1, 400, 0.75)
    second = _answers(2, 400, 0.0)[1]
    second = np.where(np.random.default_rng(3).random((1, 400)) < 0.7, labels, second)
    exact = p_value(labels, first, second)
    permuted = p_value(labels, np.repeat(first, 2, axis=0), second)  # the same predictions twice: the same hypothesis
    assert 0.001 < exact < 1
    assert permuted == pytest.approx(exact, abs=0.02)
    assert p_value(labels, np.repeat(first, 2, axis=0), first) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
