"""Prediction sets: the thresholds are those of crepes, and every class is covered as promised."""

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.trust.fitting import LabelledPredictions, confusion, fit_sets

CODES = ("A", "B", "C")


def _cells(counts: tuple[int, ...], seed: int) -> LabelledPredictions:
    """Cells of classes that are confused more the later they stand in the list."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = generator.normal(size=(len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += np.array([4, 2, 1])[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    empty = np.zeros((len(labels), 6), np.float32)
    return LabelledPredictions(probabilities.astype(np.float32), empty, empty, labels)


def _inside(cells: LabelledPredictions, thresholds: dict[str, float]) -> NDArray[np.bool_]:
    return cells.probabilities >= np.array([thresholds[code] for code in CODES], np.float32)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("counts", [(60, 32, 47), (200, 200, 200), (9, 10, 25)])
def test_sets_are_those_of_crepes(counts: tuple[int, ...], coverage: float) -> None:
    known, asked = _cells(counts, 0), _cells((100, 100, 100), 1)
    reference = fit_sets(known, CODES, coverage)
    theirs = ConformalClassifier()
    own = 1 - known.probabilities[np.arange(len(known)), known.labels].astype(np.float64)
    theirs.fit(own, bins=known.labels)
    scores = 1 - asked.probabilities.astype(np.float64)
    by_class = [
        theirs.predict_p(scores[:, [at]], bins=np.full(len(asked), at), smoothing=False)[:, 0] for at in range(3)
    ]
    expected = np.stack(by_class, axis=1) > 1 - coverage + 1e-9
    np.testing.assert_array_equal(_inside(asked, reference.thresholds), expected)
    assert reference.pictures == dict(zip(CODES, counts, strict=True))


def test_every_class_is_covered_on_average() -> None:
    """Of 300 calibrations with 40 cells a class, the mean coverage of each class is within its binomial error."""
    covered = []
    for seed in range(300):
        thresholds = fit_sets(_cells((40, 40, 40), seed), CODES, 0.9).thresholds
        asked = _cells((50, 50, 50), 1000 + seed)
        own = _inside(asked, thresholds)[np.arange(len(asked)), asked.labels]
        covered.append([own[asked.labels == at].mean() for at in range(3)])
    for mean in np.mean(covered, axis=0):
        assert 0.9 <= mean + 0.006 and mean < 0.935  # 1 - 4 / 41 = 0.902


@given(st.integers(1, 30), st.floats(0.6, 0.99))
def test_a_class_with_few_cells_is_never_excluded_without_proof(count: int, coverage: float) -> None:
    """A threshold above 0 needs at least one cell that may be missed: (n + 1)(1 - coverage) >= 1."""
    threshold = fit_sets(_cells((count, 5, 5), 3), CODES, coverage).thresholds["A"]
    assert (threshold > 0) == ((count + 1) * (1 - coverage) + 1e-9 >= 1)


def test_the_confusion_counts_every_known_cell_once() -> None:
    known = _cells((60, 32, 47), 0)
    found = confusion(known, CODES)
    assert {true: sum(row.values()) for true, row in found.items()} == {"A": 60, "B": 32, "C": 47}
    assert found["A"]["A"] == int((known.probabilities[known.labels == 0].argmax(axis=1) == 0).sum())
