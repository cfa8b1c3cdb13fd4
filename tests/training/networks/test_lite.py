"""MLKA on an EfficientNet-Lite trunk: initial output equal to the trunk's, gradients to every new parameter."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_networks import CLASSES, _awake, _holds_the_contract, _pictures, _Serving

from model.lite import LITE_VARIANTS, STRIDE, LiteMLKA
from model.van import LKA, answer
from training.config import ModelConfig
from training.export.export import check_graph, to_onnx
from training.fit.pretrained import transfer_weights
from training.networks.build import build
from training.networks.trunks import timm_classifier


@pytest.fixture(scope="module")
def net() -> LiteMLKA:
    torch.manual_seed(0)
    return LiteMLKA("lite0_mlka", CLASSES)


def test_it_holds_the_contract() -> None:
    torch.manual_seed(0)
    _holds_the_contract(LiteMLKA("lite0_mlka", CLASSES), size=64)


def test_onnxruntime_answers_as_torch_does() -> None:
    torch.manual_seed(0)
    net = LiteMLKA("lite0_mlka", CLASSES)
    _awake(net)
    serving = _Serving(net.eval()).eval()
    graph = to_onnx(serving, 64).SerializeToString()
    assert check_graph(graph, serving, 64)["evidence"] == (CLASSES, 64 // STRIDE, 64 // STRIDE)
    assert len(graph) < 16e6


def test_a_new_one_sees_what_its_trunk_sees(net: LiteMLKA) -> None:
    """The MLKA stage is added through zero-initialised weights, so the last map is the trunk's."""
    alone = timm_classifier("efficientnet_lite0", CLASSES)
    alone.trunk.load_state_dict(net.trunk.state_dict())
    pictures = _pictures(2, 64)
    with torch.inference_mode():
        (_, last), _ = net.eval().forward_features(pictures)
        torch.testing.assert_close(last, alone.eval().forward_maps(pictures)[0])


def test_it_begins_with_the_weights_of_a_trained_trunk(tmp_path: Path) -> None:
    alone = timm_classifier("efficientnet_lite0", CLASSES)
    save_file(alone.state_dict(), tmp_path / "weights.safetensors")
    config = ModelConfig(variant="lite0_mlka", init=str(tmp_path))
    net = build(config, CLASSES)
    taken = transfer_weights(net, config, [f"C{row}" for row in range(CLASSES)])
    assert not [name for name in taken.skipped if name.startswith("trunk.")]
    assert {name.partition(".")[0] for name in taken.skipped} == {"mlka", "join", "fusion", "head"}
    torch.testing.assert_close(net.trunk.conv_head.weight, alone.trunk.conv_head.weight)


@pytest.mark.parametrize("variant", LITE_VARIANTS)
def test_every_one_can_be_built(variant: str) -> None:
    with torch.device("meta"):
        assert build(ModelConfig(variant=variant), CLASSES).head.out_features == CLASSES


def test_taps_beyond_the_map_are_cleared(net: LiteMLKA) -> None:
    net.clear_beyond(64)  # 4 x 4 cells with dilation 4: only the middle tap is used
    kernels = [module.conv_spatial for module in net.mlka.modules() if isinstance(module, LKA)]
    wide = [kernel.weight for kernel in kernels if kernel.dilation == (4, 4)]
    assert wide and all(weight.abs().flatten(2).gt(0).sum(dim=2).max() == 1 for weight in wide)


def test_a_side_that_is_no_multiple_of_32_is_refused(net: LiteMLKA) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        net(_pictures(1, 48))


def test_what_it_cannot_change_is_refused() -> None:
    with pytest.raises(ValueError, match="model.stem applies to VAN variants only"):
        build(ModelConfig(variant="lite0_mlka", stem="mcnn"), CLASSES)


def test_shares_of_maps_on_several_grids_add_up_to_the_logits() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(5 + 3 + 2, CLASSES)
    maps = [torch.randn(2, 5, 6, 12), torch.randn(2, 3, 3, 4), torch.randn(2, 2, 1, 1)]
    out = answer(head, maps, torch.rand(2, 1, 6, 12))
    assert out.evidence.shape == (2, CLASSES, 6, 12)
    torch.testing.assert_close(out.evidence.mean(dim=(2, 3)) + head.bias, out.logits)
    torch.testing.assert_close(out.logits, head(torch.cat([m.mean(dim=(2, 3)) for m in maps], dim=1)))
