"""VAN-MLKA on a trunk pretrained on ImageNet: EfficientNet-Lite with MLKA blocks and cross-scale attention.

A few thousand cells are too few to train the first layers, and no classification weights of MLKA are published. So the
trunk is EfficientNet-Lite with its ImageNet weights (Tan and Le, arXiv 1905.11946; without squeeze-excite and swish).
VAN blocks with multi-scale large kernel attention are added at 1/16 of the picture's resolution. Cross attention
combines all scales.

The trunks are timm's (pytorch-image-models, Apache-2.0). The installable ImageNet weights have its tensor names.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import timm
from torch import Tensor, nn

from model.van import (
    ALL_SCALES,
    LKA,
    CrossScaleAttention,
    OverlapPatchEmbed,
    Stage,
    VANOutput,
    answer,
    by_scale,
    check_sides,
)

#: Our name → timm's name of the trunk.
LITE_VARIANTS: Mapping[str, str] = MappingProxyType(
    {f"lite{size}_mlka": f"tf_efficientnet_lite{size}" for size in (0, 1, 2)}
)
#: MLKA stage: width, a multiple of 48 (see model/van.py), number of blocks, and ratio of their ConvFFN.
MLKA_DIM, MLKA_DEPTH, MLKA_RATIO = 144, 2, 2
FUSION_DIM = 96
#: Number of block groups of a trunk up to its maps of 1/4, 1/8, 1/16 and 1/32 of the picture.
ENDS = (2, 3, 5, 7)
#: Stride of the map in the MLKA stage, in pixels of the picture.
STRIDE = 16


class LiteMLKA(nn.Module):
    """EfficientNet-Lite with an MLKA stage at 1/16 of the picture, and multi-scale cross attention.

    The head reads the last map of the trunk and the map of the cross attention. The output of the MLKA stage is added
    to the trunk's map by a convolution that is initialised to zero. So a new network starts with the features of the
    pretrained trunk.

    Args:
        variant: a name of LITE_VARIANTS.
        num_classes: number of classes.
        drop_path: rate at the last block of the trunk and of the stage.
    """

    attention_scales = ALL_SCALES
    trunk: Any  # a timm model; its attributes have no types

    def __init__(self, variant: str, num_classes: int, drop_path: float = 0.0) -> None:
        super().__init__()
        trunk: Any = timm.create_model(
            LITE_VARIANTS[variant], pretrained=False, num_classes=0, drop_path_rate=drop_path, exportable=True
        )
        widths = {info["reduction"]: info["num_chs"] for info in trunk.feature_info}
        self.trunk = trunk
        embed = OverlapPatchEmbed(widths[16], MLKA_DIM, kernel=1, stride=1)
        rates = [drop_path * (block + 1) / MLKA_DEPTH for block in range(MLKA_DEPTH)]
        self.mlka = Stage(embed, MLKA_DIM, MLKA_RATIO, ALL_SCALES, rates)
        self.join = nn.Conv2d(MLKA_DIM, widths[16], 1)
        self.fusion = CrossScaleAttention((widths[4], widths[8], MLKA_DIM, widths[32]), FUSION_DIM)
        self.head = nn.Linear(trunk.num_features + FUSION_DIM, num_classes)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.get_parameter("bias"))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def clear_beyond(self, size: int) -> None:
        """Set the taps of LKA to zero that reach only padding on pictures of size x size; see VAN.clear_beyond."""
        for module in self.mlka.modules():
            if isinstance(module, LKA):
                module.clear_beyond(size // STRIDE)

    def forward_features(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(N, 3, S, S), normalised → (the maps that the head reads, at S/16 and S/32; the gate of the last MLKA)."""
        trunk = self.trunk
        x = trunk.bn1(trunk.conv_stem(x))
        quarter = trunk.blocks[: ENDS[0]](x)
        eighth = trunk.blocks[ENDS[0] : ENDS[1]](quarter)
        x = trunk.blocks[ENDS[1] : ENDS[2]](eighth)
        seen, gate = self.mlka(x)
        last = trunk.blocks[ENDS[2] : ENDS[3]](x + self.join(seen))
        fused = self.fusion([quarter, eighth, seen, last])
        return [fused, trunk.bn2(trunk.conv_head(last))], gate

    def forward(self, x: Tensor) -> VANOutput:
        """(N, 3, S, S), normalised; S a multiple of 32."""
        check_sides(x)
        features, gate = self.forward_features(x)
        return answer(self.head, features, by_scale(gate, len(ALL_SCALES)))
