"""A network arranged for inference computes what it computed, in double precision to the last digits."""

import pytest
import torch
from torch import nn

from model.channel import CHANNEL_ATTENTIONS
from model.lite import LiteMLKA
from model.van import MLKA, VAN, VARIANTS, Block, Variant
from training.export.fusion import FoldedBlock, check_groups, folded, mean_of_places, normed_before, scale_and_shift

CLASSES = 5


def _learned(net: nn.Module) -> nn.Module:
    """In double precision and as after a training: no BatchNorm is the identity, no layer scale small."""
    for name, parameter in net.named_parameters():
        if "layer_scale" in name or "norm" in name and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.ndim == 1 or "join" in name:
            nn.init.normal_(parameter, std=0.2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.double().eval()


LKA_ALONE = Variant((32, 64, 96, 48), (1, 2, 1, 1), (1, 1, 2, 1), (("5-7-1",),) * 4, "overlap", 0)
NETWORKS = {
    "mlka, mcnn, fusion": lambda: VAN("micro", CLASSES),
    "lka, overlap": lambda: VAN(LKA_ALONE, CLASSES),
    "channel attention": lambda: VAN("micro", CLASSES, channel_attention=CHANNEL_ATTENTIONS["se"]),
    "on a trunk": lambda: LiteMLKA("lite0_mlka", CLASSES),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@torch.inference_mode()
def test_it_answers_as_before(make: object) -> None:
    torch.manual_seed(0)
    net = _learned(make())  # type: ignore[operator]
    arranged, pictures = folded(net), torch.randn(3, 3, 64, 64, dtype=torch.float64)
    for name, found, expected in zip(net(pictures)._fields, arranged(pictures), net(pictures), strict=True):
        assert expected.std() > 1e-3, f"{name} says nothing here"
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_its_tensors_keep_their_names_and_no_batchnorm_of_a_block_is_run(make: object) -> None:
    torch.manual_seed(0)
    net = _learned(make())  # type: ignore[operator]
    arranged = folded(net)
    shapes, kept = ({name: tensor.shape for name, tensor in n.state_dict().items()} for n in (net, arranged))
    assert kept == shapes
    assert not any(isinstance(module, Block) for module in arranged.modules())
    run: list[str] = []
    for name, module in arranged.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_, name=name: run.append(name))
    arranged(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert not [name for name in run if ".blocks." in name and not name.startswith("trunk.")]


@torch.inference_mode()
def test_a_wrong_scale_of_a_block_is_seen() -> None:
    torch.manual_seed(0)
    net = _learned(VAN("micro", CLASSES))
    pictures = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    arranged = folded(net)
    block = next(module for module in arranged.modules() if isinstance(module, FoldedBlock))
    block.layer_scale_1.mul_(1.01)
    assert (arranged(pictures).logits - net(pictures).logits).abs().max() > 1e-6


def test_the_network_itself_stays_as_it_was() -> None:
    net = VAN("micro", CLASSES).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    arranged = folded(net)
    with torch.no_grad():
        next(arranged.parameters()).zero_()
    assert any(isinstance(module, Block) for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_padded_convolution_is_not_folded_into() -> None:
    """A shift before padding is missing in the padding: folded, the border would be wrong."""
    with pytest.raises(AssertionError, match="padding"):
        normed_before(nn.Conv2d(16, 16, 3, padding=1), *scale_and_shift(nn.BatchNorm2d(16).eval()))


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        folded(VAN("micro", CLASSES))


def test_groups_that_onnxruntime_is_slow_at_are_named_with_a_width_that_is_not() -> None:
    for name in ("tiny", "tiny_deep", "mlka_s", "mlka_m", "mlka_l", "van_b0"):
        with torch.device("meta"):
            check_groups(VAN(VARIANTS[name], CLASSES))
    with pytest.raises(ValueError, match="1 gives each scale 10 channels; .* a width that is a multiple of 48"):
        check_groups(nn.Sequential(nn.Identity(), MLKA(30, ("3-5-1", "5-7-1", "7-9-1"))))


def test_means_of_places_are_those_of_pooling() -> None:
    maps = torch.randn(2, 24, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(mean_of_places(maps, 4), nn.functional.avg_pool2d(maps, 4))
