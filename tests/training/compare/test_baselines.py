"""Features and classifiers on drawn cells: they distinguish classes, and rotating a cell changes little."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from training.compare.baselines import ClassicalModel, measure_features, optical_density, segment
from training.drawn.painter import paint

CODES = ("EBO", "EOS", "LYT", "NGS")
SIZE = 64


def _drawn(codes: tuple[str, ...], seeds: range, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([paint(code, seed, size).picture for code in codes for seed in seeds])
    return images, np.repeat(np.arange(len(codes)), len(seeds))


@pytest.fixture(scope="module")
def learned() -> tuple[np.ndarray, np.ndarray]:
    return _drawn(CODES, range(15))


@pytest.mark.parametrize("kind", ["boosting", "forest", "logistic"])
def test_it_beats_chance_clearly_on_cells_it_has_not_seen(learned: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    model = ClassicalModel(6, kind).fit_features(_features(learned[0]), learned[1] + 1)  # type: ignore[arg-type]
    images, labels = _drawn(CODES, range(100, 108))
    probabilities = model.predict_proba(images)
    assert probabilities.shape == (len(images), 6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert not probabilities[:, [0, 5]].any()  # no training picture of these classes
    right = int((probabilities.argmax(axis=1) == labels + 1).sum())
    assert binomtest(right, len(images), 1 / len(CODES), alternative="greater").pvalue < 1e-4


_measured: dict[int, np.ndarray] = {}


def _features(images: np.ndarray) -> np.ndarray:
    if id(images) not in _measured:
        _measured[id(images)] = ClassicalModel(2).measure(images)
    return _measured[id(images)]


def test_a_quarter_turn_and_a_mirror_change_nothing_but_rounding(learned: tuple[np.ndarray, np.ndarray]) -> None:
    spread = _features(learned[0]).std(axis=0)
    for image in learned[0][::12]:
        for moved in (np.rot90(image), image[:, ::-1]):
            changed = np.abs(measure_features(np.ascontiguousarray(moved)) - measure_features(image)) / spread.clip(
                1e-6
            )
            assert changed.mean() < 0.03 and changed.max() < 1.5  # a local pattern at the edge of two bins


def test_any_turn_changes_far_less_than_another_cell_does(learned: tuple[np.ndarray, np.ndarray]) -> None:
    """On average less than a quarter of the spread between cells, interpolation included."""
    spread = _features(learned[0]).std(axis=0)
    varied = spread > 1e-6  # empty histogram bins have no spread
    changes = []
    for code in CODES:
        large = Image.fromarray(paint(code, 3, 3 * SIZE // 2).picture)
        first, *turned = (
            measure_features(np.asarray(_centre(large.rotate(degrees, Image.Resampling.BICUBIC))))
            for degrees in (1, 31, 76, 118)
        )
        changes += [(np.abs(other - first) / spread.clip(1e-6))[varied] for other in turned]
    assert np.mean(changes) < 0.25


def _centre(image: Image.Image) -> Image.Image:
    start = (image.width - SIZE) // 2
    return image.crop((start, start, start + SIZE, start + SIZE))


def test_nucleus_and_cell_are_found_where_they_were_drawn() -> None:
    overlaps = []
    for code in ("LYT", "NGS", "MYB", "EBO", "PLM"):
        for seed in range(3):
            painting = paint(code, seed, 96)
            found = segment(optical_density(painting.picture)[..., 1]).nucleus
            overlaps.append((found & painting.nucleus_mask).sum() / (found | painting.nucleus_mask).sum())
    assert np.median(overlaps) > 0.75


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_picture_without_a_cell_has_features_too(grey: int) -> None:
    features = measure_features(np.full((SIZE, SIZE, 3), grey, np.uint8))
    assert np.isfinite(features).all() and features.shape == measure_features(paint("LYT", 0, SIZE).picture).shape
