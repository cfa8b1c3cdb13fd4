"""Channel attention: shapes at every grid, gradients; FcaNet and EPSA against the equations of their papers."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.signal import correlate
from scipy.special import expit, softmax

from model.channel import CHANNEL_ATTENTIONS, FrequencyAttention, PyramidSqueezeAttention

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


@pytest.mark.parametrize(("height", "width"), [(7, 7), (4, 4), (2, 3), (16, 16)])
@torch.inference_mode()
def test_fcanet_weights_the_cosine_transform_of_scipy(height: int, width: int) -> None:
    """Type II, each component of mean square 1; what is above the grid's own frequencies is its highest."""
    module = _awake("fca", 48).double()
    assert isinstance(module, FrequencyAttention)
    maps = _maps(1, 48, height, width).double()
    spectrum = dctn(maps[0].numpy(), type=2, axes=(1, 2)) / (4 * height * width)  # (48, H, W)
    seen = np.empty(48)
    for channel in range(48):
        u, v = module.FREQUENCIES[channel // 3]
        u, v = min(u, height - 1), min(v, width - 1)
        seen[channel] = spectrum[channel, u, v] * (2**0.5 if u else 1) * (2**0.5 if v else 1)
    first, second = (layer.weight[:, :, 0, 0].numpy() for layer in (module.fc1, module.fc2))
    weights = expit(second @ np.maximum(first @ seen, 0))
    np.testing.assert_allclose(module(maps)[0].numpy(), maps[0].numpy() * weights[:, None, None], atol=1e-12)


@torch.inference_mode()
def test_epsa_is_its_equations() -> None:
    module = _awake("epsa", 48).double()
    assert isinstance(module, PyramidSqueezeAttention)
    assert [branch.groups for branch in module.branches] == [1, 4, 4, 4]  # 8 and 16 do not divide a quarter of 48
    maps = _maps(1, 48, 5, 5).double()
    scales = np.stack([_grouped_convolution(maps[0].numpy(), branch) for branch in module.branches])
    squeezed = scales.mean(axis=(2, 3))  # (4, 12)
    hidden = np.maximum(squeezed @ module.fc1.weight[:, :, 0, 0].numpy().T + module.fc1.bias.numpy(), 0)
    weights = expit(hidden @ module.fc2.weight[:, :, 0, 0].numpy().T + module.fc2.bias.numpy())
    expected = scales * softmax(weights, axis=0)[:, :, None, None]
    np.testing.assert_allclose(module(maps)[0].numpy(), expected.reshape(48, 5, 5), atol=1e-10)


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
