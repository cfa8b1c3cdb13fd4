"""Scores: what is read is what was written, and an incomplete file is an error."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from training.data.samples import Sample
from training.evaluation.scores import Scores, concatenate, read_scores, scores_of, write_predictions, write_scores

CODES = ("A", "B", "C")


def made(n: int, source: str = "one", seed: int = 0, temperature: float = 2.0) -> Scores:
    """Scores of n pictures, with class codes in rotation."""
    samples = [Sample(source, CODES[at % 3], f"{at} ü,.png", Path(f"{at}.png")) for at in range(n)]
    logits = np.random.default_rng(seed).normal(0, 2, (n, 3)).astype(np.float32)
    return scores_of(samples, logits, temperature, CODES)


def test_what_was_written_comes_back_block_by_block(tmp_path: Path) -> None:
    test, calibration = made(7), made(4, "two", 1)
    write_scores(tmp_path / "logits.npz", {"calibration": calibration, "test": test})
    back = read_scores(tmp_path / "logits.npz", "test")
    assert back.codes == CODES and back.keys() == test.keys()
    np.testing.assert_array_equal(back.logits, test.logits)
    np.testing.assert_array_equal(back.temperature, np.full(7, 2.0))
    assert len(read_scores(tmp_path / "logits.npz", "calibration")) == 4


def test_each_picture_keeps_its_own_temperature() -> None:
    both = concatenate([made(3, temperature=0.5), made(3, "two", 1, temperature=4.0)])
    expected = softmax(both.logits / np.array([0.5] * 3 + [4.0] * 3)[:, None], axis=1)
    np.testing.assert_allclose(both.probabilities, expected, rtol=1e-6)
    assert both.of_source("two").keys() == both.keys()[3:]


def test_predictions_name_the_highest_and_its_probability(tmp_path: Path) -> None:
    scores = made(5)
    write_predictions(tmp_path / "p.csv", scores)
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["file"] for row in rows] == [f"{at} ü,.png" for at in range(5)]
    for row, probabilities in zip(rows, scores.probabilities, strict=True):
        assert row["predicted"] == CODES[int(probabilities.argmax())]
        assert float(row["probability"]) == pytest.approx(probabilities.max(), abs=5e-5)


@pytest.mark.parametrize("kept", [0, 100, -20])
def test_a_torn_file_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "logits.npz"
    write_scores(path, {"test": made(50)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"logits\.npz: incomplete file; write it again with `marrowlens-train eval"):
        read_scores(path, "test")
