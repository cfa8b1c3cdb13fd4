"""Rough masks: drawn cells with known outlines, pictures without a cell, and masks in the cache of decoded pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from training.data.images import decode_samples
from training.data.masks import rough_mask, with_mask
from training.data.samples import Sample


def _disc(side: int, radius: float) -> np.ndarray:
    """A violet disc on a light background with red cells at the edge."""
    rows, columns = np.mgrid[:side, :side]
    picture = np.full((side, side, 3), (235, 225, 225), np.uint8)
    picture[np.hypot(rows - side / 2, columns - side / 2) < radius * side] = (110, 60, 150)
    picture[np.hypot(rows, columns) < 0.2 * side] = (215, 170, 165)
    return picture


def test_the_mask_covers_the_cell_and_little_more() -> None:
    side = 171
    mask = rough_mask(_disc(side, 0.25)) > 127
    radius = np.hypot(*(np.mgrid[:side, :side] - side / 2)) / side
    assert mask[radius < 0.25].all()
    assert not mask[radius > 0.35].any()


def test_a_picture_without_a_cell_gets_a_disc_in_the_middle() -> None:
    for picture in (np.full((96, 96, 3), 220, np.uint8), np.zeros((96, 96, 3), np.uint8)):
        mask = rough_mask(picture) > 127
        assert mask[48, 48] and not mask[0].any()
        assert 0.2 < mask.mean() < 0.5


def test_pictures_are_cached_with_and_without_masks(tmp_path: Path) -> None:
    Image.fromarray(_disc(120, 0.2)).save(tmp_path / "cell.png")
    sample = Sample(source="drawn", code="A", name="cell.png", path=tmp_path / "cell.png")
    for masks, channels in ((True, 4), (False, 3), (True, 4)):
        found = decode_samples([sample], ["A"], 64, {"drawn": 1.0}, "reading", tmp_path / "cache", masks)
        assert found.images.shape == (1, 64, 64, channels)
        if masks:
            np.testing.assert_array_equal(found.images[0], with_mask(np.array(found.images[0, ..., :3])))
