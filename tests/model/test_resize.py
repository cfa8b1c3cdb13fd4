"""The SIMD filter beside Pillow's: the same picture but for the last step of rounding, whatever its shape."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from examples import examples
from model import resize
from model.resize import by_pillow, picture_to_square, to_square

SIDES = st.integers(8, 400)


def pixels(height: int, width: int, seed: int = 0) -> resize.Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(height=SIDES, width=SIDES, size=st.sampled_from([32, 96, 128, 224]), seed=st.integers(0, 2**32 - 1))
@example(height=144, width=392, size=224, seed=242)  # one value of 150,528 is off by two
@settings(max_examples=examples(60), deadline=None)
def test_values_are_off_by_one_level_and_hardly_any_by_two(height: int, width: int, size: int, seed: int) -> None:
    picture = pixels(height, width, seed)
    off = to_square(picture, size).astype(int) - by_pillow(picture, size)
    assert np.abs(off).max() <= 2  # each direction rounds, and the first one's error enters the second
    assert (np.abs(off) > 1).mean() < 1e-3
    assert (off != 0).mean() < 0.15  # as many only where weights are round numbers, 40 to 32 px, and ties come up
    if height > width:
        assert not off.any()


@pytest.mark.parametrize("side", [249, 250, 251, 300, 345, 360, 363, 400])
def test_cells_are_as_good_as_equal(side: int) -> None:
    picture = pixels(side, side)
    for size in (64, 96, 128):
        assert (to_square(picture, size) != by_pillow(picture, size)).mean() < 0.01


def test_a_picture_of_that_size_is_left_alone() -> None:
    picture = pixels(96, 96)
    assert to_square(picture, 96) is picture


def test_one_colour_stays_that_colour() -> None:
    for value in (0, 1, 127, 128, 254, 255):
        assert (to_square(np.full((131, 250, 3), value, np.uint8), 128) == value).all()


def test_rows_that_do_not_lie_side_by_side_are_read_right() -> None:
    turned = pixels(200, 120).transpose(1, 0, 2)
    assert (to_square(turned, 64) == to_square(np.ascontiguousarray(turned), 64)).all()


def test_large_pictures_and_machines_without_simd_are_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    large = pixels(1001, 1000)
    assert (to_square(large, 64) == by_pillow(large, 64)).all()
    small = pixels(200, 200)
    assert (to_square(small, 64) != by_pillow(small, 64)).any() == resize.SIMD
    monkeypatch.setattr(resize, "SIMD", False)
    assert (to_square(small, 64) == by_pillow(small, 64)).all()


@given(height=SIDES, width=SIDES, less=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)))
@settings(max_examples=examples(40), deadline=None)
def test_a_part_of_the_last_row_and_column(height: int, width: int, less: tuple[float, float]) -> None:
    picture = pixels(height, width)
    extent = (height - less[0], width - less[1])
    off = to_square(picture, 96, extent).astype(int) - by_pillow(picture, 96, extent)
    assert np.abs(off).max() <= 2  # each direction rounds, and the first one's error enters the second
    assert (np.abs(off) > 1).mean() < 1e-3


@given(height=SIDES, width=SIDES, size=st.sampled_from([32, 96, 128, 224]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=examples(60), deadline=None)
def test_a_pillow_picture_gives_the_pixels_of_its_array(height: int, width: int, size: int, seed: int) -> None:
    picture = pixels(height, width, seed)
    assert (picture_to_square(Image.fromarray(picture), size) == to_square(picture, size)).all()


@pytest.mark.parametrize(("height", "width"), [(96, 96), (1000, 1001), (300, 299)])
def test_a_pillow_picture_of_a_special_shape_gives_the_pixels_of_its_array(height: int, width: int) -> None:
    picture = pixels(height, width)
    assert (picture_to_square(Image.fromarray(picture), 96) == to_square(picture, 96)).all()
