"""Maps are captured at the strides and with the widths that the network names."""

import pytest
import torch

from training.config import ModelConfig
from training.networks.build import build
from training.networks.feature_maps import STRIDES, captured_maps, map_sources


@pytest.mark.parametrize("variant", ["micro", "van_mlka_lite0", "efficientnet_lite0", "resnet18", "timm:regnetx_002"])
def test_each_map_has_its_stride_and_its_width(variant: str) -> None:
    net = build(ModelConfig(variant=variant), 2).eval()
    with torch.no_grad(), captured_maps(net) as maps:
        net(torch.zeros(1, 3, 64, 64))
    assert tuple(maps) == STRIDES
    widths = {stride: source.channels for stride, source in map_sources(net).items()}
    assert {stride: tuple(each.shape) for stride, each in maps.items()} == {
        stride: (1, widths[stride], 64 // stride, 64 // stride) for stride in STRIDES
    }


def test_nothing_is_captured_after_the_context() -> None:
    net = build(ModelConfig(variant="micro"), 2).eval()
    with captured_maps(net) as maps:
        pass
    net(torch.zeros(1, 3, 32, 32))
    assert maps == {}


def test_a_network_that_is_no_plain_trunk_names_no_maps() -> None:
    assert map_sources(build(ModelConfig(variant="samfn"), 2)) == {}
