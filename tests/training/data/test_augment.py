"""Augmentation: each picture changes differently, and a seed reproduces it."""

import numpy as np
import pytest
import torch

from training.config import AugmentConfig
from training.data.augment import compress, defocus, exchange_backgrounds, jitter_stain, transfer_stain, warp
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


def test_a_transferred_stain_is_between_the_picture_and_another_and_keeps_its_structure() -> None:
    violet, brown = (np.array(each, np.float32) for each in ((120, 60, 160), (150, 110, 60)))
    dark = torch.tensor(np.stack([violet, brown]) / 255).view(2, 3, 1, 1)
    ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(2, 3, 32, 32)
    pictures = torch.lerp(dark.expand(2, 3, 32, 32), torch.full((2, 3, 32, 32), 0.95), ramp)

    def colour(images: torch.Tensor) -> torch.Tensor:
        return -images.log().mean(dim=(2, 3))

    moved = 0
    for seed in range(20):
        torch.manual_seed(seed)
        changed = transfer_stain(pictures, 1.0)
        low, high = colour(pictures).min(dim=0).values - 0.01, colour(pictures).max(dim=0).values + 0.01
        assert ((colour(changed) > low) & (colour(changed) < high)).all()
        assert (changed[..., 1:] >= changed[..., :-1] - 1e-6).all()  # what was brighter stays brighter
        moved += not torch.allclose(changed, pictures, atol=1e-3)
    assert 5 < moved <= 20  # two pictures swap in half of the permutations
    assert torch.equal(transfer_stain(pictures, 0.0), pictures)
    blank = torch.ones(4, 3, 8, 8)
    assert torch.isfinite(transfer_stain(blank, 1.0)).all()


def test_an_exchanged_background_keeps_the_cell_and_shows_the_other_picture_around_it() -> None:
    images = torch.stack([torch.full((3, 8, 8), value) for value in (0.2, 0.4, 0.6, 0.8)])
    masks = torch.zeros(4, 1, 8, 8)
    masks[:, :, 2:6, 2:6] = 1
    exchanged = exchange_backgrounds(images, masks, share=1)
    assert torch.equal(exchanged[:, :, 3, 3], images[:, :, 3, 3])
    torch.testing.assert_close(exchanged[:, :, 0, 0], images.flip(0)[:, :, 0, 0])
    assert torch.equal(exchange_backgrounds(images, masks, share=0), images)


def test_a_cell_behind_an_exchanged_background_is_not_in_the_middle() -> None:
    """The other picture is shifted by half of its side, so that one cell stays in the middle."""
    images = torch.zeros(2, 3, 8, 8)
    images[1, :, 4, 4] = 1
    exchanged = exchange_backgrounds(images, torch.zeros(2, 1, 8, 8), share=1)
    assert exchanged[0, 0].nonzero().tolist() == [[0, 0]]


def test_defocus_is_a_gaussian_blur_of_each_picture_that_keeps_its_mean() -> None:
    torch.manual_seed(0)
    points = torch.zeros(40, 3, 33, 33)
    points[:, :, 16, 16] = 1
    blurred = defocus(points, share=1, most_sigma=2)
    torch.testing.assert_close(blurred.sum(dim=(2, 3)), torch.ones(40, 3))
    places = torch.arange(33) - 16.0
    spread = (blurred[:, 0].sum(dim=1) * places.square()).sum(dim=1).sqrt()  # standard deviation across
    assert spread.max() < 2.05 and spread.min() < 0.5 and spread.std() > 0.3
    torch.testing.assert_close(blurred[:, 0], blurred[:, 0].transpose(1, 2))


def test_only_a_share_of_the_pictures_is_blurred_or_compressed() -> None:
    torch.manual_seed(0)
    cells = _cells(1).expand(60, -1, -1, -1)
    for changed in (defocus(cells, 0.5, 2.0), compress(cells, 0.5, 30)):
        count = sum(not torch.equal(picture, cells[0]) for picture in changed)
        assert 15 < count < 45
    assert defocus(cells, 0, 2.0) is cells


def test_a_lower_quality_changes_a_picture_more() -> None:
    cells, errors = _cells(2, 128), []
    for quality in (20, 95):
        torch.manual_seed(0)
        compressed = compress(cells, 1, quality)
        assert 0 <= compressed.min() and compressed.max() <= 1
        errors.append((compressed - cells).abs().mean().item())
    assert 0 < errors[1] < 0.02 and errors[0] > errors[1]
