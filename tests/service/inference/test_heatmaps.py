"""Maps as pictures: what the pixels are, where the colours lie, and that nothing leaves its range."""

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image

from service.inference.heatmaps import (
    ATTENTION_SCALE,
    DIVERGING,
    SEQUENTIAL,
    Scale,
    evidence_scale,
    grey_png,
    overlay_png,
)

GRIDS = npst.arrays(
    np.float32, st.tuples(st.integers(1, 16), st.integers(1, 16)), elements=st.floats(-50, 50, width=32)
)
CELL = np.full((64, 64, 3), 200, np.uint8)


def pixels(png: str) -> NDArray[np.uint8]:
    picture = Image.open(BytesIO(b64decode(png, validate=True)))
    assert picture.format == "PNG"
    return np.asarray(picture)


@given(GRIDS)
def test_grey_maps_give_the_numbers_back_within_one_step(grid: NDArray[np.float32]) -> None:
    scale = evidence_scale(grid[None])
    found = pixels(grey_png(grid, scale)).astype(np.float64)
    assert found.shape == grid.shape
    if scale.high > 0:
        back = scale.low + found / 255 * (scale.high - scale.low)
        assert np.abs(back - grid).max() <= (scale.high - scale.low) / 255 * 0.51


@given(GRIDS)
def test_overlays_are_as_large_as_the_picture(grid: NDArray[np.float32]) -> None:
    assert pixels(overlay_png(grid, evidence_scale(grid[None]), CELL)).shape == (64, 64, 3)


def test_attention_is_coloured_where_it_is_high() -> None:
    grid = np.zeros((8, 8), np.float32)
    grid[1, 6] = 1  # row 1, column 6: the upper right
    found = pixels(overlay_png(grid, ATTENTION_SCALE, CELL)).astype(int)
    brightest = np.unravel_index(found[:, :, 1].argmax(), (64, 64))
    assert 8 <= brightest[0] < 16 and 48 <= brightest[1] < 56
    assert found[60, 4].tolist() == ((SEQUENTIAL[0].astype(int) + 200) / 2).round().tolist()


def test_evidence_for_is_red_against_is_blue_and_nothing_leaves_the_cell_as_it_is() -> None:
    grid = np.zeros((8, 8), np.float32)
    grid[:, :3], grid[:, 5:] = -2, 2
    found = pixels(overlay_png(grid, Scale(-2, 2), CELL)).astype(int)
    against, neutral, supporting = found[32, 4], found[32, 32], found[32, 60]
    assert against[2] > against[0] + 50
    assert supporting[0] > supporting[2] + 50
    assert np.abs(neutral - 200).max() <= 10


def test_a_map_without_extent_is_neutral() -> None:
    grid = np.zeros((4, 4), np.float32)
    assert set(pixels(grey_png(grid, evidence_scale(grid[None]))).ravel().tolist()) == {128}


def test_values_beyond_the_scale_are_clipped_not_wrapped() -> None:
    grid = np.array([[-1, 2]], np.float32)
    assert pixels(grey_png(grid, ATTENTION_SCALE)).tolist() == [[0, 255]]


@pytest.mark.parametrize("table", [SEQUENTIAL, DIVERGING], ids=["sequential", "diverging"])
def test_colour_tables_are_smooth(table: NDArray[np.uint8]) -> None:
    assert table.shape == (256, 3)
    assert np.abs(np.diff(table.astype(int), axis=0)).max() <= 4


def test_the_sequential_table_grows_lighter_all_the_way() -> None:
    lightness = SEQUENTIAL @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[-1] - lightness[0] > 150
