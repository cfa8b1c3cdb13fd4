"""SA-MFN: attention maps are filtered without labels, features of two scales are seen through them, and the first
prediction is used to look again.

Chen et al. 2022, doi 10.1007/s10489-022-03232-w. Re-stated from the description; not the authors' code. Described: a
self-supervised attention map filter keeps the most distinguishable and representative of the initial attention maps; a
multi-scale attention map generator draws a global spatial map from them; a reiterative prediction steadies an unsure
first answer. Not described there, and ours: what makes a map distinguishable and representative (below), which two
scales, and that the second look goes where the first prediction found its evidence; the backbone is a ResNet-18.

Knows tensors. Knows no weights and no pictures.
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.trunks import PooledClassifier

#: Initial attention maps, M.
ATTENTION_MAPS = 32


class AttentionMapFilter(nn.Module):
    """Self-supervised attention map filter: (N, D, h, w) → (N, M, h, w), of which the worse half or so is zero.

    A map is distinguishable where it is peaked: its entropy over the positions is low. It is representative where it
    agrees with the others: its cosine with their mean is high. The product of the two is its score, which needs no
    label. A map counts by what its score is above the mean score; the others are filtered out. Taking a fixed number
    of the best instead would let two maps of nearly one score change places between one runtime and another.
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
    """Multi-scale attention map generator: a global map from the filtered ones, laid over the features of two scales.

    Args:
        fine_dim: channels of the third stage.
        dim: channels of the last.
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


class SAMFN(PooledClassifier):
    """Filter, generator and reiterative prediction over ResNet-18; `attention` is the global map and the second look.

    Reiterative prediction: the evidence of the classes, weighted with the first probabilities, says where the first
    answer came from; the features are looked at again through it, and the head reads the mean of both looks, so that
    its logits are the mean of both predictions.
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

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine, coarse = self.trunk(x)
        features, attention = self.scales(fine, coarse, self.filter(coarse))
        evidence = F.conv2d(features, self.head.weight[:, :, None, None], self.head.bias)
        first = torch.softmax(evidence.mean(dim=(2, 3)), dim=1)
        second_look = torch.sigmoid((evidence * first[:, :, None, None]).sum(dim=1, keepdim=True))
        seen_again = features * 2 * second_look  # as strong as at first where the evidence is indifferent
        return (features + seen_again) / 2, torch.cat([attention, second_look], dim=1)
