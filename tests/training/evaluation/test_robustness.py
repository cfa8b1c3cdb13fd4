"""Disturbances do to a picture what their strength says; the responses are those of the disturbed pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from model.heads import VANOutput
from model.trust.decision import Assessment
from model.trust.fitting import LabelledPredictions
from training.config import Config
from training.data.images import LabelledImages, decode_samples
from training.data.samples import Sample
from training.evaluation.predictor import Predictor
from training.evaluation.robustness import (
    DISTURBANCES,
    Disturbance,
    blur,
    compress_jpeg,
    measure_responses,
    rescale,
    scale_light,
    scale_stain,
)

SIDE = 128
SIZE = 64
CONFIG = Config.model_validate(
    {
        "name": "drawn",
        "version": "0.0.1",
        "classes": [{"code": code, "name": code} for code in ("DARK", "PALE")],
        "model": {"variant": "micro", "input_size": SIZE, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "data": {
            "sources": [
                {"name": "marrow", "folder": "m", "licence": "CC0", "attribution": "drawn"},
                {"name": "blood", "folder": "b", "licence": "CC0", "attribution": "drawn", "tissue": "blood"},
            ]
        },
        "card": {"intended_use": "tests", "licence": "CC0"},
    }
)


def _disc(radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    picture = np.full((SIDE, SIDE, 3), (235, 225, 225), np.uint8)
    picture[np.hypot(rows, columns) < radius] = (110, 60, 150)
    return picture


@pytest.mark.parametrize("kind", DISTURBANCES, ids=lambda kind: kind.name)
def test_every_disturbance_keeps_the_shape_and_the_original(kind: Disturbance) -> None:
    picture = _disc(30)
    before = picture.copy()
    for strength in kind.strengths:
        changed = kind.change(picture, strength)
        assert changed.shape == picture.shape and changed.dtype == np.uint8
        assert not np.array_equal(changed, picture)
        np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("change", [rescale, scale_stain, scale_light])
def test_a_factor_of_one_changes_nothing(change: object) -> None:
    picture = _disc(30)
    np.testing.assert_allclose(change(picture, 1.0), picture, atol=1)  # type: ignore[operator]


@pytest.mark.parametrize("strength", [0.7, 0.9, 1.2, 1.5])
def test_a_rescaled_cell_has_the_stated_diameter(strength: float) -> None:
    radius = 24
    dark = rescale(_disc(radius), strength)[..., 1] < 140
    assert np.sqrt(dark.sum() / np.pi) == pytest.approx(radius * strength, rel=0.06)


@pytest.mark.parametrize("strength", [0.8, 2.5])
def test_a_blur_is_a_share_of_the_side_and_keeps_the_brightness(strength: float) -> None:
    """A point becomes a Gaussian with the stated standard deviation; an even picture stays as it is."""
    point = np.zeros((SIDE, SIDE, 3), np.uint8)
    point[62:66, 62:66] = 255
    spread = blur(point, strength)[..., 0].astype(float)
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    variance = (spread.sum(axis=0) @ axis**2) / spread.sum() - 15 / 12  # that of four pixels
    assert np.sqrt(variance) == pytest.approx(strength / 100 * SIDE, rel=0.1)
    even = np.full((SIDE, SIDE, 3), 255, np.uint8)
    np.testing.assert_array_equal(blur(even, strength), even)
    assert blur(_disc(30), strength).mean() == pytest.approx(_disc(30).mean(), abs=0.1)


def test_stain_multiplies_the_optical_density() -> None:
    picture = np.full((4, 4, 3), 128, np.uint8)
    assert scale_stain(picture, 2.0)[0, 0, 0] == pytest.approx(255 * (128 / 255) ** 2, abs=0.5)
    assert scale_stain(np.zeros((4, 4, 3), np.uint8), 0.5).max() < 17  # black stays dark, and is no division by 0
    assert scale_light(picture, 1.5)[0, 0, 0] == 192 and scale_light(picture, 3)[0, 0, 0] == 255


def test_a_lower_quality_is_farther_from_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    errors = [np.abs(compress_jpeg(picture, quality).astype(int) - picture).mean() for quality in (95, 50, 10)]
    assert errors == sorted(errors) and errors[0] < errors[2]


class _Brightness(nn.Module):
    """Predicts PALE where the mean of the picture is above a half."""

    def forward(self, x: Tensor) -> VANOutput:
        amount = 20 * (x.mean(dim=(1, 2, 3)) - 0.5)
        logits = torch.stack([-amount, amount], dim=1)
        return VANOutput(logits, logits, logits, logits)


def _predictor(temperature: float = 1.0) -> Predictor:
    return Predictor(_Brightness(), CONFIG, temperature)  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path: Path) -> LabelledImages:
    """Six pictures of even grey: three dark, three pale; then a pale one of blood, labelled DARK."""
    samples = []
    for at, grey in enumerate((40, 80, 110, 145, 180, 220, 250)):
        path = tmp_path / f"{at}.png"
        Image.new("RGB", (100, 100), (grey, grey, grey)).save(path)
        source, code = ("blood", "DARK") if at == 6 else ("marrow", "DARK" if at < 3 else "PALE")
        samples.append(Sample(source, code, path.name, path))
    return decode_samples(samples, CONFIG.codes, SIZE, {"marrow": 1.0, "blood": 1.0}, "reading")


def test_responses_are_the_answers_to_disturbed_pictures_of_the_tissue(pictures: LabelledImages) -> None:
    responses = measure_responses(_predictor(), pictures)
    assert len(responses) == 1 + sum(len(kind.strengths) for kind in DISTURBANCES)
    as_is, *disturbed = responses
    assert (as_is.disturbance, as_is.n, as_is.accuracy, as_is.change) == ("as is", 6, 1, 0)
    found = {(one.disturbance, one.strength): one for one in disturbed}
    for one in disturbed:
        assert one.low <= one.accuracy <= one.high and one.change == pytest.approx(one.accuracy - 1)
        assert one.change_low <= one.change <= one.change_high
    darker = found["light", 0.6]  # of 145, 180 and 220 only the last stays above 127
    assert darker.accuracy == pytest.approx(4 / 6)
    brighter = found["light", 1.4]  # 110 becomes 154
    assert brighter.accuracy == pytest.approx(5 / 6)
    assert found["blur", 2.4].accuracy == found["cell size", 0.7].accuracy == 1  # even grey stays even grey


def test_only_wrong_answers_above_nine_tenths_count_as_confident(pictures: LabelledImages) -> None:
    sure, unsure = (
        {(one.disturbance, one.strength): one for one in measure_responses(_predictor(t), pictures)}
        for t in (0.1, 100.0)
    )
    key = ("light", 0.6)
    assert sure[key].accuracy == unsure[key].accuracy
    assert sure[key].confident_errors == pytest.approx(2 / 6)
    assert unsure[key].confident_errors == 0


def test_accepted_answers_are_those_that_the_decision_accepts(pictures: LabelledImages) -> None:
    """The decision gets the answers and the rows of the block, and accepts here all but the first two pictures."""
    rows_seen = []

    def decide(cells: LabelledPredictions, rows: NDArray[np.int64]) -> list[Assessment]:
        assert len(cells) == len(rows)
        rows_seen.append(rows.tolist())
        return [Assessment("accept" if row > 1 else "reject", (), ("PALE",), 1.0, 0.5) for row in rows]

    responses = measure_responses(_predictor(0.1), pictures, decide)
    assert rows_seen == [list(range(6))] * len(responses)
    assert all(one.accepted == pytest.approx(4 / 6) for one in responses)
    darker = next(one for one in responses if (one.disturbance, one.strength) == ("light", 0.6))
    assert darker.accepted_accuracy == pytest.approx(2 / 4)  # 145 and 180 are now called DARK
    assert darker.accepted_confident_errors == darker.confident_errors == pytest.approx(2 / 6)
    assert all(one.accepted is None for one in measure_responses(_predictor(), pictures))


def test_without_a_picture_of_the_tissue_there_is_nothing_to_measure(pictures: LabelledImages) -> None:
    blood = LabelledImages(pictures.samples[6:], pictures.images[6:], pictures.labels[6:], [])
    assert measure_responses(_predictor(), blood) == ()


def test_pictures_of_one_patient_say_nothing_about_others(pictures: LabelledImages) -> None:
    of_one = replace(pictures, samples=[replace(sample, patient="one") for sample in pictures.samples])
    responses = measure_responses(_predictor(), of_one)
    assert {(one.low, one.high) for one in responses} == {(0, 1)}
    assert {(one.change_low, one.change_high) for one in responses if one.change} == {(-1, 1)}
