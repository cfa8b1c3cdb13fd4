"""Six kinds of channel attention for a VAN block. Each weights the channels of a map (N, C, H, W) by the whole map.

SE, ECA, CBAM and GC are timm's (Apache-2.0). FcaNet and EPSA are not in timm; they follow the papers' equations. See
docs/experiments.md.
"""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.global_context import GlobalContext
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from model.blocks import Block, init_weights

#: Smallest width of a bottleneck. Otherwise it has 1/16 of the channels, but 3 of 48 would be too few.
MIN_BOTTLENECK = 8


def _bottleneck(dim: int) -> int:
    return max(dim // 16, MIN_BOTTLENECK)


class FrequencyAttention(nn.Module):
    """FcaNet's multi-spectral channel attention (arXiv 2012.11879, eq. 6 to 10).

    Like squeeze-and-excitation (SE), but channels are split into 16 groups, and each group is summarised by its own
    component of the two-dimensional discrete cosine transform (DCT, type II, orthonormal). SE uses only the component
    (0, 0), which is proportional to the mean.

    Frequencies are those of a grid of 7 x 7. As in the authors' code, a map of another size gets the same number of
    cycles per position: each frequency is multiplied by `side // 7`. Their code computes the DCT on a fixed grid for
    each stage and pools other maps to it; this one computes it on the map, and pools only maps smaller than 7 x 7.
    """

    #: Side of the grid of the published frequencies.
    GRID = 7
    #: The 16 best single components on ImageNet (section 4.2, "two-step selection"): vertical, horizontal frequency.
    FREQUENCIES = (
        (0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0),
        (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2),
    )  # fmt: skip

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % len(self.FREQUENCIES):
            raise ValueError(f"a width of {dim} cannot be split evenly among the 16 frequencies of FcaNet")
        self.fc1 = nn.Conv2d(dim, _bottleneck(dim), 1, bias=False)
        self.fc2 = nn.Conv2d(_bottleneck(dim), dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = (
            torch.as_tensor(self._cosines(axis, side), dtype=x.dtype, device=x.device)
            for axis, side in enumerate(x.shape[-2:])
        )
        basis = vertical[:, None, :, None] * horizontal[:, None, None, :]  # (16, 1, H, W)
        groups = x.unflatten(1, (len(self.FREQUENCIES), -1))  # (N, C, H, W) -> (N, 16, C / 16, H, W)
        components = (groups * basis).sum(dim=(3, 4)).flatten(1)[:, :, None, None]  # -> (N, C, 1, 1)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(components))))

    @classmethod
    @functools.cache
    def _cosines(cls, axis: int, side: int) -> NDArray[np.float64]:
        """One DCT basis vector per frequency along an axis, (16, side); below 7 positions it includes the pooling."""
        grid = max(side, cls.GRID)
        frequencies = np.array([pair[axis] for pair in cls.FREQUENCIES])[:, None] * (grid // cls.GRID)
        cosines = np.cos(np.pi / grid * frequencies * (np.arange(grid) + 0.5))
        cosines *= np.where(frequencies > 0, math.sqrt(2 / grid), math.sqrt(1 / grid))
        return cosines if side == grid else cosines @ _adaptive_mean(side, grid)


def _adaptive_mean(side: int, cells: int) -> NDArray[np.float64]:
    """Adaptive average pooling of `side` positions to `cells` cells as a matrix (cells, side)."""
    position, cell = np.arange(side), np.arange(cells)[:, None]
    inside = (position >= cell * side // cells) & (position < -(-(cell + 1) * side // cells))
    return inside / inside.sum(axis=1, keepdims=True)


class PyramidSqueezeAttention(nn.Module):
    """PSA, the core of an EPSA block (arXiv 2105.14447, eq. 1 to 8).

    Four convolutions with kernels of 3, 5, 7 and 9 compute a quarter of the channels each. One SE module, shared by all
    four, gives the channel weights; a softmax over the four kernels normalises them.

    The convolutions have up to 32 groups, the largest number that divides a quarter of the width. EPSANet-Large has 32
    groups and a large inner width, as a ConvFFN has. In ResNet a BatchNorm follows; the ConvFFN has none, so weights
    are initialised as those of VAN's convolutions.
    """

    KERNELS = (3, 5, 7, 9)
    MOST_GROUPS = 32

    def __init__(self, dim: int) -> None:
        super().__init__()
        share, rest = divmod(dim, len(self.KERNELS))
        if rest:
            raise ValueError(f"a width of {dim} cannot be split evenly among the four branches of EPSA")
        groups = max(count for count in range(1, self.MOST_GROUPS + 1) if share % count == 0)
        self.branches = nn.ModuleList(
            nn.Conv2d(dim, share, k, padding=k // 2, groups=groups, bias=False) for k in self.KERNELS
        )
        self.branches.apply(init_weights)
        self.fc1 = nn.Conv2d(share, _bottleneck(share), 1)
        self.fc2 = nn.Conv2d(_bottleneck(share), share, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = torch.stack([branch(x) for branch in self.branches], dim=1)  # (N, 4, C / 4, H, W)
        means = scales.mean(dim=(3, 4))[..., None, None].flatten(0, 1)  # (4 N, C / 4, 1, 1)
        weights = torch.sigmoid(self.fc2(torch.relu(self.fc1(means)))).unflatten(0, (-1, len(self.branches)))
        return (scales * torch.softmax(weights, dim=1)).flatten(1, 2)


def _se(dim: int) -> nn.Module:
    return SEModule(dim, rd_channels=_bottleneck(dim))


def _cbam(dim: int) -> nn.Module:
    return CbamModule(dim, rd_channels=_bottleneck(dim))


def _gc(dim: int) -> nn.Module:
    """GlobalContext as in its paper: adds the context and starts as the identity. timm's default multiplies by it."""
    module = GlobalContext(dim, fuse_add=True, fuse_scale=False, rd_channels=_bottleneck(dim))
    nn.init.zeros_(module.mlp_add.fc2.get_parameter("bias"))  # as timm does with its weight
    return module


#: Name → constructor for a width. SE arXiv 1709.01507, ECA 1910.03151, CBAM 1807.06521, GC 1904.11492.
CHANNEL_ATTENTIONS: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {
        "se": _se,
        "eca": EcaModule,
        "epsa": PyramidSqueezeAttention,
        "cbam": _cbam,
        "gc": _gc,
        "fca": FrequencyAttention,
    }
)


def add_channel_attention(block: Block, name: str) -> None:
    """Add a channel attention to a block, where its paper has it.

    EPSA replaces the 3x3 convolution between two 1x1 convolutions, so it replaces that of the ConvFFN. The others
    weight the output of a residual branch before the sum, so they weight that of the ConvFFN.

    Args:
        name: a key of CHANNEL_ATTENTIONS.

    Raises:
        ValueError: the width cannot be split as the attention needs.
    """
    construct = CHANNEL_ATTENTIONS[name]
    if name == "epsa":
        block.mlp.dwconv = construct(block.mlp.fc1.out_channels)
    else:
        block.channel_attention = construct(block.mlp.fc2.out_channels)
