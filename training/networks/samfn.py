"""SA-MFN-like: self-supervised filtering of attention maps, multi-scale attention and a second prediction.

After Chen et al. 2022, doi 10.1007/s10489-022-03232-w, from its description alone. Described there: a
self-supervised attention map filter keeps the most distinguishable and representative maps; a multi-scale attention map
generator combines them into a global map; a reiterative prediction refines the first one. Ours: the scores of the
filter (below), the choice of scales, a second prediction weighted by the evidence of the first, and a ResNet-18 as
backbone.
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.trunks import PooledClassifier

#: Number of initial attention maps, M.
ATTENTION_MAPS = 32


class AttentionMapFilter(nn.Module):
    """Self-supervised attention map filter: (N, D, h, w) → (N, M, h, w), about half of the maps zero.

    The score of a map is distinguishability (low entropy over the positions) times representativeness (cosine with the
    mean map). Maps are weighted by their score above the mean score; the others become zero. A top-k choice would
    depend on rounding, and so on the runtime, where two scores are nearly equal.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.initial = nn.Sequential(nn.Conv2d(dim, ATTENTION_MAPS, 1, bias=False), nn.BatchNorm2d(ATTENTION_MAPS))

    def forward(self, x: Tensor) -> Tensor:
        maps = F.softplus(self.initial(x))
        flat = maps.flatten(2)  # (N, M, P)
        share = flat / flat.sum(dim=2, keepdim=True)
        peaked = (share * share.log()).sum(dim=2).exp()  # 1 at a single position, 1 / P when even
        representative = F.cosine_similarity(flat, flat.mean(dim=1, keepdim=True), dim=2)
        score = peaked * representative
        return maps * torch.relu(score - score.mean(dim=1, keepdim=True))[:, :, None, None]


class MultiScaleAttention(nn.Module):
    """Multi-scale attention map generator: a global map from the filtered maps, applied to features of two scales.

    Args:
        fine_dim: channels of the third stage.
        dim: channels of the last stage.
    """

    def __init__(self, fine_dim: int, dim: int) -> None:
        super().__init__()
        self.generate = nn.Conv2d(2, 1, 7, padding=3)
        self.fuse = nn.Sequential(
            nn.Conv2d(fine_dim + dim + ATTENTION_MAPS, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True)
        )

    def forward(self, fine: Tensor, coarse: Tensor, filtered: Tensor) -> tuple[Tensor, Tensor]:
        """fine (N, ·, 2h, 2w), coarse and filtered (N, ·, h, w) → (fused (N, D, h, w), global map (N, 1, h, w))."""
        summary = torch.cat([filtered.mean(dim=1, keepdim=True), filtered.amax(dim=1, keepdim=True)], dim=1)
        attention = torch.sigmoid(self.generate(summary))
        fine = fine * F.interpolate(attention, scale_factor=2.0)
        return self.fuse(torch.cat([F.avg_pool2d(fine, 2), coarse * attention, filtered], dim=1)), attention


class SAMFNLike(PooledClassifier):
    """SA-MFN-like, on ResNet-18; `attention` holds the global map and the map of the second prediction.

    Reiterative prediction: the class evidence, weighted by the first probabilities, is a map of where the first answer
    came from. The features are weighted by it, and the head reads the mean of both feature maps, so that its logits are
    the mean of both predictions.
    """

    attention_scales = ("global", "second look")

    def __init__(self, num_classes: int, drop_path: float = 0.0) -> None:
        trunk: Any = timm.create_model(
            "resnet18", pretrained=False, features_only=True, out_indices=(3, 4), drop_path_rate=drop_path
        )
        fine, coarse = trunk.feature_info.channels()
        super().__init__(trunk, coarse, num_classes)
        self.filter = AttentionMapFilter(coarse)
        self.scales = MultiScaleAttention(fine, coarse)

    def forward_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine, coarse = self.trunk(x)
        features, attention = self.scales(fine, coarse, self.filter(coarse))
        evidence = F.conv2d(features, self.head.weight[:, :, None, None], self.head.bias)
        first = torch.softmax(evidence.mean(dim=(2, 3)), dim=1)
        second_look = torch.sigmoid((evidence * first[:, :, None, None]).sum(dim=1, keepdim=True))
        reweighted = features * 2 * second_look  # unchanged where the evidence is 0
        return (features + reweighted) / 2, torch.cat([attention, second_look], dim=1)
