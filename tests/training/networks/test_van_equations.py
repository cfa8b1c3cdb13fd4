"""LKA and VAN-B0 against their equations, implemented in float64 without torch."""

from pathlib import Path

import equations
import numpy as np
import pytest
import torch

from model.attention import KERNELS, LKA
from model.van import VAN, VARIANTS
from training.config import ModelConfig
from training.fit.pretrained import transfer_weights

B0 = VARIANTS["van_b0"]


def _numpy(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


# Larger and smaller than the kernels' reach, and not square: omitted taps must change nothing.
@pytest.mark.parametrize("shape", [(24, 20), (9, 9), (4, 7), (1, 1)])
@pytest.mark.parametrize("scale", KERNELS)
@torch.inference_mode()
def test_lka_is_its_equation(scale: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module, maps = LKA(8, scale).double(), torch.randn(2, 8, *shape, dtype=torch.float64)
    expected = [equations.lka(one.numpy(), _numpy(module), "", KERNELS[scale][2]) for one in maps]
    np.testing.assert_allclose(module(maps).numpy(), np.stack(expected), atol=1e-12)


@torch.inference_mode()
def test_a_published_checkpoint_answers_as_its_equations(tmp_path: Path) -> None:
    """Names, shapes and arithmetic: a checkpoint in the published layout, read by both."""
    state = equations.published_layout(B0.embed_dims, B0.depths, B0.mlp_ratios, classes=1000)
    path = tmp_path / "van_b0.pth.tar"
    torch.save({"state_dict": {name: torch.from_numpy(tensor) for name, tensor in state.items()}, "epoch": 310}, path)
    net = VAN("van_b0", 1000).double().eval()
    assert transfer_weights(net, ModelConfig(variant="van_b0", init=str(path)), ()).skipped == ()
    pictures = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = equations.van(pictures[0].numpy(), state, B0.depths)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(net(pictures).logits[0].numpy(), expected, atol=1e-9)
