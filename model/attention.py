"""Large kernel attention: LKA of one scale, MLKA of several, and the attention of VAN and of MAN around them.

Tensors are (N, C, H, W).

LKA: Guo et al., Visual Attention Network, arXiv 2202.09741. MLKA: Wang et al., Multi-scale Attention Network for Single
Image Super-Resolution (MAN), arXiv 2209.14145.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Scale → (depthwise kernel, dilated depthwise kernel, dilation); the last 1 of the name is the pointwise kernel.
KERNELS = {"3-5-1": (3, 5, 2), "5-7-1": (5, 7, 3), "7-9-1": (7, 9, 4)}
ALL_SCALES = tuple(KERNELS)
Scales = tuple[str, ...]


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


def clear_taps_beyond(part: nn.Module, side: int) -> None:
    """`LKA.clear_beyond` for every LKA of a part of a network, on maps of side x side."""
    for module in part.modules():
        if isinstance(module, LKA):
            module.clear_beyond(side)


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


class ScaleGate(nn.Module):
    """One scale of MLKA: an LKA times a depthwise convolution (arXiv 2209.14145, eq. 5). Keeps the shape of the input.

    Both factors begin near one: their biases are initialised to 1. A product of two small tensors would begin near
    zero, and its gradients with it.
    """

    def __init__(self, dim: int, scale: str) -> None:
        super().__init__()
        kernel = KERNELS[scale][0]
        self.scale = scale
        self.attend = LKA(dim, scale)
        self.gate = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def begin_near_one(self) -> None:
        """Initialise both biases to 1."""
        for conv in (self.attend.conv1, self.gate):
            nn.init.ones_(conv.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x) * self.gate(x)


class MLKA(nn.Module):
    """Multi-scale LKA (arXiv 2209.14145, eq. 5): a ScaleGate for each scale, on an equal share of the channels.

    Returns the gate in the shape of the input; its channels are grouped by scale, in the order of `scales`.

    Raises:
        ValueError: the width is not divisible among the scales.
    """

    def __init__(self, dim: int, scales: Scales) -> None:
        super().__init__()
        self.share = share_of(dim, scales)
        self.scales = nn.ModuleList(ScaleGate(self.share, scale) for scale in scales)

    def forward(self, x: Tensor) -> Tensor:
        groups = x.split(self.share, dim=1)
        return torch.cat([scale(group) for scale, group in zip(self.scales, groups, strict=True)], dim=1)


def share_of(dim: int, scales: Scales) -> int:
    """The channels of each scale.

    Raises:
        ValueError: the width is not divisible among the scales.
    """
    share, rest = divmod(dim, len(scales))
    if rest:
        raise ValueError(f"a width of {dim} cannot be split evenly among the {len(scales)} scales {scales} of MLKA")
    return share


class LKAttention(nn.Module):
    """VAN's attention: 1×1 → GELU → times its LKA → 1×1, plus the input; returns (output, gate).

    arXiv 2202.09741, section 3.2: one tensor is the gate's input and the gated value.
    """

    def __init__(self, dim: int, scales: Scales) -> None:
        super().__init__()
        if len(scales) > 1:
            raise ValueError(f"gating 'van' has one kernel a stage, not the {len(scales)} scales {scales}")
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = LKA(dim, scales[0])
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = F.gelu(self.proj_1(x))
        gate = self.spatial_gating_unit(inner)
        return self.proj_2(inner * gate) + x, gate


class MLKAttention(nn.Module):
    """MAN's attention: 1×1 to twice the width → GELU → value times MLKA of the other half → 1×1; (output, gate).

    arXiv 2209.14145, section 3.2 (MAB); the GELU is VAN's, MAN has none there. Nothing is added to the product: what
    the block adds to its input has passed the gate.
    """

    def __init__(self, dim: int, scales: Scales) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, 2 * dim, 1)
        self.spatial_gating_unit = MLKA(dim, scales)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, source = F.gelu(self.proj_1(x)).chunk(2, dim=1)
        gate = self.spatial_gating_unit(source)
        return self.proj_2(value * gate), gate


#: Gating → constructor of the attention, and the initial value of the layer scales. VAN's is published; from 1e-2, the
#: attention of a network trained for tens of epochs hardly grows.
GATINGS: Mapping[str, tuple[type[LKAttention | MLKAttention], float]] = MappingProxyType(
    {"van": (LKAttention, 1e-2), "man": (MLKAttention, 0.3)}
)
