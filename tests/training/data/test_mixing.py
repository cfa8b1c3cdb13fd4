"""Mixup and CutMix: pictures, labels and masks are combined in the same shares."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.config import AugmentConfig
from training.data.mixing import Mixing, draw_mixing


@given(st.integers(0, 2**31), st.sampled_from([(0.4, 0.0), (0.0, 1.0), (0.2, 0.7)]), st.integers(8, 40))
def test_the_share_of_the_labels_is_that_of_the_pixels(seed: int, alphas: tuple[float, float], side: int) -> None:
    torch.manual_seed(seed)
    config = AugmentConfig(mixup_alpha=alphas[0], cutmix_alpha=alphas[1], mixed_share=1)
    mixing = draw_mixing(config, side)
    first, second = torch.zeros(1, 1, side, side), torch.ones(1, 1, side, side)
    mixed = mixing.pictures(torch.cat([first, second]))
    assert mixed[0].mean().item() == pytest.approx(1 - mixing.share, abs=1e-6)
    labels = mixing.labels(torch.eye(2))
    torch.testing.assert_close(labels[0], torch.tensor([mixing.share, 1 - mixing.share]))
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(2))


def test_nothing_is_mixed_without_an_alpha_or_a_share() -> None:
    images = torch.rand(4, 3, 8, 8)
    for config in (AugmentConfig(mixed_share=1), AugmentConfig(mixup_alpha=1, mixed_share=0)):
        mixing = draw_mixing(config, 8)
        assert torch.equal(mixing.pictures(images), images) and mixing.share == 1


def test_both_take_turns_and_their_share_of_the_batches_is_kept() -> None:
    torch.manual_seed(0)
    config = AugmentConfig(mixup_alpha=0.5, cutmix_alpha=0.5, mixed_share=0.6)
    drawn = [draw_mixing(config, 32) for _ in range(400)]
    cut, plain = sum(m.box is not None for m in drawn), sum(m == Mixing() for m in drawn)
    assert 80 < cut < 160 and 120 < plain < 200


def test_masks_are_united_by_mixup_and_cut_by_cutmix() -> None:
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, :, 0], masks[1, :, :, 3] = 1, 1
    united = Mixing(0.7).masks(masks)
    assert torch.equal(united[0], united[1]) and united[0].sum() == 7
    cut = Mixing(0.5, (slice(2, 4), slice(0, 4))).masks(masks)
    assert cut[0, 0].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
