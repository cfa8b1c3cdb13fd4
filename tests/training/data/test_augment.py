"""Augmentation: each picture changes differently, and a seed reproduces it."""

import numpy as np
import pytest
import torch

from training.config import AugmentConfig
from training.data.augment import jitter_stain, warp
from training.drawn.painter import paint

STILL = AugmentConfig(rotation_degrees=0, shift=0, zoom=0, flip=False, stain=0)


def _cells(count: int, size: int = 64) -> torch.Tensor:
    pictures = np.stack([paint("PMO", seed, size).picture for seed in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def test_nothing_asked_nothing_changed() -> None:
    cells = _cells(2)
    torch.testing.assert_close(warp(cells, 64, STILL), cells, atol=1e-5, rtol=0)
    assert jitter_stain(cells, 0) is cells


def test_each_picture_draws_its_own_numbers_and_a_seed_repeats_them() -> None:
    cells = _cells(1).expand(4, -1, -1, -1)
    torch.manual_seed(3)
    first = jitter_stain(warp(cells, 32, AugmentConfig()), 0.2)
    torch.manual_seed(3)
    again = jitter_stain(warp(cells, 32, AugmentConfig()), 0.2)
    assert first.shape == (4, 3, 32, 32)
    assert torch.equal(first, again)
    assert all((first[0] - first[i]).abs().max() > 0.01 for i in range(1, 4))
    assert first.min() >= 0 and first.max() <= 1


def test_pictures_stay_on_their_device() -> None:
    """torch's meta device replaces a GPU here: like one, it rejects CPU tensors."""
    elsewhere = torch.ones(2, 3, 32, 32, device="meta")
    assert jitter_stain(warp(elsewhere, 32, AugmentConfig()), 0.2).device == elsewhere.device


def test_a_flip_is_a_mirror_image() -> None:
    cells = _cells(1).expand(40, -1, -1, -1)
    torch.manual_seed(0)
    flipped = warp(cells, 64, STILL.model_copy(update={"flip": True}))
    mirrored = [torch.allclose(picture, cells[0].flip(2), atol=1e-4) for picture in flipped]
    assert 5 < sum(mirrored) < 35
    assert all(m or torch.allclose(p, cells[0], atol=1e-4) for m, p in zip(mirrored, flipped, strict=True))


@pytest.mark.parametrize("strength", [0.1, 0.3])
def test_stain_jitter_keeps_white_glass_nearly_white(strength: float) -> None:
    torch.manual_seed(0)
    white = jitter_stain(torch.ones(64, 3, 4, 4), strength)
    assert white.min() > 1 - strength / 2
    dark = jitter_stain(torch.full((64, 3, 4, 4), 0.3), strength)
    assert dark.std(dim=0).max() > 0.01
