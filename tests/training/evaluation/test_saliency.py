"""Tests of maps: shares inside masks, deletion and insertion, and shuffled weights, against plain re-statements."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from examples import examples
from model.heads import VANOutput
from model.van import VAN
from training.config import Config
from training.data.images import LabelledImages
from training.data.samples import Sample
from training.evaluation.saliency import (
    MOST_PICTURES,
    SHARES,
    border_colours,
    gaussians_like,
    maps_of,
    measure_maps,
    rank_correlation,
    ranks_of,
    share_inside,
    shuffled_weights,
)
from training.networks.trunks import PooledClassifier

SIDE = 64
CONFIG = Config.model_validate(
    {
        "name": "drawn",
        "version": "0.0.1",
        "classes": [
            {"code": "EOS", "name": "Eosinophil"},
            {"code": "LYT", "name": "Lymphocyte"},
            {"code": "ART", "name": "Artefact", "countable": "never"},
        ],
        "model": {"variant": "micro", "input_size": SIDE, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "data": {
            "sources": [
                {"name": "marrow", "folder": "m", "licence": "CC0", "attribution": "drawn"},
                {"name": "blood", "folder": "b", "licence": "CC0", "attribution": "drawn", "tissue": "blood"},
            ]
        },
        "card": {"intended_use": "tests", "licence": "CC0"},
    }
)
#: Rows and columns of the blob that decides the answer, off the middle of the picture.
BLOB = (slice(8, 24), slice(8, 24))


class _BlobReader(nn.Module):
    """Predicts class 0 from the darkness of the blob; its attention marks the blob, or everything else."""

    attention_scales = ("right", "wrong")

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([8.0]))

    def parts(self) -> dict[str, list[nn.Module]]:
        return {"MLKA": [self]}

    def forward(self, x: Tensor) -> VANOutput:
        dark = 1 - x.mean(dim=1)
        region = torch.zeros(SIDE, SIDE)
        region[BLOB] = 1
        amount = (dark * region).sum(dim=(1, 2)) / region.sum()
        logits = torch.stack([self.gain * amount, torch.full_like(amount, 2.0), torch.zeros_like(amount)], dim=1)
        marked = torch.stack([region, 1 - region]).expand(len(x), -1, -1, -1)
        evidence = (dark * region)[:, None].repeat(1, 3, 1, 1)
        return VANOutput(logits, marked, evidence, logits)


def _pictures(count: int, source: str = "marrow", label: int = 0) -> LabelledImages:
    """Bright pictures with a dark blob off the middle."""
    images = np.full((count, SIDE, SIDE, 3), 230, np.uint8)
    images[(slice(None), *BLOB)] = np.linspace(0, 60, count, dtype=np.uint8)[:, None, None, None]
    samples = [Sample(source, CONFIG.codes[label], f"{at}.png", Path(f"{at}.png")) for at in range(count)]
    return LabelledImages(samples, images, np.full(count, label, dtype=np.int64), [])


def test_the_map_that_marks_what_the_answer_depends_on_beats_the_disc_and_the_other_does_not() -> None:
    right, wrong, evidence = measure_maps(_BlobReader(), CONFIG, _pictures(12))  # type: ignore[arg-type]
    assert [one.map for one in (right, wrong, evidence)] == ["attention right", "attention wrong", "evidence"]
    for one in (right, evidence):
        assert one.n == 12
        assert one.deletion.map < one.deletion.disc - 0.2 and one.insertion.map > one.insertion.disc + 0.2
        for curve in (one.deletion, one.insertion):
            assert 0.2 < curve.better_low <= curve.better <= curve.better_high
    assert wrong.deletion.better < 0 and wrong.insertion.better < 0
    assert right.inside == pytest.approx(evidence.inside, abs=0.02)
    assert right.inside + wrong.inside == pytest.approx(2 * right.cell_area, abs=0.5)  # complementary maps
    for one in (right, wrong, evidence):
        assert one.inside_more == pytest.approx(one.inside - one.inside_gaussian)
        assert one.inside_cell_sized == right.inside_cell_sized  # of the cells alone
        assert one.inside_more_low <= one.inside_more <= one.inside_more_high
    assert wrong.deletion.disc == right.deletion.disc and wrong.insertion.random == right.insertion.random


def test_a_curve_is_the_mean_probability_over_the_shares() -> None:
    """One picture at a time, with plain loops."""
    net, pictures = _BlobReader(), _pictures(3)
    right, *_ = measure_maps(net, CONFIG, pictures)  # type: ignore[arg-type]
    marked = np.zeros((SIDE, SIDE))
    marked[BLOB] = 1
    order = np.argsort(-marked.ravel(), kind="stable")
    means = []
    for image in pictures.images:
        for share in SHARES:
            pixels = image.reshape(-1, 3).copy()
            first = order[: int(np.ceil(share * len(pixels)))]
            pixels[first] = 230  # the colour of the border; beyond the blob, every pixel has it already
            planes = torch.from_numpy(pixels.reshape(SIDE, SIDE, 3)).permute(2, 0, 1)[None].float() / 255
            means.append(torch.softmax(net(planes).logits, dim=1)[0, 0].item())
    assert right.deletion.map == pytest.approx(np.mean(means), abs=1e-6)


def test_only_cells_of_the_intended_tissue_are_measured() -> None:
    parts = [_pictures(5), _pictures(4, label=2), _pictures(3, source="blood")]
    together = LabelledImages(
        [sample for part in parts for sample in part.samples],
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [],
    )
    net = _BlobReader()
    assert measure_maps(net, CONFIG, together) == measure_maps(net, CONFIG, parts[0])  # type: ignore[arg-type]
    assert measure_maps(net, CONFIG, parts[1]) == ()  # type: ignore[arg-type]
    many = measure_maps(net, CONFIG, _pictures(MOST_PICTURES + 30))  # type: ignore[arg-type]
    assert many[0].n == MOST_PICTURES


_MAPS = arrays(np.float32, (2, 16, 16), elements=st.floats(0, 1, width=32))


@settings(max_examples=examples(50))
@given(_MAPS, st.floats(0.25, 8, width=32))
def test_shares_inside_lie_in_0_to_1_and_ignore_the_scale_of_a_map(found: np.ndarray, factor: float) -> None:
    masks = np.zeros((2, 16, 16), np.float32)
    masks[:, 4:12, 4:12] = 1
    inside = share_inside(found, masks)
    assert ((inside >= 0) & (inside <= 1 + 1e-6)).all()
    if found.max() > 1e-6:
        np.testing.assert_allclose(share_inside(found * np.float32(factor), masks), inside, atol=1e-4)
    np.testing.assert_allclose(inside + share_inside(found, 1 - masks), 1, atol=1e-4)


@pytest.mark.parametrize("spread", [2.0, 4.0, 6.0, 13.0, 20.0, 40.0])
def test_the_gaussian_of_a_gaussian_is_itself_however_wide(spread: float) -> None:
    """Also if the picture cuts it off."""
    (like,) = gaussians_like(_gaussian(spread)[None])
    np.testing.assert_allclose(like, _gaussian(spread), atol=0.01)


def test_the_gaussian_lies_in_the_middle_wherever_the_map_is() -> None:
    (like,) = gaussians_like(_gaussian(4.0, (24, 38))[None])
    np.testing.assert_allclose(like, _gaussian(4.0), atol=0.01)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_even_or_empty_map_is_compared_with_an_even_one(value: float) -> None:
    found, masks = np.full((1, SIDE, SIDE), value, np.float32), (_gaussian(10.0) > 0.5)[None].astype(np.float32)
    np.testing.assert_allclose(share_inside(gaussians_like(found), masks), share_inside(found, masks), atol=2e-3)


def _gaussian(spread: float, centre: tuple[float, float] = (31.5, 31.5)) -> np.ndarray:
    row, column = np.mgrid[:SIDE, :SIDE]
    return np.exp(-((row - centre[0]) ** 2 + (column - centre[1]) ** 2) / (2 * spread**2)).astype(np.float32)


@settings(max_examples=examples(50))
@given(_MAPS)
def test_ranks_order_every_pixel_once_from_the_highest(order: np.ndarray) -> None:
    for found, ranks in zip(order, ranks_of(order), strict=True):
        places = np.round(ranks.ravel() * 256).astype(int)
        assert sorted(places) == list(range(256))
        assert (np.diff(found.ravel()[np.argsort(places)]) <= 0).all()


def test_equal_values_are_ranked_in_random_order_not_from_the_top() -> None:
    (ranks,) = ranks_of(np.zeros((1, SIDE, SIDE), np.float32))
    first = np.argwhere(ranks < 0.3)
    assert abs(first.mean(axis=0) - (SIDE - 1) / 2).max() < SIDE / 8


def test_the_correlation_is_over_pictures_that_have_one() -> None:
    constant, rising = np.zeros((1, 4, 4), np.float32), np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    both = np.concatenate([constant, rising])
    assert rank_correlation(both, [both]) == pytest.approx(1)
    assert rank_correlation(both, [both, np.concatenate([rising, -rising])]) == pytest.approx(0)
    assert rank_correlation(constant, [rising]) is None


def test_a_network_without_attention_is_measured_by_its_evidence() -> None:
    net = PooledClassifier(nn.Identity(), 3, 3)
    net.trunk.forward_features = lambda x: x
    assert [one.map for one in measure_maps(net.eval(), CONFIG, _pictures(3))] == ["evidence"]


def test_the_border_gives_the_colour_of_what_is_deleted() -> None:
    images = np.full((1, SIDE, SIDE, 3), 100, np.uint8)
    images[:, 8:-8, 8:-8] = 0
    assert border_colours(images).ravel().tolist() == [100, 100, 100]


def test_shuffled_weights_are_the_same_values_in_another_order() -> None:
    torch.manual_seed(0)
    net = VAN("micro", 3).eval()
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    shuffled = shuffled_weights(net)
    for name, parameter in shuffled.named_parameters():
        torch.testing.assert_close(parameter.flatten().sort().values, before[name].flatten().sort().values)
    moved = {name for name, parameter in shuffled.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, values in before.items() if len(values.unique()) > 1}
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_maps_that_ignore_the_weights_are_found_out() -> None:
    """The attention of the blob reader is a constant: shuffling changes nothing. That of a network is not."""
    fixed = measure_maps(_BlobReader(), CONFIG, _pictures(4))[0]  # type: ignore[arg-type]
    assert fixed.shuffled_correlation == pytest.approx(1)
    torch.manual_seed(0)
    net, images = VAN("micro", 3).eval(), np.random.default_rng(0).integers(0, 255, (6, SIDE, SIDE, 3), np.uint8)
    classes = np.zeros(6, dtype=np.int64)
    own, other = maps_of(net, CONFIG, images, classes), maps_of(shuffled_weights(net, 1), CONFIG, images, classes)
    assert list(own) == [*(f"attention {scale}" for scale in net.attention_scales), "evidence"]
    assert all(own[name].shape == other[name].shape == (6, SIDE, SIDE) for name in own)
    assert not np.allclose(own["evidence"], other["evidence"])


def test_pictures_of_one_patient_say_nothing_about_others() -> None:
    net, pictures = _BlobReader(), _pictures(12)
    of_one = replace(pictures, samples=[replace(sample, patient="one") for sample in pictures.samples])
    measured = (measure_maps(net, CONFIG, each) for each in (of_one, pictures))  # type: ignore[arg-type]
    for one, independent in zip(*measured, strict=True):
        assert (one.inside_more_low, one.inside_more_high) == (-1, 1)
        assert (one.deletion.better_low, one.deletion.better_high) == (-1, 1)
        assert -1 < independent.inside_more_low <= independent.inside_more_high < 1
