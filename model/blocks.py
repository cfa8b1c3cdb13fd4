"""Building blocks of a VAN stage: stems, patch embedding, block, and their initialisation. Tensors are (N, C, H, W).

VAN, ConvFFN: Guo et al., Visual Attention Network, arXiv 2202.09741. The MCNN stem is named without numbers in the
paper this project starts from; the design is ours.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import GATINGS, ScaleGate, Scales


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

    Args:
        depth: blocks of the stage. More blocks begin with smaller layer scales, so that their sum stays bounded.
    """

    def __init__(
        self, dim: int, mlp_ratio: int, scales: Scales, drop_path: float, gating: str = "man", depth: int = 1
    ) -> None:
        super().__init__()
        attention, most = GATINGS[gating]
        layer_scale = min(most, 1 / depth)
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = attention(dim, scales)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = ConvFFN(dim, dim * mlp_ratio)
        self.channel_attention: nn.Module = nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(torch.full((dim, 1, 1), layer_scale))
        self.layer_scale_2 = nn.Parameter(torch.full((dim, 1, 1), layer_scale))

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

    def __init__(
        self,
        embed: nn.Module,
        dim: int,
        mlp_ratio: int,
        scales: Scales,
        drop_paths: Sequence[float],
        gating: str = "man",
    ) -> None:
        super().__init__()
        self.patch_embed = embed
        self.blocks = nn.ModuleList(Block(dim, mlp_ratio, scales, rate, gating, len(drop_paths)) for rate in drop_paths)
        self.norm = LayerNorm2d(dim, eps=1e-6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = gate = self.patch_embed(x)
        for block in self.blocks:
            x, gate = block(x)
        return self.norm(x), gate


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates by stage and block, increasing linearly over all blocks from 0 to `last`."""
    rates = iter(last * i / max(sum(depths) - 1, 1) for i in range(sum(depths)))
    return [list(itertools.islice(rates, depth)) for depth in depths]


def init_weights(module: nn.Module) -> None:
    """Initialise one module; for nn.Module.apply. As VAN's published code, and ScaleGate's biases to 1."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ScaleGate):  # after its convolutions: nn.Module.apply visits children first
        module.begin_near_one()
