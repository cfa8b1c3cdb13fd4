"""Input quality on drawn cells: each measure reacts to what it is named for, and to little else."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from model.resize import to_square
from model.trust.quality import MEASURES, measure
from training.drawn.painter import paint, paint_red_cells
from training.evaluation.robustness import compress_jpeg, rescale, scale_light, scale_stain

Pictures = NDArray[np.uint8]
SIZE = 128


@pytest.fixture(scope="module")
def drawn() -> Pictures:
    return np.stack([paint(code, seed).picture for code in ("NGS", "LYT", "PMO", "EOS") for seed in range(6)])


def _measured(pictures: Pictures) -> dict[str, NDArray[np.float32]]:
    small = np.stack([to_square(picture, SIZE) for picture in pictures])
    return dict(zip(MEASURES, measure(small).T, strict=True))


def _changed(pictures: Pictures, change: Callable[[Pictures], Pictures]) -> dict[str, NDArray[np.float32]]:
    return _measured(np.stack([change(picture) for picture in pictures]))


def test_a_drawn_cell_has_a_nucleus_in_the_middle_and_a_field_of_red_cells_has_none(drawn: Pictures) -> None:
    assert _measured(drawn)["nucleus_in_middle"].min() > 0.1
    fields = np.stack([paint_red_cells(seed) for seed in range(24)])
    assert _measured(fields)["nucleus_in_middle"].max() < 0.02


def test_blur_lowers_focus_and_light_and_jpeg_do_not(drawn: Pictures) -> None:
    sharp = _measured(drawn)["focus"]
    blurred = _changed(drawn, lambda one: gaussian_filter(one, (2, 2, 0)))["focus"]
    assert (blurred < sharp - 0.3).all()
    assert (_changed(drawn, lambda one: gaussian_filter(one, (4, 4, 0)))["focus"] < blurred).all()
    for kept in (
        _changed(drawn, lambda one: scale_light(one, 0.7)),
        _changed(drawn, lambda one: compress_jpeg(one, 85)),
    ):
        assert (kept["focus"] > blurred).all()


def test_light_changes_brightness_and_stain_changes_density(drawn: Pictures) -> None:
    before, darker = _measured(drawn), _changed(drawn, lambda one: scale_light(one, 0.5))
    np.testing.assert_allclose(darker["brightness"], before["brightness"] / 2, atol=0.01)
    np.testing.assert_allclose(darker["stain"], before["stain"], rtol=0.1)  # relative to the background
    stained = _changed(drawn, lambda one: scale_stain(one, 1.5))
    assert (stained["stain"] > before["stain"]).all()
    assert np.median(stained["stain"] / before["stain"]) == pytest.approx(1.4, abs=0.15)


def test_size_and_offset_are_shares_of_the_side(drawn: Pictures) -> None:
    before = _measured(drawn)
    smaller = _changed(drawn, lambda one: rescale(one, 0.7))
    assert np.median(smaller["nucleus_area"] / before["nucleus_area"]) == pytest.approx(0.49, abs=0.1)
    disc = np.full((SIZE, SIZE, 3), 240, np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    disc[np.hypot(rows - 24, columns - 64) < 16] = (90, 40, 140)
    found = _measured(disc[None])
    assert found["offset"][0] == pytest.approx(40 / SIZE, abs=0.01)
    assert found["nucleus_area"][0] == pytest.approx(np.pi * 16**2 / SIZE**2, rel=0.1)


@pytest.mark.parametrize("size", [64, 96, 224])
def test_measures_do_not_depend_on_the_input_size(drawn: Pictures, size: int) -> None:
    """Focus is of neighbouring pixels, so it is not compared; small pictures have fewer of the darkest pixels."""
    large = measure(np.stack([to_square(picture, 128) for picture in drawn]))
    small = measure(np.stack([to_square(picture, size) for picture in drawn]))
    for at, name in enumerate(MEASURES):
        if name != "focus":
            np.testing.assert_allclose(small[:, at], large[:, at], rtol=0.15, atol=0.08, err_msg=name)


def test_pictures_of_one_colour_have_finite_measures() -> None:
    flat = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 128, 255)])
    found = measure(flat)
    assert np.isfinite(found).all() and (found[:, 0] == 0).all()
