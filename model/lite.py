"""VAN-MLKA behind the first layers of EfficientNet-Lite, which have ImageNet weights.

A few thousand cells are too few to train the first layers, and no classification weights of MLKA are published. So the
stem and the first three block groups of EfficientNet-Lite (Tan and Le, arXiv 1905.11946; without squeeze-excite and
swish) take the place of the paper's MCNN: convolutions of several kernel sizes, up to 1/8 of the picture's resolution.
From there on, every path to the logits passes the attention pooling, which contains MLKA. The map at 1/4 passes no VAN
stage: it enters as keys and values of the cross-scale attention. Blocks have residual connections past their gates.

The layers are timm's (pytorch-image-models, Apache-2.0). The installable ImageNet weights have its tensor names.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import timm
from torch import Tensor, nn

from model.attention import ALL_SCALES, Scales, clear_taps_beyond
from model.blocks import OverlapPatchEmbed, Stage, drop_path_rates, init_weights
from model.heads import AttentionPooling, CrossScaleAttention, VANOutput, answer, check_sides, pooled
from model.parts import named_parts

#: Our name → timm's name of the network whose first layers are used.
LITE_VARIANTS: Mapping[str, str] = MappingProxyType(
    {f"van_mlka_lite{size}": f"tf_efficientnet_lite{size}" for size in (0, 1, 2)}
)
#: Stages at 1/8, 1/16 and 1/32 of the picture: widths (multiples of 48, see model/van.py), blocks, ratios of ConvFFN.
DIMS, DEPTHS, RATIOS = (48, 144, 192), (2, 3, 1), (4, 3, 3)
#: All kernels at 1/8, a grid of 12 at 96 px and of 16 at 128 px. On the smaller grids only 3-5-1, which reaches 5
#: positions in each direction: most taps of the larger kernels would reach only padding.
SCALES: tuple[Scales, Scales, Scales] = (ALL_SCALES, ("3-5-1",), ("3-5-1",))
STRIDES = (8, 16, 32)
FUSION_DIM = 192


class EarlyLayers(nn.Module):
    """Stem and first three block groups of EfficientNet-Lite, under timm's tensor names.

    Args:
        name: timm's name of the network.
    """

    conv_stem: nn.Module
    bn1: nn.Module
    blocks: nn.ModuleList

    #: Number of block groups up to the maps of 1/4 and 1/8 of the picture.
    ENDS = (2, 3)

    def __init__(self, name: str) -> None:
        super().__init__()
        whole: Any = timm.create_model(name, pretrained=False, num_classes=0, exportable=True)
        self.conv_stem, self.bn1 = whole.conv_stem, whole.bn1
        self.blocks = nn.ModuleList(whole.blocks[: self.ENDS[1]])
        widths = {info["reduction"]: info["num_chs"] for info in whole.feature_info}
        self.dims = (widths[4], widths[8])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S), normalised → maps at S/4 and S/8."""
        x = self.bn1(self.conv_stem(x))
        maps = []
        for group in self.blocks:
            x = group(x)
            maps.append(x)
        return maps[-2], maps[-1]


class LiteVAN(nn.Module):
    """EfficientNet-Lite's first layers, three VAN stages with MLKA, cross-scale attention, and attention pooling.

    `attention` is the weighting of the pooling, one map for each scale of MLKA. `evidence` contains it: each position's
    contribution to a logit is its features times its weight.

    Args:
        variant: a name of LITE_VARIANTS.
        num_classes: number of classes.
        drop_path: rate at the last block of the stages; grows linearly from 0 at the first.
    """

    attention_scales = ALL_SCALES

    def __init__(self, variant: str, num_classes: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.trunk = EarlyLayers(LITE_VARIANTS[variant])
        quarter, eighth = self.trunk.dims
        embeds = [OverlapPatchEmbed(eighth, DIMS[0], kernel=1, stride=1)]
        embeds += [OverlapPatchEmbed(a, b, kernel=3, stride=2) for a, b in zip(DIMS, DIMS[1:], strict=False)]
        rates = drop_path_rates(drop_path, DEPTHS)
        self.stages = nn.ModuleList(map(Stage, embeds, DIMS, RATIOS, SCALES, rates))
        self.fusion = CrossScaleAttention((quarter, *DIMS), FUSION_DIM)
        self.pooling = AttentionPooling(DIMS[0], FUSION_DIM, ALL_SCALES)
        self.head = nn.Linear(FUSION_DIM, num_classes)
        for part in (self.stages, self.fusion, self.head):
            part.apply(init_weights)

    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Name → modules whose outputs make up this part; see `model.parts`."""
        return named_parts(self, {f"stage 1/{s}": stage for s, stage in zip(STRIDES, self.stages, strict=True)})

    def clear_beyond(self, size: int) -> None:
        """Set the taps of LKA to zero that reach only padding on pictures of size x size; see VAN.clear_beyond."""
        for stride, part in zip((*STRIDES, STRIDES[0]), (*self.stages, self.pooling), strict=True):
            clear_taps_beyond(part, size // stride)

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S), normalised → (the map at S/16 whose mean the head reads, the weighting at S/8)."""
        quarter, x = self.trunk(x)
        maps = [quarter]
        for stage in self.stages:
            x, _ = stage(x)
            maps.append(x)
        fused = self.fusion(maps)
        weighting = self.pooling(maps[1], fused)
        return pooled(fused, weighting), weighting

    def forward(self, x: Tensor) -> VANOutput:
        """(N, 3, S, S), normalised; S a multiple of 32."""
        check_sides(x)
        features, weighting = self.forward_features(x)
        return answer(self.head, [features], weighting)
