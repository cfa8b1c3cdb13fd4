"""VAN-MLKA against its equations, implemented in float64 without torch: parts, block, and whole networks."""

from dataclasses import replace
from typing import TypeVar

import mlka_equations as equations
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.attention import ALL_SCALES, MLKA
from model.blocks import Block, MCNNStem
from model.heads import AttentionPooling, CrossScaleAttention
from model.lite import DEPTHS, SCALES, LiteVAN
from model.van import VAN, VARIANTS

CLASSES = 5
TWO = ("3-5-1", "7-9-1")


Module = TypeVar("Module", bound=torch.nn.Module)


def _awake(module: Module) -> Module:
    """In float64 and eval mode, with no parameter or statistic at the value that it begins with."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.double().state_dict().items():
        drawn = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
        if "running_var" in name:
            tensor.copy_(0.5 + drawn.abs())
        elif tensor.ndim == 4:  # the weight of a convolution keeps the scale of its input
            tensor.copy_(drawn / tensor[0].numel() ** 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(0.5 + 0.3 * drawn)
    return module.eval()


def _numpy(module: torch.nn.Module, name: str = "x") -> dict[str, NDArray[np.float64]]:
    return {f"{name}.{key}": tensor.detach().numpy() for key, tensor in module.state_dict().items()}


def _state(net: torch.nn.Module) -> dict[str, NDArray[np.float64]]:
    """Tensors of a network by name, with the prefix net; those of the head also without it."""
    state = _numpy(net, "net")
    return state | {name: state[f"net.{name}"] for name in ("head.weight", "head.bias")}


def _maps(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, *shape, dtype=torch.float64, generator=generator) for shape in shapes]


# Larger and smaller than the kernels' reach, and not square: omitted taps must change nothing.
@pytest.mark.parametrize("shape", [(24, 20), (9, 9), (4, 7), (1, 1)])
@pytest.mark.parametrize("scales", [ALL_SCALES, TWO, ("5-7-1",)])
@torch.inference_mode()
def test_mlka_is_its_equation(scales: tuple[str, ...], shape: tuple[int, int]) -> None:
    module, (maps,) = _awake(MLKA(12, scales)), _maps((12, *shape))
    expected = equations.mlka(maps[0].numpy(), _numpy(module), "x", scales)
    np.testing.assert_allclose(module(maps)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("scales", [ALL_SCALES, ("3-5-1",)])
@torch.inference_mode()
def test_the_block_is_its_equation(scales: tuple[str, ...]) -> None:
    """Value path, gate, residual sums, layer scales, BatchNorm and ConvFFN."""
    module, (maps,) = _awake(Block(12, 3, scales, drop_path=0.5)), _maps((12, 9, 7))
    output, gate = module(maps)
    expected, expected_gate = equations.block(maps[0].numpy(), _numpy(module), "x", scales)
    assert np.abs(expected - maps[0].numpy()).mean() > 0.1
    np.testing.assert_allclose(output[0].numpy(), expected, atol=1e-11)
    np.testing.assert_allclose(gate[0].numpy(), expected_gate, atol=1e-11)


@torch.inference_mode()
def test_value_and_gate_have_tensors_of_their_own() -> None:
    """MAN, eq. 5: with the gate's half of the projection at zero, the value passes times the gate's bias alone."""
    attention = Block(12, 2, ALL_SCALES, drop_path=0.0).double().eval().attn
    for scale in attention.spatial_gating_unit.scales:
        for conv in (scale.attend.conv0, scale.attend.conv_spatial, scale.attend.conv1, scale.gate):
            torch.nn.init.zeros_(conv.weight)
            torch.nn.init.ones_(conv.bias)
    (maps,) = _maps((12, 5, 5))
    value = torch.nn.functional.gelu(attention.proj_1(maps)[:, :12])
    torch.testing.assert_close(attention(maps)[0], attention.proj_2(value))


@torch.inference_mode()
def test_the_mcnn_stem_is_its_equation() -> None:
    module, (picture,) = _awake(MCNNStem(3, 12)), _maps((3, 32, 24))
    expected = equations.mcnn_stem(picture[0].numpy(), _numpy(module), "x")
    np.testing.assert_allclose(module(picture)[0].numpy(), expected, atol=1e-12)


@torch.inference_mode()
def test_cross_scale_attention_is_its_equation() -> None:
    module = _awake(CrossScaleAttention((24, 40, 96, 32), 96))
    maps = _maps((24, 16, 24), (40, 8, 12), (96, 4, 6), (32, 2, 3))
    expected = equations.cross_scale_attention([x[0].numpy() for x in maps], _numpy(module), "x")
    np.testing.assert_allclose(module(maps)[0].numpy(), expected, atol=1e-10)


@torch.inference_mode()
def test_attention_pooling_is_its_equation() -> None:
    module = _awake(AttentionPooling(24, 36, ALL_SCALES))
    fine, coarse = _maps((24, 12, 8), (36, 6, 4))
    weighting = module(fine, coarse)[0].numpy()
    expected = equations.attention_pooling(fine[0].numpy(), coarse[0].numpy(), _numpy(module), "x", ALL_SCALES)
    np.testing.assert_allclose(weighting, expected, atol=1e-12)
    np.testing.assert_allclose(weighting.sum(axis=(1, 2)), 1)


def _holds(output: tuple[torch.Tensor, ...], expected: equations.Answer, bias: NDArray[np.float64]) -> None:
    """All outputs equal; the mean of the evidence plus the bias is the logit."""
    logits, attention, evidence = (tensor[0].numpy() for tensor in output[:3])
    assert np.abs(expected.logits - bias).max() > 0.01
    np.testing.assert_allclose(logits, expected.logits, atol=1e-9)
    np.testing.assert_allclose(attention, expected.attention, atol=1e-8)
    np.testing.assert_allclose(evidence, expected.evidence, atol=1e-9)
    np.testing.assert_allclose(expected.evidence.mean(axis=(1, 2)) + bias, expected.logits, atol=1e-12)


@pytest.mark.parametrize("fusion_dim", [96, 0])
@torch.inference_mode()
def test_van_mlka_answers_as_its_equations(fusion_dim: int) -> None:
    variant = replace(VARIANTS["micro"], fusion_dim=fusion_dim)
    net, (picture,) = _awake(VAN(variant, CLASSES)), _maps((3, 64, 64))
    state = _state(net)
    x, maps = equations.mcnn_stem(picture[0].numpy(), state, "net.stages.0.patch_embed"), []
    for at, (scales, depth) in enumerate(zip(variant.scales, variant.depths, strict=True)):
        if at:
            x = equations.patch_embed(x, state, f"net.stages.{at}.patch_embed")
        x, _ = equations.stage(x, state, f"net.stages.{at}", scales, depth)
        maps.append(x)
    fine, read = maps[-2:]
    if fusion_dim:
        fine, read = maps[1], equations.cross_scale_attention(maps, state, "net.fusion")
    weighting = equations.attention_pooling(fine, read, state, "net.pooling", ALL_SCALES)
    _holds(net(picture), equations.attended(read, weighting, state), state["head.bias"])


@torch.inference_mode()
def test_the_network_behind_the_first_layers_answers_as_its_equations() -> None:
    """All that follows the layers of EfficientNet-Lite: stages, cross-scale attention, pooling by attention, head."""
    net, (picture,) = _awake(LiteVAN("van_mlka_lite0", CLASSES)), _maps((3, 96, 96))
    state = _state(net)
    quarter, eighth = (x[0].numpy() for x in net.trunk(picture))
    maps = [quarter]
    x = eighth
    for at, (scales, depth) in enumerate(zip(SCALES, DEPTHS, strict=True)):
        embedded = equations.patch_embed(x, state, f"net.stages.{at}.patch_embed")
        x, _ = equations.stage(embedded, state, f"net.stages.{at}", scales, depth)
        maps.append(x)
    fused = equations.cross_scale_attention(maps, state, "net.fusion")
    weighting = equations.attention_pooling(maps[1], fused, state, "net.pooling", ALL_SCALES)
    _holds(net(picture), equations.attended(fused, weighting, state), state["head.bias"])
