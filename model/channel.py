"""Six kinds of channel attention by name. Each weights the channels of a map (N, C, H, W) by the whole map.

SE, ECA, CBAM and GC are timm's (Apache-2.0). FcaNet and EPSA are not in timm; they follow the papers' equations. See
docs/experiments.md.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.global_context import GlobalContext
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

#: Smallest width of a bottleneck. Otherwise it has 1/16 of the channels, but 3 of 48 would be too few.
MIN_BOTTLENECK = 8


def _bottleneck(dim: int) -> int:
    return max(dim // 16, MIN_BOTTLENECK)


class FrequencyAttention(nn.Module):
    """FcaNet's multi-spectral channel attention (arXiv 2012.11879, eq. 6 to 10).

    Like squeeze-and-excitation (SE), but channels are split into 16 groups, and each group is summarised by its own
    component of the two-dimensional discrete cosine transform. SE uses only the component (0, 0), the mean.

    The paper pools every map to a grid of 7 x 7. Here the cosines have the size of the map, so nothing is pooled.
    Frequencies that are too high for a map are replaced by its highest. Components are means, not sums, so that
    weights are valid for every input size.
    """

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
        height, width = x.shape[-2:]
        down = self._cosines([u for u, _ in self.FREQUENCIES], height, x)[:, None, :, None]
        across = self._cosines([v for _, v in self.FREQUENCIES], width, x)[:, None, None, :]
        groups = x.unflatten(1, (len(self.FREQUENCIES), -1))  # (N, C, H, W) -> (N, 16, C / 16, H, W)
        seen = (groups * (down * across)).mean(dim=(3, 4)).flatten(1)[:, :, None, None]  # -> (N, C, 1, 1)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(seen))))

    @staticmethod
    def _cosines(cycles: list[int], side: int, like: Tensor) -> Tensor:
        """One cosine per frequency at `side` positions, (16, side), each with a mean square of 1."""
        shown = torch.tensor([min(cycle, side - 1) for cycle in cycles], device=like.device, dtype=like.dtype)
        places = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5
        cosines = torch.cos(math.pi / side * shown[:, None] * places)
        return cosines * torch.where(shown > 0, math.sqrt(2.0), 1.0)[:, None]


class PyramidSqueezeAttention(nn.Module):
    """PSA, the core of an EPSA block (arXiv 2105.14447, eq. 1 to 8).

    Four convolutions with kernels of 3, 5, 7 and 9 compute a quarter of the channels each. One SE module, shared by all
    four, gives the channel weights; a softmax over the four kernels normalises them. The convolutions have 1, 4, 8 and
    16 groups, or the largest divisor of that number that divides a quarter of the width.
    """

    KERNELS_AND_GROUPS = ((3, 1), (5, 4), (7, 8), (9, 16))

    def __init__(self, dim: int) -> None:
        super().__init__()
        share, rest = divmod(dim, len(self.KERNELS_AND_GROUPS))
        if rest:
            raise ValueError(f"a width of {dim} cannot be split evenly among the four branches of EPSA")
        self.branches = nn.ModuleList(
            nn.Conv2d(dim, share, k, padding=k // 2, groups=math.gcd(groups, share), bias=False)
            for k, groups in self.KERNELS_AND_GROUPS
        )
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
