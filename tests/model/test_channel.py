"""Channel attention: shapes at every grid, gradients; FcaNet and EPSA against the equations of their papers."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from scipy.signal import correlate
from scipy.special import expit, softmax
from torch.nn.functional import adaptive_avg_pool2d, gelu

from examples import examples
from model.attention import ALL_SCALES
from model.blocks import Block
from model.channel import CHANNEL_ATTENTIONS, FrequencyAttention, PyramidSqueezeAttention, add_channel_attention

KINDS = sorted(CHANNEL_ATTENTIONS)


def _maps(count: int, dim: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(count, dim, height, width, generator=torch.Generator().manual_seed(dim + height))


def _awake(kind: str, dim: int) -> torch.nn.Module:
    """With no parameter at the zero that some begin at, where nothing before it would be seen."""
    torch.manual_seed(0)
    module = CHANNEL_ATTENTIONS[kind](dim)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [48, 160, 336])
@torch.inference_mode()
def test_any_grid_keeps_its_shape_and_no_picture_knows_its_neighbours(kind: str, dim: int) -> None:
    module = _awake(kind, dim).eval()
    for height, width in ((1, 1), (2, 2), (3, 5), (7, 7), (12, 12)):
        maps = _maps(3, dim, height, width)
        together = module(maps)
        assert together.shape == maps.shape and torch.isfinite(together).all()
        torch.testing.assert_close(together[1:2], module(maps[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_every_parameter(kind: str) -> None:
    module = _awake(kind, 96)
    module(_maps(4, 96, 6, 6)).square().sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("kind", ["se", "eca", "fca"])
@torch.inference_mode()
def test_one_weight_a_channel_between_0_and_1(kind: str) -> None:
    maps = _maps(2, 48, 5, 5)
    weights = (_awake(kind, 48).eval()(maps) / maps).flatten(2)
    torch.testing.assert_close(weights.amin(dim=2), weights.amax(dim=2), atol=1e-5, rtol=1e-4)
    assert 0 < weights.min() and weights.max() < 1


@torch.inference_mode()
def test_global_context_begins_as_the_identity() -> None:
    maps = _maps(2, 48, 4, 4)
    assert torch.equal(CHANNEL_ATTENTIONS["gc"](48).eval()(maps), maps)


def _fcanet_components(maps: np.ndarray, frequencies: tuple[tuple[int, int], ...]) -> np.ndarray:
    """scipy's orthonormal DCT of maps (C, H, W) at the published frequencies, scaled as in FcaNet's code: (C,)."""
    spectrum = dctn(maps, type=2, axes=(1, 2), norm="ortho")
    steps, share = [side // 7 for side in maps.shape[1:]], len(maps) // len(frequencies)
    return np.array(
        [spectrum[at, u * steps[0], v * steps[1]] for at, (u, v) in enumerate(np.repeat(frequencies, share, axis=0))]
    )


def _fcanet(module: FrequencyAttention, maps: np.ndarray, components: np.ndarray) -> np.ndarray:
    first, second = (layer.weight[:, :, 0, 0].numpy() for layer in (module.fc1, module.fc2))
    return maps * expit(second @ np.maximum(first @ components, 0))[:, None, None]


# 56, 28, 14 and 7 are the grids of the published networks; 24 is our largest grid at 96 px.
@settings(max_examples=examples(20), deadline=None)
@given(height=st.integers(7, 32), width=st.integers(7, 32))
@example(height=56, width=56)
@example(height=28, width=28)
@example(height=14, width=14)
@example(height=7, width=7)
@example(height=24, width=24)
@torch.inference_mode()
def test_fcanet_weights_the_cosine_transform_of_scipy(height: int, width: int) -> None:
    """Type II, orthonormal, at frequencies with the same number of cycles per position as on 7 x 7."""
    module = _awake("fca", 48).double()
    assert isinstance(module, FrequencyAttention)
    maps = _maps(1, 48, height, width).double()
    components = _fcanet_components(maps[0].numpy(), module.FREQUENCIES)
    np.testing.assert_allclose(module(maps)[0].numpy(), _fcanet(module, maps[0].numpy(), components), atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (6, 6), (3, 9)])
@torch.inference_mode()
def test_fcanet_pools_a_smaller_map_to_7_positions_a_side(height: int, width: int) -> None:
    module = _awake("fca", 48).double()
    assert isinstance(module, FrequencyAttention)
    maps = _maps(1, 48, height, width).double()
    pooled = adaptive_avg_pool2d(maps[0], (max(height, 7), max(width, 7))).numpy()
    components = _fcanet_components(pooled, module.FREQUENCIES)
    np.testing.assert_allclose(module(maps)[0].numpy(), _fcanet(module, maps[0].numpy(), components), atol=1e-10)


@torch.inference_mode()
def test_epsa_is_its_equations() -> None:
    module = _awake("epsa", 48).double()
    assert isinstance(module, PyramidSqueezeAttention)
    assert [branch.groups for branch in module.branches] == [12] * 4  # a quarter of 48
    maps = _maps(1, 48, 5, 5).double()
    scales = np.stack([_grouped_convolution(maps[0].numpy(), branch) for branch in module.branches])
    squeezed = scales.mean(axis=(2, 3))  # (4, 12)
    hidden = np.maximum(squeezed @ module.fc1.weight[:, :, 0, 0].numpy().T + module.fc1.bias.numpy(), 0)
    weights = expit(hidden @ module.fc2.weight[:, :, 0, 0].numpy().T + module.fc2.bias.numpy())
    expected = scales * softmax(weights, axis=0)[:, :, None, None]
    np.testing.assert_allclose(module(maps)[0].numpy(), expected.reshape(48, 5, 5), atol=1e-10)


def _block(kind: str) -> Block:
    torch.manual_seed(0)
    block = Block(48, 4, ALL_SCALES, drop_path=0.0)
    add_channel_attention(block, kind)
    return block.double().eval()


@torch.inference_mode()
def test_epsa_replaces_the_convolution_between_two_1x1_convolutions() -> None:
    block = _block("epsa")
    squeeze = block.mlp.dwconv
    assert isinstance(squeeze, PyramidSqueezeAttention)
    assert isinstance(block.channel_attention, torch.nn.Identity)
    assert [branch.groups for branch in squeeze.branches] == [24] * 4  # the ConvFFN is 192 wide; 24 divides 48
    maps = _maps(1, 48, 6, 6).double()
    expected = block.mlp.fc2(gelu(squeeze(block.mlp.fc1(maps))))
    torch.testing.assert_close(block.mlp(maps), expected)
    # Softmax weights of four branches and no BatchNorm: the map must not vanish at initialisation.
    assert 0.3 < squeeze(_maps(4, 192, 12, 12).double()).std() < 1.5


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"epsa"}))
@torch.inference_mode()
def test_others_weight_the_output_of_the_convffn(kind: str) -> None:
    block = _block(kind)
    maps = _maps(1, 48, 6, 6).double()
    added = block.layer_scale_2 * block.channel_attention(block.mlp(block.norm2(maps)))
    torch.nn.init.zeros_(block.layer_scale_1)
    torch.testing.assert_close(block(maps)[0], maps + added)


def _grouped_convolution(maps: np.ndarray, conv: torch.nn.Conv2d) -> np.ndarray:
    weight = conv.weight.detach().numpy()
    inputs, outputs = weight.shape[1], weight.shape[0] // conv.groups
    padded = np.pad(maps, ((0, 0), *((side // 2, side // 2) for side in weight.shape[2:])))
    rows = [
        correlate(padded[(row // outputs) * inputs : (row // outputs + 1) * inputs], kernel, mode="valid")[0]
        for row, kernel in enumerate(weight)
    ]
    return np.stack(rows)


@pytest.mark.parametrize(("kind", "says"), [("fca", "16 frequencies of FcaNet"), ("epsa", "four branches of EPSA")])
def test_a_width_that_cannot_be_shared_is_said_in_a_sentence(kind: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"a width of 50 cannot be split evenly among the {says}"):
        CHANNEL_ATTENTIONS[kind](50)
