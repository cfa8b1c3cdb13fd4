"""The network: a Visual Attention Network with multi-scale large kernel attention and cross-scale fusion.

Tensors are (N, C, H, W) unless stated otherwise.

VAN, LKA, ConvFFN: Guo et al., Visual Attention Network, arXiv 2202.09741.
MLKA: Wang et al., Multi-scale Attention Network for Single Image Super-Resolution, arXiv 2209.14145.
MCNN stem, multi-scale cross attention: named without numbers in the paper this project starts from; the design is ours.
"""

import difflib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.contract import SIZE_MULTIPLE

#: Scale → (depthwise kernel, dilated depthwise kernel, dilation); the last 1 of the name is the pointwise kernel.
KERNELS = {"3-5-1": (3, 5, 2), "5-7-1": (5, 7, 3), "7-9-1": (7, 9, 4)}
ALL_SCALES = tuple(KERNELS)
Scales = tuple[str, ...]
#: Stride of each stage's map, in pixels of the picture.
STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Variant:
    """Hyper-parameters of a network; each tuple has one entry per stage."""

    embed_dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratios: tuple[int, int, int, int]
    scales: tuple[Scales, Scales, Scales, Scales]  # one scale: LKA; several: MLKA, an equal share of channels each
    stem: Literal["overlap", "mcnn"]
    fusion_dim: int  # width of the multi-scale cross attention; 0: the head reads the last stage, as VAN does


_LKA = (("5-7-1",),) * 4
# The last map has 1/32 of the picture's resolution, 3 to 8 positions a side: the smallest kernel spans it.
_MLKA = (ALL_SCALES, ALL_SCALES, ALL_SCALES, ("3-5-1",))
_VAN_RATIOS = (8, 8, 4, 4)

# van_*: the published widths and depths (arXiv 2202.09741, section 3.2).
# Other variants: every width is a multiple of 48, so each of MLKA's three scales has a multiple of 16 channels.
# onnxruntime's fast depthwise kernels work in blocks of 16; other numbers of channels run on a much slower path.
VARIANTS: dict[str, Variant] = {
    "micro": Variant((48, 48, 48, 48), (1, 1, 1, 1), (1, 1, 1, 1), _MLKA, "mcnn", 48),
    "tiny": Variant((48, 96, 144, 192), (1, 1, 4, 2), (4, 4, 4, 4), _MLKA, "mcnn", 144),
    "tiny_deep": Variant((48, 96, 144, 192), (2, 2, 4, 2), (4, 4, 4, 4), _MLKA, "mcnn", 144),
    "van_b0": Variant((32, 64, 160, 256), (3, 3, 5, 2), _VAN_RATIOS, _LKA, "overlap", 0),
    "van_b1": Variant((64, 128, 320, 512), (2, 2, 4, 2), _VAN_RATIOS, _LKA, "overlap", 0),
    "van_b2": Variant((64, 128, 320, 512), (3, 3, 12, 3), _VAN_RATIOS, _LKA, "overlap", 0),
    "van_b3": Variant((64, 128, 320, 512), (3, 5, 27, 3), _VAN_RATIOS, _LKA, "overlap", 0),
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


class LKA(nn.Module):
    """Large kernel attention: depthwise, dilated depthwise, pointwise convolution (arXiv 2202.09741, section 3.1).

    Returns the gate: signed, unbounded, in the shape of the input. The caller multiplies it with the features.
    """

    def __init__(self, dim: int, scale: str) -> None:
        super().__init__()
        kernel, dilated, dilation = KERNELS[scale]
        self.conv0 = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        reach = dilation * (dilated // 2)
        self.conv_spatial = nn.Conv2d(dim, dim, dilated, padding=reach, dilation=dilation, groups=dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(_without_padding_taps(self.conv_spatial, self.conv0(x)))

    @torch.no_grad()
    def clear_beyond(self, side: int) -> None:
        """Set the kernel taps to zero that reach only padding on a map of side x side."""
        weight, taps = self.conv_spatial.weight, _taps_used(self.conv_spatial, side)
        kept = torch.zeros_like(weight)
        kept[:, :, taps, taps] = weight[:, :, taps, taps]
        weight.copy_(kept)


def _taps_used(conv: nn.Conv2d, side: int) -> slice:
    """The kernel taps along one axis that reach a map of this side; the other taps reach only padding."""
    middle = conv.kernel_size[0] // 2
    reach = min(middle, (side - 1) // conv.dilation[0])
    return slice(middle - reach, middle + reach + 1)


def _without_padding_taps(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x), computed without the kernel taps that reach only padding: the same result, faster on small maps.

    These taps get no gradient; see VAN.clear_beyond.
    """
    rows, columns = (_taps_used(conv, side) for side in x.shape[-2:])
    weight, dilation = conv.weight[:, :, rows, columns], conv.dilation[0]
    padding = tuple(dilation * (size // 2) for size in weight.shape[-2:])
    return F.conv2d(x, weight, conv.bias, padding=padding, dilation=dilation, groups=conv.groups)


class MLKA(nn.Module):
    """Multi-scale LKA: each scale is an LKA times a depthwise gate (arXiv 2209.14145, eq. 5).

    Each scale processes an equal share of the channels. Returns the gate in the shape of the input; its channels are
    grouped by scale, in the order of `scales`.
    """

    def __init__(self, dim: int, scales: Scales) -> None:
        super().__init__()
        share, rest = divmod(dim, len(scales))
        if rest:
            raise ValueError(f"a width of {dim} cannot be split evenly among the {len(scales)} scales {scales} of MLKA")
        self.share = share
        self.attend = nn.ModuleList(LKA(share, scale) for scale in scales)
        kernels = [KERNELS[scale][0] for scale in scales]
        self.gate = nn.ModuleList(nn.Conv2d(share, share, k, padding=k // 2, groups=share) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        groups = x.split(self.share, dim=1)
        gated = [attend(g) * gate(g) for attend, gate, g in zip(self.attend, self.gate, groups, strict=True)]
        return torch.cat(gated, dim=1)


class SpatialAttention(nn.Module):
    """1×1 → GELU → spatial gate → 1×1, plus the input (arXiv 2202.09741, section 3.2); returns (output, gate)."""

    def __init__(self, dim: int, scales: Scales) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = LKA(dim, scales[0]) if len(scales) == 1 else MLKA(dim, scales)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = F.gelu(self.proj_1(x))
        gate = self.spatial_gating_unit(inner)
        return self.proj_2(inner * gate) + x, gate


class ConvFFN(nn.Module):
    """1×1 → depthwise 3×3 → GELU → 1×1 (the CFF of arXiv 2202.09741, section 3.2)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv: nn.Module = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class DropPath(nn.Module):
    """Stochastic depth: drops the residual branch for random pictures of a batch (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep) / keep
        return x * kept


class Block(nn.Module):
    """A VAN block: attention, then ConvFFN, each with BatchNorm before and layer scale after. Returns (output, gate).

    Channel attention is optional; see `model.channel.add_channel_attention` for its place.
    """

    def __init__(self, dim: int, mlp_ratio: int, scales: Scales, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = SpatialAttention(dim, scales)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = ConvFFN(dim, dim * mlp_ratio)
        self.channel_attention: nn.Module = nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(torch.full((dim, 1, 1), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((dim, 1, 1), 1e-2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        attended, gate = self.attn(self.norm1(x))
        x = x + self.drop_path(self.layer_scale_1 * attended)
        x = x + self.drop_path(self.layer_scale_2 * self.channel_attention(self.mlp(self.norm2(x))))
        return x, gate


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x.permute(0, 2, 3, 1))  # (N, C, H, W) -> (N, H, W, C)
        return x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)


class OverlapPatchEmbed(nn.Module):
    """A strided convolution, then BatchNorm. Patches overlap if the kernel is larger than the stride."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class MCNNStem(nn.Module):
    """Multi-scale CNN stem: parallel 3×3, 5×5 and 7×7 convolutions, concatenated and fused; total stride 4."""

    KERNELS = (3, 5, 7)

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        share, rest = divmod(dim, len(self.KERNELS))
        if rest:
            raise ValueError(f"a width of {dim} cannot be split evenly among the three branches of the MCNN stem")
        branches = (nn.Conv2d(in_dim, share, k, stride=2, padding=k // 2, bias=False) for k in self.KERNELS)
        self.branches = nn.ModuleList(branches)
        self.norm = nn.BatchNorm2d(dim)
        self.fuse = OverlapPatchEmbed(dim, dim, kernel=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([branch(x) for branch in self.branches], dim=1)
        return self.fuse(F.gelu(self.norm(x)))


class Stage(nn.Module):
    """Patch embedding, blocks, LayerNorm. Returns (map, gate of the last block)."""

    def __init__(self, embed: nn.Module, dim: int, mlp_ratio: int, scales: Scales, drop_paths: list[float]) -> None:
        super().__init__()
        self.patch_embed = embed
        self.blocks = nn.ModuleList(Block(dim, mlp_ratio, scales, rate) for rate in drop_paths)
        self.norm = LayerNorm2d(dim, eps=1e-6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = gate = self.patch_embed(x)
        for block in self.blocks:
            x, gate = block(x)
        return self.norm(x), gate


class CrossScaleAttention(nn.Module):
    """Multi-scale cross attention: queries from the third stage, keys and values from the other stages.

    The maps of the first and second stage are average-pooled to the grid of the third (1/16 of the picture). The fourth
    map keeps its grid. The result is added to the third map and the upsampled fourth.

    For speed in onnxruntime, tokens are on the last axis, as convolutions output them, and pooling is a depthwise
    convolution. So no map is split or transposed, and the blocked layout is kept, even for widths that are not
    multiples of 16 (docs/graph.md).
    """

    HEAD_DIM = 48

    def __init__(self, dims: tuple[int, int, int, int], dim: int) -> None:
        super().__init__()
        heads, rest = divmod(dim, self.HEAD_DIM)
        if rest:
            raise ValueError(f"a fusion width of {dim} is not a multiple of the head width {self.HEAD_DIM}")
        self.heads = heads
        first, second, third, fourth = dims
        self.query = nn.Conv2d(third, dim, 1)
        self.key_value = nn.ModuleList(nn.Conv2d(d, 2 * dim, 1) for d in (first, second, fourth))
        self.answer = nn.Conv2d(dim, dim, 1)
        self.lateral = nn.Conv2d(third, dim, 1)
        self.top_down = nn.Conv2d(fourth, dim, 1)
        self.norm = LayerNorm2d(dim, eps=1e-6)

    def _tokens(self, maps: list[Tensor]) -> Tensor:
        """Maps (N, dim, H_i, W_i) -> (N, heads, head_dim, tokens)."""
        return torch.cat([x.flatten(2) for x in maps], dim=2).unflatten(1, (self.heads, -1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        first, second, third, fourth = maps
        others = [mean_pool(first, 4), mean_pool(second, 2), fourth]
        halves = [[conv.get_parameter(name).chunk(2) for name in ("weight", "bias")] for conv in self.key_value]
        keys, values = (
            self._tokens([F.conv2d(x, w[half], b[half]) for x, (w, b) in zip(others, halves, strict=True)])
            for half in (0, 1)
        )
        scale = keys.shape[2] ** -0.5
        query = self._tokens([F.conv2d(third, self.query.weight * scale, self.query.get_parameter("bias") * scale)])
        weights = torch.softmax(query.transpose(2, 3) @ keys, dim=3)  # (N, heads, queries, keys)
        seen = (values @ weights.transpose(2, 3)).flatten(1, 2).unflatten(2, third.shape[2:])  # -> (N, dim, H, W)
        upsampled = F.interpolate(self.top_down(fourth), scale_factor=2.0, mode="nearest")
        return self.norm(self.lateral(third) + upsampled + self.answer(seen))


def mean_pool(x: Tensor, side: int) -> Tensor:
    """Average pooling over side x side positions: (N, C, H, W) -> (N, C, H / side, W / side)."""
    weight = x.new_full((x.shape[1], 1, side, side), side**-2)
    return F.conv2d(x, weight, stride=side, groups=x.shape[1])


class VANOutput(NamedTuple):
    """Outputs of the network for a batch; names as in model/contract.py."""

    logits: Tensor  # (N, classes)
    attention: Tensor  # (N, scales, h, w), each map scaled to 0..1
    evidence: Tensor  # (N, classes, H, W); its mean over (H, W) plus the head's bias is the logit
    embedding: Tensor  # (N, dim)


def answer(head: nn.Linear, features: Sequence[Tensor], weighted: Tensor) -> VANOutput:
    """The outputs of a linear head over global average pooling.

    The evidence is the contribution of each position to the logits: a 1×1 convolution with the head's weights. Its
    mean over the positions plus the bias is the logit. The evidence of smaller maps is upsampled to the largest grid
    by repetition, which keeps its mean, and added.

    Args:
        features: maps (N, D_i, H_i, W_i), largest grid first. The sides of the first map are multiples of those of
            the others; the D_i add up to the input width of the head.
        weighted: attention before scaling, (N, K, h, w), non-negative.
    """
    embedding = torch.cat([map.mean(dim=(2, 3)) for map in features], dim=1)
    weights = head.weight[:, :, None, None].split([map.shape[1] for map in features], dim=1)
    first, *others = (F.conv2d(map, weight) for map, weight in zip(features, weights, strict=True))
    for share in others:
        factor = [float(whole // part) for whole, part in zip(first.shape[2:], share.shape[2:], strict=True)]
        first = first + F.interpolate(share, scale_factor=factor, mode="nearest")
    return VANOutput(head(embedding), scaled(weighted), first, embedding)


def by_scale(gate: Tensor, scales: int) -> Tensor:
    """Mean absolute value of a gate for each kernel scale: (N, C, h, w) -> (N, scales, h, w)."""
    return gate.abs().unflatten(1, (scales, -1)).mean(dim=2)


def check_sides(x: Tensor) -> None:
    """Check that both sides of the pictures are multiples of 32, the stride of the last stage.

    Raises:
        ValueError: one is not.
    """
    if x.shape[-1] % SIZE_MULTIPLE or x.shape[-2] % SIZE_MULTIPLE:
        raise ValueError(f"a picture of {tuple(x.shape[-2:])} pixels; both sides must be multiples of {SIZE_MULTIPLE}")


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
        rates = _drop_path_rates(drop_path, v.depths)
        parts = zip(embeds, v.embed_dims, v.mlp_ratios, v.scales, rates, strict=True)
        stages = [Stage(e, dim, ratio, s, r) for e, dim, ratio, s, r in parts]
        self.stages = nn.ModuleList(stages)
        self.fusion = CrossScaleAttention(v.embed_dims, v.fusion_dim) if v.fusion_dim else None
        self.head = nn.Linear(v.fusion_dim or v.embed_dims[-1], num_classes)
        most = max(len(scales) for scales in v.scales)
        self.attention_stage = max(i for i, scales in enumerate(v.scales) if len(scales) == most)
        self.attention_scales = v.scales[self.attention_stage]
        self.apply(init_weights)
        if add_channel_attention:  # after init_weights: it keeps the initialisation of its paper
            for module in self.modules():
                if isinstance(module, Block):
                    add_channel_attention(module)

    def clear_beyond(self, size: int) -> None:
        """Set the kernel taps of LKA to zero that reach only padding on pictures of size x size.

        At that size these taps have no effect and get no gradient. If the network is then used on larger pictures,
        random taps would add noise. Taps of zero keep the learned function, and can be trained there.
        """
        for stage, stride in zip(self.stages, STRIDES, strict=True):
            for module in stage.modules():
                if isinstance(module, LKA):
                    module.clear_beyond(size // stride)

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S), normalised → (the map that the head reads, the gate that gives `attention`)."""
        maps, gates = [], []
        for stage in self.stages:
            x, gate = stage(x)
            maps.append(x)
            gates.append(gate)
        return (self.fusion(maps) if self.fusion else x), gates[self.attention_stage]

    def forward(self, x: Tensor) -> VANOutput:
        """(N, 3, S, S), normalised; S a multiple of 32."""
        check_sides(x)
        features, gate = self.forward_features(x)
        return answer(self.head, [features], by_scale(gate, len(self.attention_scales)))


#: A map is stretched to 0..1 only if its range is at least this share of its maximum: less may be rounding errors.
FLAT = 1e-2


def scaled(maps: Tensor) -> Tensor:
    """Scale each map of (N, K, h, w), non-negative, to 0..1; a flat map stays flat and near 0."""
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    # Not `+ 1e-12`: a graph optimiser removes it as an addition of 0, and 0 / 0 would remain.
    return (maps - low) / torch.maximum(high - low, FLAT * high).clamp_min(1e-12)


def _drop_path_rates(last: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates by stage and block, increasing linearly over all blocks from 0 to `last`."""
    rates = iter(last * i / max(sum(depths) - 1, 1) for i in range(sum(depths)))
    return [list(itertools.islice(rates, depth)) for depth in depths]


def init_weights(module: nn.Module) -> None:
    """Initialise a linear layer or a convolution as the VAN paper's code does; leave other modules alone."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
