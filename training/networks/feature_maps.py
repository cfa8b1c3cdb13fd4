"""The feature maps of a network at 1/8, 1/16 and 1/32 of the picture, captured while it computes its outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

from torch import Tensor, nn

from model import lite, van
from model.blocks import Stage
from model.lite import LiteVAN
from model.van import VAN
from training.networks.build import Network
from training.networks.trunks import PooledClassifier

#: Side of the picture divided by the side of the map.
STRIDES = (8, 16, 32)


class Source(NamedTuple):
    """Where a map comes from."""

    module: nn.Module  # its output is the map, or begins with it
    channels: int


def map_sources(net: Network) -> dict[int, Source]:
    """Stride → source of the last map of that stride.

    Empty if the network does not name its maps: those of training/networks that are no plain trunk of timm.
    """
    found: dict[int, Source] = {}
    if isinstance(net, LiteVAN | VAN):
        strides = lite.STRIDES if isinstance(net, LiteVAN) else van.STRIDES
        stages = cast(Sequence[Stage], net.stages)
        found = {s: Source(stage, stage.norm.weight.numel()) for s, stage in zip(strides, stages, strict=True)}
    elif type(net) is PooledClassifier:
        found = {
            info["reduction"]: Source(net.trunk.get_submodule(info["module"]), info["num_chs"])
            for info in net.trunk.feature_info
        }
    return {stride: found[stride] for stride in STRIDES if stride in found}


@contextmanager
def captured_maps(net: Network) -> Iterator[dict[int, Tensor]]:
    """Stride → map (N, C, S / stride, S / stride) computed within the context; see `map_sources`."""
    maps: dict[int, Tensor] = {}

    def keep(stride: int, output: Tensor | tuple[Tensor, ...]) -> None:
        maps[stride] = output[0] if isinstance(output, tuple) else output

    hooks = [
        source.module.register_forward_hook(lambda _module, _inputs, output, stride=stride: keep(stride, output))
        for stride, source in map_sources(net).items()
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
