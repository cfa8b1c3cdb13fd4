"""Palettes of TIFF files, and tags without which nothing can be shown: read as they were meant, or refused."""

import struct

import numpy as np
import pytest
from tiff_files import Page, Values, page, tiff_file

from model.formats.errors import PictureError
from model.image import decode

CELL = np.random.default_rng(5).integers(0, 256, (40, 32, 3)).astype(np.uint8)


def shown(only: Page) -> np.ndarray:
    return decode(tiff_file(only), 32)


@pytest.mark.parametrize("scale", [1, 257, 256])
def test_a_palette_of_8_bits_is_scaled(scale: int) -> None:
    indices = CELL[..., :1]
    palette = np.stack([np.arange(256), np.arange(255, -1, -1), np.arange(256) // 2])
    tags = {320: tuple(int(level) * scale for level in palette.ravel())}
    assert (shown(page(indices, 3, tags=tags)) == shown(page(palette.T[indices[..., 0]].astype(np.uint8)))).all()


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({320: tuple(16 * level for level in range(256)) * 3}, "palette far below full scale: the maximum is 4080"),
        ({320: tuple(range(256))}, "its palette has 256 values"),
        ({}, "its palette has 0 values"),
    ],
)
def test_a_palette_that_says_no_colours_is_refused(tags: dict[int, Values], reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        shown(page(CELL[..., :1], 3, tags=tags))


def test_a_dark_palette_of_8_bits_is_read() -> None:
    for scale in (256, 257):
        tags: dict[int, Values] = {320: tuple(scale * (level // 4) for level in range(256)) * 3}
        assert shown(page(CELL[..., :1], 3, tags=tags)).max() < 64


def test_samples_of_which_nothing_is_said_are_refused() -> None:
    grey = page(CELL[..., :1], 1)
    silent = grey._replace(tags={tag: value for tag, value in grey.tags.items() if tag != 262})
    with pytest.raises(PictureError, match="PhotometricInterpretation .tag 262. is missing"):
        shown(silent)


def test_sizes_of_strips_that_are_not_told_are_those_of_the_pixels() -> None:
    whole = tiff_file(page(CELL, tags={278: len(CELL)})._replace(strips=[CELL.tobytes()]))
    size = struct.pack("<HHIHH", 279, 3, 1, CELL.nbytes, 0)
    assert whole.count(size) == 1
    untold = whole.replace(size, struct.pack("<HHIHH", 279, 3, 1, 0, 0))
    assert (decode(untold, 64) == decode(whole, 64)).all()
