"""VAN, and VAN with multi-scale large kernel attention (MLKA) and cross-scale attention, from random weights.

Tensors are (N, C, H, W) unless stated otherwise.

VAN: Guo et al., Visual Attention Network, arXiv 2202.09741.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from model.attention import ALL_SCALES, Scales, clear_taps_beyond
from model.blocks import Block, MCNNStem, OverlapPatchEmbed, Stage, drop_path_rates, init_weights
from model.heads import AttentionPooling, CrossScaleAttention, VANOutput, answer, by_scale, check_sides, pooled
from model.parts import named_parts

#: Stride of each stage's map, in pixels of the picture.
STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Variant:
    """Hyper-parameters of a network; each tuple has one entry per stage."""

    embed_dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratios: tuple[int, int, int, int]
    scales: tuple[Scales, Scales, Scales, Scales]  # kernels of the attention; each gets an equal share of the channels
    stem: Literal["overlap", "mcnn"]
    fusion_dim: int  # width of the multi-scale cross attention; 0: the head reads the last stage, as VAN does
    gating: Literal["van", "man"] = "man"  # van: the gated value is also the gate's input; man: tensors of their own


_LKA = (("5-7-1",),) * 4
_SMALLEST = ("3-5-1",)
# All kernels where the grid has at least 12 positions a side at 96 px, and in the third stage from 192 px on (6 at 96
# px). On smaller grids most taps of the larger kernels reach only padding: of its 81 taps, 7-9-1 keeps 81 on a grid of
# 24, 49 on 16, 25 on 12 and 9 on 8.
_MLKA_SMALL = (ALL_SCALES, ALL_SCALES, _SMALLEST, _SMALLEST)
_MLKA = (ALL_SCALES, ALL_SCALES, ALL_SCALES, _SMALLEST)
_VAN_RATIOS = (8, 8, 4, 4)

# van_*: the published widths and depths (arXiv 2202.09741, section 3.2).
# Other variants: every width is a multiple of 48, so each of MLKA's three scales has a multiple of 16 channels.
# onnxruntime's fast depthwise kernels work in blocks of 16; other numbers of channels run on a much slower path.
VARIANTS: dict[str, Variant] = {
    "micro": Variant((48, 48, 48, 48), (1, 1, 1, 1), (1, 1, 1, 1), _MLKA_SMALL, "mcnn", 48),
    "tiny": Variant((48, 96, 144, 192), (1, 1, 4, 2), (4, 4, 4, 4), _MLKA_SMALL, "mcnn", 144),
    "tiny_deep": Variant((48, 96, 144, 192), (2, 2, 4, 2), (4, 4, 4, 4), _MLKA_SMALL, "mcnn", 144),
    "van_b0": Variant((32, 64, 160, 256), (3, 3, 5, 2), _VAN_RATIOS, _LKA, "overlap", 0, "van"),
    "van_b1": Variant((64, 128, 320, 512), (2, 2, 4, 2), _VAN_RATIOS, _LKA, "overlap", 0, "van"),
    "van_b2": Variant((64, 128, 320, 512), (3, 3, 12, 3), _VAN_RATIOS, _LKA, "overlap", 0, "van"),
    "van_b3": Variant((64, 128, 320, 512), (3, 5, 27, 3), _VAN_RATIOS, _LKA, "overlap", 0, "van"),
    "mlka_s": Variant((48, 96, 192, 288), (3, 3, 5, 2), _VAN_RATIOS, _MLKA, "mcnn", 192),
    "mlka_m": Variant((96, 144, 336, 528), (3, 3, 12, 3), _VAN_RATIOS, _MLKA, "mcnn", 336),
    "mlka_l": Variant((96, 144, 336, 528), (3, 5, 27, 3), _VAN_RATIOS, _MLKA, "mcnn", 336),
}


def variant_named(name: str) -> Variant:
    """The hyper-parameters of a variant.

    Raises:
        ValueError: no such variant; the message suggests similar names.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.4) or list(VARIANTS)
        raise ValueError(f"unknown variant {name!r}; did you mean {', '.join(near)}?")
    return VARIANTS[name]


class VAN(nn.Module):
    """Visual Attention Network, with MLKA and cross-scale fusion where the variant says so.

    Args:
        variant: a name of VARIANTS, or a `Variant`.
        num_classes: number of classes.
        drop_path: rate at the last block; grows linearly from 0 at the first.
        add_channel_attention: adds a channel attention to a block; called for each block.

    Raises:
        ValueError: an unknown variant, or a width that is not divisible among its scales, stem branches or heads.
    """

    def __init__(
        self,
        variant: str | Variant,
        num_classes: int,
        drop_path: float = 0.0,
        add_channel_attention: Callable[[Block], None] | None = None,
    ) -> None:
        super().__init__()
        v = variant_named(variant) if isinstance(variant, str) else variant
        stem = MCNNStem(3, v.embed_dims[0]) if v.stem == "mcnn" else OverlapPatchEmbed(3, v.embed_dims[0], 7, 4)
        embeds = [stem, *(OverlapPatchEmbed(a, b, 3, 2) for a, b in zip(v.embed_dims, v.embed_dims[1:], strict=False))]
        rates = drop_path_rates(drop_path, v.depths)
        parts = zip(embeds, v.embed_dims, v.mlp_ratios, v.scales, rates, strict=True)
        stages = [Stage(e, dim, ratio, s, r, v.gating) for e, dim, ratio, s, r in parts]
        self.stages = nn.ModuleList(stages)
        self.fusion = CrossScaleAttention(v.embed_dims, v.fusion_dim) if v.fusion_dim else None
        read = v.fusion_dim or v.embed_dims[-1]
        self.head = nn.Linear(read, num_classes)
        self.attention_scales = max(v.scales, key=len)
        self.fine = 1 if v.fusion_dim else 2  # index of the map with twice the resolution of the one that is read
        self.apply(init_weights)
        pooling = AttentionPooling(v.embed_dims[self.fine], read, self.attention_scales) if v.gating == "man" else None
        self.pooling = pooling
        if add_channel_attention:  # after init_weights: it keeps the initialisation of its paper
            for module in self.modules():
                if isinstance(module, Block):
                    add_channel_attention(module)

    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Name → modules whose outputs make up this part; see `model.parts`."""
        names = (f"stage {at}" for at in range(1, len(self.stages) + 1))
        return named_parts(self, dict(zip(names, self.stages, strict=True)))

    def clear_beyond(self, size: int) -> None:
        """Set the kernel taps of LKA to zero that reach only padding on pictures of size x size.

        At that size these taps have no effect and get no gradient. If the network is then used on larger pictures,
        random taps would add noise. Taps of zero keep the learned function, and can be trained there.
        """
        for stage, stride in zip(self.stages, STRIDES, strict=True):
            clear_taps_beyond(stage, size // stride)
        if self.pooling:
            clear_taps_beyond(self.pooling, size // STRIDES[self.fine])

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S), normalised → (the map whose mean the head reads, `attention` before scaling)."""
        maps: list[Tensor] = []
        gate = x
        for stage in self.stages:
            x, gate = stage(x)
            maps.append(x)
        read = self.fusion(maps) if self.fusion else x
        if self.pooling is None:
            return read, by_scale(gate, len(self.attention_scales))
        weighting = self.pooling(maps[self.fine], read)
        return pooled(read, weighting), weighting

    def forward(self, x: Tensor) -> VANOutput:
        """(N, 3, S, S), normalised; S a multiple of 32."""
        check_sides(x)
        features, attention = self.forward_features(x)
        return answer(self.head, [features], attention)
