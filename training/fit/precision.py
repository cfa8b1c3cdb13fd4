"""Strided depthwise convolutions in 32 bits where the rest of a training on a CPU runs in bf16.

oneDNN (torch 2.15, AVX512-BF16) computes their gradients much more slowly in bf16 than in 32 bits. The first layers of
EfficientNet-Lite have two of them, on large maps.
"""

import torch
from torch import Tensor, nn


def strided_depthwise_in_float32(net: nn.Module) -> None:
    """Make the strided depthwise convolutions of a network leave autocast, in place. Weights and their names stay."""
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d) and 1 < conv.groups == conv.in_channels and conv.stride != (1, 1):
            # A subclass made on the fly, so that a copy of the network (of its moving average) has its own weights.
            conv.__class__ = type(type(conv).__name__, (_InFloat32, type(conv)), {})


class _InFloat32(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())
