"""Evaluation: a known temperature is recovered, and every metric states the pictures it was measured on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from training.config import Config
from training.data.images import LabelledImages
from training.data.samples import Sample
from training.evaluation.evaluate import evaluate, evaluate_development, fit_temperature
from training.evaluation.selective import first_half

CODES = ("A", "B", "C")
CONFIG = Config.model_validate(
    {
        "name": "two",
        "version": "0.0.1",
        "classes": [{"code": code, "name": code} for code in CODES],
        "data": {
            "sources": [
                {"name": "marrow", "folder": "m", "licence": "CC0", "attribution": "drawn"},
                {
                    "name": "blood",
                    "folder": "b",
                    "licence": "CC0",
                    "attribution": "drawn",
                    "tissue": "blood",
                    "crop": 0.6,
                },
            ]
        },
        "card": {"intended_use": "tests", "licence": "CC0"},
    }
)


def _overconfident(count: int, times: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident logits: labels are drawn from softmax(logits / times)."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 2, (count, len(CODES)))
    labels = np.array([random.choice(len(CODES), p=row) for row in softmax(honest, axis=1)])
    return (honest * times).astype(np.float32), labels


def _pictures(source: str, labels: np.ndarray) -> LabelledImages:
    samples = [
        Sample(source, CODES[label], f"{number}.png", Path(f"{number}.png")) for number, label in enumerate(labels)
    ]
    return LabelledImages(samples, np.empty((0, 32, 32, 3), np.uint8), labels, [])


def _together(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    return LabelledImages(
        first.samples + second.samples, first.images, np.concatenate([first.labels, second.labels]), []
    )


@pytest.mark.parametrize("times", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_overconfidence(times: float) -> None:
    assert fit_temperature(*_overconfident(20_000, times)) == pytest.approx(times, rel=0.05)


def test_pictures_that_are_all_right_determine_no_temperature() -> None:
    assert fit_temperature(4 * np.eye(9, dtype=np.float32), np.arange(9)) is None


def test_no_temperature_comes_from_no_pictures() -> None:
    with pytest.raises(ValueError, match="no calibration picture"):
        fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64))


def test_the_temperature_is_the_intended_tissues_and_each_source_is_measured_by_itself() -> None:
    (marrow, marrow_labels), (blood, blood_labels) = _overconfident(4000, 2.0), _overconfident(3000, 0.5, seed=1)
    both = _together(_pictures("marrow", marrow_labels), _pictures("blood", blood_labels))
    logits = np.concatenate([marrow, blood])
    evaluation, scores = evaluate(CONFIG, both, both, (logits, logits))
    assert evaluation.temperature == pytest.approx(fit_temperature(marrow, marrow_labels))
    expected = softmax(logits / evaluation.temperature, axis=1)
    np.testing.assert_allclose(scores["test"].probabilities, expected, atol=1e-6)
    n = {metric.split: metric.n for metric in evaluation.metrics if metric.name == "accuracy"}
    assert n == {
        "marrow (bone marrow), last 12.5% of each class in file order": 4000,
        "blood (blood), last 12.5% of each class in file order, cropped to the central 60% of each side": 3000,
    }
    for split, matrix in evaluation.confusion.items():
        assert np.sum(matrix) == n[split]
        hits = next(m.value for m in evaluation.metrics if m.split == split and m.name == "accuracy") * n[split]
        assert np.trace(matrix) == pytest.approx(hits)
    eces = {(m.name, m.split): m.value for m in evaluation.metrics if m.name.startswith("ece")}
    (of_marrow, _) = n
    assert eces["ece", of_marrow] < eces["ece_before_temperature", of_marrow] / 2


def test_development_figures_use_the_temperature_of_the_other_half() -> None:
    logits, labels = _overconfident(2000, 2.0)
    calibration = _pictures("marrow", labels)
    evaluation, scores = evaluate_development(CONFIG, calibration, logits)
    first = first_half(labels)
    for half in (first, ~first):
        assert set(scores.temperature[half]) == {fit_temperature(logits[~half], labels[~half])}
    assert len(set(scores.temperature)) == 2
    assert evaluation.temperature == fit_temperature(logits, labels)
    assert {metric.split for metric in evaluation.metrics} == {
        "marrow (bone marrow), calibration block, development figures"
    }
    accuracy = next(metric for metric in evaluation.metrics if metric.name == "accuracy")
    assert (accuracy.value, accuracy.n) == (pytest.approx((logits.argmax(axis=1) == labels).mean()), 2000)


def test_a_half_without_the_intended_tissue_has_no_temperature_of_its_own() -> None:
    (marrow, marrow_labels), (blood, blood_labels) = _overconfident(1, 1.0), _overconfident(300, 0.5, seed=1)
    both = _together(_pictures("marrow", marrow_labels), _pictures("blood", blood_labels))
    _, scores = evaluate_development(CONFIG, both, np.concatenate([marrow, blood]))
    assert set(scores.temperature) == {1.0}


def test_copies_of_a_patients_pictures_narrow_no_interval() -> None:
    """A hundred and twenty patients with one picture each, and the same with 25 equal pictures each."""
    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(3), 40)
    logits = (2.5 * np.eye(3)[labels] + random.normal(0, 1.5, (120, 3))).astype(np.float32)
    samples = [Sample("marrow", CODES[label], f"{at}.png", Path("x.png"), str(at)) for at, label in enumerate(labels)]
    widths = []
    for copies, patients in ((1, False), (25, True)):
        rows = np.repeat(np.arange(120), copies)
        copied = [replace(samples[row], patient=samples[row].patient if patients else "") for row in rows]
        pictures = LabelledImages(copied, np.empty((0, 32, 32, 3), np.uint8), labels[rows], [])
        evaluation, _ = evaluate(CONFIG, pictures, pictures, (logits[rows], logits[rows]))
        assert evaluation.patients == ({"marrow": 120} if patients else {})
        found = {(m.name, m.code): m.high - m.low for m in evaluation.metrics if m.low is not None}
        del found["ece_by_chance", None]  # no interval: what chance alone gives
        widths.append(found | {("temperature", None): evaluation.temperature_high - evaluation.temperature_low})
    alone, copied = widths
    assert alone.keys() == copied.keys()
    assert len({name for name, _ in alone}) > 15
    for key, width in alone.items():
        assert copied[key] > 0.9 * width, key
