"""Hints: a student with the teacher's maps has nothing to learn; others are drawn towards them."""

import pytest
import torch

from training.data.mixing import Mixing
from training.fit.hints import HintProjectors

WIDTHS = {8: 6, 16: 4}


def _maps(seed: int, widths: dict[int, int], side: int = 32, pictures: int = 3) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {s: torch.randn(pictures, c, side // s, side // s, generator=generator) for s, c in widths.items()}


def _alike() -> HintProjectors:
    projectors = HintProjectors(WIDTHS, [WIDTHS])
    for project in projectors[0].values():
        torch.nn.init.dirac_(project.weight)
    return projectors


def test_the_loss_is_the_mean_over_positions_strides_and_teachers() -> None:
    maps = _maps(1, WIDTHS)
    opposite = {stride: -each for stride, each in maps.items()}
    assert _alike().loss(maps, [maps]).item() == pytest.approx(0, abs=1e-6)
    assert _alike().loss(maps, [opposite]).item() == pytest.approx(2, abs=1e-6)
    assert _alike().loss(maps, [{8: maps[8], 16: opposite[16]}]).item() == pytest.approx(1, abs=1e-6)
    both = HintProjectors(WIDTHS, [WIDTHS, WIDTHS])
    both.load_state_dict({f"{at}.{name}": value for at in (0, 1) for name, value in _alike()[0].state_dict().items()})
    assert both.loss(maps, [maps, opposite]).item() == pytest.approx(1, abs=1e-6)


def test_only_strides_that_both_have_are_compared() -> None:
    projectors = HintProjectors({8: 6, 16: 4}, [{16: 5, 32: 7}])
    assert list(projectors[0]) == ["16"]
    projectors.loss(_maps(1, {8: 6, 16: 4}), [_maps(2, {16: 5, 32: 7})])


def test_maps_of_a_larger_input_are_brought_to_the_students_side() -> None:
    constant = {stride: torch.ones_like(each) * 2 for stride, each in _maps(1, WIDTHS, side=64).items()}
    own = {stride: torch.ones_like(each) for stride, each in _maps(1, WIDTHS).items()}
    assert _alike().loss(own, [constant]).item() == pytest.approx(0, abs=1e-6)


def test_pictures_that_the_teacher_has_not_seen_do_not_count() -> None:
    maps = _maps(1, WIDTHS)
    longer = {stride: torch.cat((each, -each)) for stride, each in maps.items()}
    assert _alike().loss(longer, [maps]).item() == pytest.approx(0, abs=1e-6)


def test_learning_draws_the_maps_towards_the_teachers() -> None:
    torch.manual_seed(3)
    teacher = _maps(1, {8: 5, 16: 7})
    student = {stride: each.requires_grad_() for stride, each in _maps(2, WIDTHS).items()}
    projectors = HintProjectors(WIDTHS, [{8: 5, 16: 7}])
    optimiser = torch.optim.Adam([*student.values(), *projectors.parameters()], lr=0.05)
    losses = []
    for _ in range(60):
        loss = projectors.loss(student, [teacher])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.8 and losses[-1] < 0.1


def test_maps_of_mixed_pictures_are_mixed_as_the_pictures_are() -> None:
    maps = torch.rand(4, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    pictures = torch.nn.functional.interpolate(maps, 32)  # each position of the map fills a square of 16 x 16 pixels
    for mixing in (Mixing(0.3), Mixing(0.6, (slice(3, 20), slice(9, 32)), 32)):
        expected = torch.nn.functional.avg_pool2d(mixing.pictures(pictures), 16)
        torch.testing.assert_close(mixing.maps(maps), expected)
