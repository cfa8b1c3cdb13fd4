"""A network → the same network arranged for inference: what stands beside a convolution is computed into its weights.

Knows torch and the parts of `model/van.py`. Knows no ONNX, no files and no trunk: a BatchNorm behind a convolution is
left to the runtimes, which all fold it when they load a graph.

Nothing is computed here once and for all. Each folded weight is an expression of the network's own tensors, which keep
their names, so that they stand whole in a graph traced from it, and a training can begin with an artefact. A runtime
computes the expressions once, when it loads the graph. What was gained is in docs/graph.md.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.van import MLKA, Block, CrossScaleAttention

#: Channels in a block of onnxruntime's NCHWc layout; depthwise kernels of other widths are several times slower.
CHANNEL_BLOCK = 16


def folded(net: nn.Module) -> nn.Module:
    """A copy of a network that computes the same, up to rounding, with fewer steps; its tensors are named as before.

    Args:
        net: in eval mode; BatchNorms are folded as they stand.

    Raises:
        ValueError: it is in training mode, or a channel group of an MLKA is no multiple of 16.
    """
    if net.training:
        raise ValueError("a network in training mode cannot be folded: its BatchNorms change with every batch")
    check_groups(net)
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Block):
                parent.add_module(name, FoldedBlock(child))
            elif isinstance(child, CrossScaleAttention):
                parent.add_module(name, FoldedCrossScaleAttention(child))
    return net.eval()


def check_groups(net: nn.Module) -> None:
    """Return when every MLKA shares its channels in whole blocks of 16.

    Raises:
        ValueError: one does not; says which, and what width would.
    """
    for name, module in net.named_modules():
        if isinstance(module, MLKA) and module.share % CHANNEL_BLOCK:
            step = CHANNEL_BLOCK * len(module.attend)
            raise ValueError(
                f"{name} gives each scale {module.share} channels; onnxruntime computes depthwise convolutions fast "
                f"only in blocks of {CHANNEL_BLOCK}: choose a width that is a multiple of {step}"
            )


class FoldedBlock(nn.Module):
    """A Block of VAN without BatchNorm and layer scale: each lies in the 1×1 convolution beside it.

    These pad nothing, so the shift of a BatchNorm before one is exact at the border too. The inner residual of the
    attention adds up the normalised map; what is left of that is a weight for each channel of the map itself. A
    channel attention draws weights from what comes before the layer scale, which then stays.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.channel_attention = block.channel_attention
        self.layer_scale_1, self.layer_scale_2 = block.layer_scale_1, block.layer_scale_2

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = scale_and_shift(self.norm1)
        inner = F.gelu(F.conv2d(x, *normed_before(self.attn.proj_1, scale, shift)))
        gate = self.attn.spatial_gating_unit(inner)
        attended = F.conv2d(inner * gate, *scaled_after(self.attn.proj_2, self.layer_scale_1, shift))
        x = x * (1 + self.layer_scale_1 * scale[:, None, None]) + attended
        hidden = F.gelu(self.mlp.dwconv(F.conv2d(x, *normed_before(self.mlp.fc1, *scale_and_shift(self.norm2)))))
        return x + self._mixed(hidden), gate

    def _mixed(self, hidden: Tensor) -> Tensor:
        if isinstance(self.channel_attention, nn.Identity):
            return F.conv2d(hidden, *scaled_after(self.mlp.fc2, self.layer_scale_2))
        return self.layer_scale_2 * self.channel_attention(self.mlp.fc2(hidden))


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A BatchNorm in eval mode as x * scale + shift, each (C,)."""
    assert norm.running_mean is not None and norm.running_var is not None, "it keeps running statistics"
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def normed_before(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias that make of x what a 1×1 convolution makes of x * scale + shift; scale and shift (C_in,)."""
    assert conv.kernel_size == (1, 1) and conv.bias is not None, "padding is not normalised with the map"
    matrix = conv.weight[:, :, 0, 0]
    return (matrix * scale)[:, :, None, None], conv.bias + (matrix * shift).sum(dim=1)


def scaled_after(conv: nn.Conv2d, scale: Tensor, shift: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Weight and bias that give (conv(x) + shift) * scale; scale (C_out, 1, 1), shift (C_out,)."""
    assert conv.bias is not None, "every convolution of a block has one"
    return conv.weight * scale[:, None], (conv.bias + shift) * scale[:, 0, 0]


class FoldedCrossScaleAttention(nn.Module):
    """CrossScaleAttention with its tokens in columns, as convolutions leave them: no map is split or turned.

    Means over 4 × 4 and 2 × 2 places are depthwise convolutions: onnxruntime pools maps whose width is no multiple of
    16 (EfficientNet-Lite's 24 and 40) outside of its blocked layout, to which they are reordered and back.
    """

    def __init__(self, fusion: CrossScaleAttention) -> None:
        super().__init__()
        self.heads = fusion.heads
        self.query, self.key_value, self.answer = fusion.query, fusion.key_value, fusion.answer
        self.lateral, self.top_down, self.norm = fusion.lateral, fusion.top_down, fusion.norm

    def _tokens(self, maps: list[Tensor]) -> Tensor:
        """Maps (N, dim, H_i, W_i) → (N, heads, head_dim, tokens)."""
        return torch.cat([x.flatten(2) for x in maps], dim=2).unflatten(1, (self.heads, -1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        first, second, third, fourth = maps
        others = [mean_of_places(first, 4), mean_of_places(second, 2), fourth]
        halves = [[conv.get_parameter(name).chunk(2) for name in ("weight", "bias")] for conv in self.key_value]
        keys, values = (
            self._tokens([F.conv2d(x, w[half], b[half]) for x, (w, b) in zip(others, halves, strict=True)])
            for half in (0, 1)
        )
        scale = keys.shape[2] ** -0.5
        query = self._tokens([F.conv2d(third, self.query.weight * scale, self.query.bias * scale)])
        weights = torch.softmax(query.transpose(2, 3) @ keys, dim=3)  # (N, heads, queries, keys)
        seen = (values @ weights.transpose(2, 3)).flatten(1, 2).unflatten(2, third.shape[2:])  # -> (N, dim, H, W)
        upsampled = F.interpolate(self.top_down(fourth), scale_factor=2.0, mode="nearest")
        return self.norm(self.lateral(third) + upsampled + self.answer(seen))


def mean_of_places(x: Tensor, side: int) -> Tensor:
    """The mean over each side × side places: (N, C, H, W) → (N, C, H / side, W / side)."""
    weight = x.new_full((x.shape[1], 1, side, side), side**-2)
    return F.conv2d(x, weight, stride=side, groups=x.shape[1])
