"""VAN-MLKA behind EfficientNet-Lite's first layers: the contract, the pretrained layers, and pooling by attention."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from test_networks import CLASSES, _awake, _holds_the_contract, _pictures, _Serving

from model.attention import LKA
from model.heads import AttentionPooling, answer, pooled
from model.lite import LITE_VARIANTS, LiteVAN
from training.config import ModelConfig
from training.export.export import check_graph, to_onnx
from training.fit.pretrained import transfer_weights
from training.networks.build import build
from training.networks.trunks import timm_classifier


@pytest.fixture(scope="module")
def net() -> LiteVAN:
    torch.manual_seed(0)
    return LiteVAN("van_mlka_lite0", CLASSES)


def test_it_holds_the_contract() -> None:
    torch.manual_seed(0)
    _holds_the_contract(LiteVAN("van_mlka_lite0", CLASSES), size=64)


def test_onnxruntime_answers_as_torch_does() -> None:
    torch.manual_seed(0)
    net = LiteVAN("van_mlka_lite0", CLASSES)
    _awake(net)
    serving = _Serving(net.eval()).eval()
    graph = to_onnx(serving, 64).SerializeToString()
    assert check_graph(graph, serving, 64)["evidence"] == (CLASSES, 4, 4)
    assert len(graph) < 16e6


def test_it_begins_with_the_first_layers_of_a_trained_trunk(tmp_path: Path) -> None:
    alone = timm_classifier("efficientnet_lite0", CLASSES)
    save_file(alone.state_dict(), tmp_path / "weights.safetensors")
    config = ModelConfig(variant="van_mlka_lite0", init=str(tmp_path))
    net = build(config, CLASSES)
    taken = transfer_weights(net, config, [f"C{row}" for row in range(CLASSES)])
    assert {name.partition(".")[0] for name in taken.skipped} == {"stages", "fusion", "pooling", "head"}
    trunk = alone.trunk.eval()
    with torch.inference_mode():
        quarter, eighth = net.eval().trunk(_pictures(2, 64))
        expected = trunk.blocks[:3](trunk.bn1(trunk.conv_stem(_pictures(2, 64))))
    assert quarter.shape == (2, 24, 16, 16)
    torch.testing.assert_close(eighth, expected)


def test_the_pooling_is_a_weighted_mean_of_each_share_of_the_channels() -> None:
    torch.manual_seed(0)
    map, weighting = torch.randn(2, 6, 3, 4), torch.rand(2, 2, 6, 8)
    weighting = weighting / weighting.sum(dim=(2, 3), keepdim=True)
    of_positions = weighting.unflatten(3, (4, 2)).unflatten(2, (3, 2)).sum(dim=(3, 5))
    expected = [(map[:, 3 * k : 3 * k + 3] * of_positions[:, k : k + 1]).sum(dim=(2, 3)) for k in (0, 1)]
    torch.testing.assert_close(pooled(map, weighting).mean(dim=(2, 3)), torch.cat(expected, dim=1))


def test_a_new_pooling_is_nearly_an_average() -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(48, 96, ("3-5-1", "5-7-1", "7-9-1")).eval()
    with torch.inference_mode():
        weighting = pooling(0.3 * torch.randn(2, 48, 12, 12), 0.3 * torch.randn(2, 96, 6, 6))
    torch.testing.assert_close(weighting.sum(dim=(2, 3)), torch.ones(2, 3))
    assert weighting.max() < 4 / 144


def test_the_pooling_holds_where_every_gate_is_almost_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(48, 96, ("3-5-1", "5-7-1", "7-9-1")).eval()
    with torch.no_grad():
        pooling.score.weight.normal_(std=0.03)
        assert pooling.score.bias is not None
        pooling.score.bias.fill_(-40)
    maps = torch.randn(2, 48, 12, 12), torch.randn(2, 96, 6, 6)
    path = tmp_path / "pooling.onnx"
    torch.onnx.export(pooling, maps, path, dynamo=True, verbose=False, input_names=["fine", "coarse"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"fine": maps[0].numpy(), "coarse": maps[1].numpy()})[0]
    with torch.inference_mode():
        expected = pooling.double()(*(each.double() for each in maps))
    torch.testing.assert_close(expected.sum(dim=(2, 3)), torch.ones(2, 3, dtype=torch.float64))
    assert expected.max() > 4 / 144  # not an average
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_its_parts_are_gates_scales_stages_pooling_and_fusion(net: LiteVAN) -> None:
    parts = net.parts()
    scales = {f"MLKA {scale}" for scale in net.attention_scales}
    others = {"MLKA", "MLKA in the blocks", "MLKA in the pooling", "pooling", "cross-scale attention"}
    assert set(parts) == {*others, *scales, "stage 1/8", "stage 1/16", "stage 1/32"}
    (pooling,) = parts["pooling"]
    staged = sum(len(parts[name]) for name in parts if name.startswith("stage"))
    assert len(parts["MLKA"]) == staged + len(pooling.mlka.scales)  # type: ignore[arg-type, union-attr]
    assert len(parts["MLKA in the blocks"]) == staged
    assert {*parts["MLKA in the pooling"]} == {*parts["MLKA"]} - {*parts["MLKA in the blocks"]}
    assert len(parts["MLKA"]) == sum(len(parts[name]) for name in scales)


@pytest.mark.parametrize("variant", LITE_VARIANTS)
def test_every_one_can_be_built(variant: str) -> None:
    with torch.device("meta"):
        assert build(ModelConfig(variant=variant), CLASSES).head.out_features == CLASSES


def test_taps_beyond_the_map_are_cleared(net: LiteVAN) -> None:
    net.clear_beyond(32)  # 4 x 4 cells at 1/8: with dilation 4, only the middle tap is used
    kernels = [module.conv_spatial for module in net.modules() if isinstance(module, LKA)]
    wide = [kernel.weight for kernel in kernels if kernel.dilation == (4, 4)]
    assert len(wide) == 3 and all(weight.abs().flatten(2).gt(0).sum(dim=2).max() == 1 for weight in wide)


def test_a_side_that_is_no_multiple_of_32_is_refused(net: LiteVAN) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        net(_pictures(1, 48))


def test_what_it_cannot_change_is_refused() -> None:
    with pytest.raises(ValueError, match="model.stem applies to VAN variants only"):
        build(ModelConfig(variant="van_mlka_lite0", stem="mcnn"), CLASSES)


def test_shares_of_maps_on_several_grids_add_up_to_the_logits() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(5 + 3 + 2, CLASSES)
    maps = [torch.randn(2, 5, 6, 12), torch.randn(2, 3, 3, 4), torch.randn(2, 2, 1, 1)]
    out = answer(head, maps, torch.rand(2, 1, 6, 12))
    assert out.evidence.shape == (2, CLASSES, 6, 12)
    torch.testing.assert_close(out.evidence.mean(dim=(2, 3)) + head.bias, out.logits)
    torch.testing.assert_close(out.logits, head(torch.cat([m.mean(dim=(2, 3)) for m in maps], dim=1)))
