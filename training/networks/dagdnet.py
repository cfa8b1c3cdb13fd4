"""DAGDNet-like: a DenseNet with attention gates on two of its dense blocks.

After Peng et al. 2023, doi 10.1007/s00432-023-05384-9, from its description alone. Described there: dual attention
gates in a DenseNet filter and highlight position-related features. Ours: the additive gate of Attention U-Net (arXiv
1804.03999, eq. 1 and 2) behind the second and third dense block, with the fourth block's map as gating signal.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.densenet import DenseNet
from torch import Tensor, nn

from training.networks.trunks import PooledClassifier


class AttentionGate(nn.Module):
    """Additive attention gate: x · σ(ψ ReLU(W_x x + W_g g)), x after norm and ReLU.

    A dense block outputs sums without norm. Every layer that reads them starts with norm and ReLU; so does the gate.

    Args:
        dim: channels of the map x.
        gating_dim: channels of the deeper map g.
    """

    def __init__(self, dim: int, gating_dim: int) -> None:
        super().__init__()
        hidden = dim // 2
        self.norm = nn.BatchNorm2d(dim)
        self.of_map = nn.Conv2d(dim, hidden, 1, bias=False)
        self.of_gating = nn.Conv2d(gating_dim, hidden, 1)
        self.psi = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, C, h, w) and a gating map on a coarser grid → gated x, and the gate (N, 1, h, w) in 0..1."""
        x = torch.relu(self.norm(x))
        gating = F.interpolate(self.of_gating(gating), scale_factor=float(x.shape[-1] // gating.shape[-1]))
        gate = torch.sigmoid(self.psi(torch.relu(self.of_map(x) + gating)))
        return x * gate, gate


class DAGDNetLike(PooledClassifier):
    """DAGDNet-like: DenseNet with dual attention gates; `attention` holds the two gates on the finer grid.

    Args:
        blocks: dense layers of each block.
        growth: channels that each layer adds.
    """

    attention_scales = ("gate of block 2", "gate of block 3")

    def __init__(self, blocks: tuple[int, int, int, int], growth: int, num_classes: int) -> None:
        dense: Any = DenseNet(block_config=blocks, growth_rate=growth, num_classes=0).features
        widths = [getattr(dense, f"transition{n}").norm.num_features for n in (2, 3)]
        last = dense.norm5.num_features
        super().__init__(dense, last + sum(widths), num_classes)
        self.gates = nn.ModuleList(AttentionGate(width, last) for width in widths)

    def forward_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = []
        for name, layer in self.trunk.named_children():
            x = layer(x)
            if name in ("denseblock2", "denseblock3"):
                middle.append(x)
        gated, gates = zip(*(gate(m, x) for gate, m in zip(self.gates, middle, strict=True)), strict=True)
        on_last_grid = [F.avg_pool2d(g, g.shape[-1] // x.shape[-1]) for g in gated]
        finest = gates[0].shape[-1]
        shown = [F.interpolate(g, scale_factor=float(finest // g.shape[-1])) for g in gates]
        return torch.cat([x, *on_last_grid], dim=1), torch.cat(shown, dim=1)


def dagdnet(num_classes: int, drop_path: float = 0.0) -> DAGDNetLike:
    """DAGDNet-like, on DenseNet-121 with half its growth rate, for training on two CPU cores."""
    del drop_path  # DenseNet has no residual branches to drop
    return DAGDNetLike((6, 12, 24, 16), 16, num_classes)


def dagdnet121(num_classes: int, drop_path: float = 0.0) -> DAGDNetLike:
    """DAGDNet-like, on DenseNet-121."""
    del drop_path
    return DAGDNetLike((6, 12, 24, 16), 32, num_classes)
