"""From the maps of the stages to the outputs: multi-scale cross attention, pooling, linear head. Tensors (N, C, H, W).

Multi-scale cross attention is named without numbers in the paper this project starts from; the design is ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import MLKA, Scales
from model.blocks import LayerNorm2d, init_weights
from model.contract import SIZE_MULTIPLE


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


class AttentionPooling(nn.Module):
    """Attention pooling: one weighting of the positions for each scale of MLKA, from a fine and a coarse map.

    MLKA of both maps gives one score for each scale and position. Its sigmoid, divided by the sum over the positions,
    is the weighting. A softmax would collapse to one position within a training: its largest weight grows with the
    difference of scores without bound. Scores begin near zero, so that the pooling begins as an average.

    Args:
        fine: channels of the map of twice the resolution, which gives the weighting its grid.
        coarse: channels of the map that is pooled.
    """

    #: Channels of each scale; onnxruntime's fast depthwise kernels work in blocks of 16.
    SHARE = 16

    def __init__(self, fine: int, coarse: int, scales: Scales) -> None:
        super().__init__()
        width = self.SHARE * len(scales)
        self.fine = nn.Conv2d(fine, 2 * width, 1)
        self.coarse = nn.Conv2d(coarse, 2 * width, 1)
        self.mlka = MLKA(width, scales)
        self.score = nn.Conv2d(width, len(scales), 1, groups=len(scales))
        self.apply(init_weights)
        nn.init.normal_(self.score.weight, std=0.02)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N, fine, 2h, 2w) and (N, coarse, h, w) → weightings (N, scales, 2h, 2w); each sums to 1."""
        both = self.fine(fine) + F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest")
        value, source = F.gelu(both).chunk(2, dim=1)
        scores = self.score(value * self.mlka(source))
        # sigmoid(s) / sum(sigmoid(s)), also where the sum is too small for the quotient or for onnxruntime's sigmoid
        return (-F.softplus(-scores)).flatten(2).softmax(dim=2).unflatten(2, scores.shape[2:])


def pooled(map: Tensor, weighting: Tensor) -> Tensor:
    """A map times its weighting, scaled so that the mean over the positions is the weighted mean: (N, D, h, w).

    Args:
        map: (N, D, h, w). Its channels are divided evenly among the weightings.
        weighting: (N, K, 2h, 2w), each sums to 1. The weight of a position of the map is the sum of its four.
    """
    count = map.shape[2] * map.shape[3]
    coarse = mean_pool(weighting, 2) * (4 * count)
    return (map.unflatten(1, (weighting.shape[1], -1)) * coarse[:, :, None]).flatten(1, 2)


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


#: A map is stretched to 0..1 only if its range is at least this share of its maximum: less may be rounding errors.
FLAT = 1e-2


def scaled(maps: Tensor) -> Tensor:
    """Scale each map of (N, K, h, w), non-negative, to 0..1; a flat map stays flat and near 0."""
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    # Not `+ 1e-12`: a graph optimiser removes it as an addition of 0, and 0 / 0 would remain.
    return (maps - low) / torch.maximum(high - low, FLAT * high).clamp_min(1e-12)
