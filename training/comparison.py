"""What VAN-MLKA is compared with: trunks of others under one head, with the outputs of the contract.

Knows timm's names of the trunks. Knows no weights and no pictures.

timm (Apache-2.0, pytorch-image-models) holds the trunks: kept up, and the field's reference for them.
"""

from collections.abc import Mapping
from types import MappingProxyType

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from model.van import VANOutput

#: Our name → timm's.
COMPARISONS: Mapping[str, str] = MappingProxyType(
    {
        "efficientnet_lite0": "tf_efficientnet_lite0",
        "efficientnet_lite1": "tf_efficientnet_lite1",
        "efficientnet_lite2": "tf_efficientnet_lite2",
        "resnext50": "resnext50_32x4d",
        "densenet121": "densenet121",
    }
)


class Pooled(nn.Module):
    """A trunk, the mean over its last map, a linear head; `attention` is the strength of that map.

    Args:
        name: timm's name of the trunk.
        num_classes: width of the head.
        drop_path: rate of stochastic depth at the last block, in trunks that have it.
    """

    attention_scales = ("features",)

    def __init__(self, name: str, num_classes: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.trunk = _trunk(name, drop_path)
        self.head = nn.Linear(self.trunk.num_features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> VANOutput:
        """(N, 3, S, S), normalised."""
        features = self.trunk.forward_features(x)  # (N, D, h, w)
        embedding = features.mean(dim=(2, 3))
        evidence = F.conv2d(features, self.head.weight[:, :, None, None])
        return VANOutput(self.head(embedding), _strength(features), evidence, embedding)


def _trunk(name: str, drop_path: float) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=drop_path)
    except TypeError:  # densenet, for one, knows no stochastic depth
        return timm.create_model(name, pretrained=False, num_classes=0)


def _strength(features: Tensor) -> Tensor:
    strength = features.abs().mean(dim=1, keepdim=True)  # (N, D, h, w) -> (N, 1, h, w)
    low, high = strength.amin(dim=(2, 3), keepdim=True), strength.amax(dim=(2, 3), keepdim=True)
    return (strength - low) / (high - low + 1e-12)
