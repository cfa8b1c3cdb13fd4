"""What VAN-MLKA is compared with: trunks of others under one head, with the outputs of the contract.

Knows timm's names of the trunks. Knows no weights and no pictures.

timm (Apache-2.0, pytorch-image-models) holds the trunks: kept up, and the field's reference for them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import timm
from torch import Tensor, nn

from model.van import VANOutput, answer

#: Our name → timm's, and what else timm is told.
TRUNKS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "efficientnet_lite0": ("tf_efficientnet_lite0", {}),
        "efficientnet_lite1": ("tf_efficientnet_lite1", {}),
        "efficientnet_lite2": ("tf_efficientnet_lite2", {}),
        "resnext50": ("resnext50_32x4d", {}),  # Matek 2021
        "densenet121": ("densenet121", {}),
        "resnet18": ("resnet18", {}),
        "convnext_atto": ("convnext_atto", {"head_norm_first": True}),  # its norm before the mean, as the sum rule asks
    }
)


class PooledClassifier(nn.Module):
    """A trunk, the mean over its last map, a linear head.

    Args:
        trunk: what `look` sees with.
        features: channels of its last map, D.
        num_classes: width of the head.
    """

    #: What the maps of `attention` show, in order.
    attention_scales: tuple[str, ...] = ("features",)
    trunk: Any  # its parts have names of its own, of which nn.Module knows nothing

    def __init__(self, trunk: nn.Module, features: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S), normalised → the map that the head reads (N, D, h, w), and what it weighted (N, K, h', w').

        Here the second is the strength of the first: the mean over its channels without signs.
        """
        features = self.trunk.forward_features(x)
        return features, mean_magnitude(features)

    def forward(self, x: Tensor) -> VANOutput:
        """(N, 3, S, S), normalised."""
        features, weighted = self.look(x)
        return answer(self.head, [features], weighted)


def timm_classifier(name: str, num_classes: int, drop_path: float = 0.0) -> PooledClassifier:
    """A trunk of timm with random weights.

    Args:
        name: of TRUNKS.
        drop_path: rate of stochastic depth at the last block, in trunks that have it.
    """
    timm_name, options = TRUNKS[name]
    options = {"pretrained": False, "num_classes": 0, **options}
    trunk: Any
    try:
        trunk = timm.create_model(timm_name, drop_path_rate=drop_path, **options)
    except TypeError:  # densenet, for one, knows no stochastic depth
        trunk = timm.create_model(timm_name, **options)
    return PooledClassifier(trunk, trunk.num_features, num_classes)


def mean_magnitude(features: Tensor) -> Tensor:
    """The mean over the channels without signs, (N, D, h, w) -> (N, 1, h, w)."""
    return features.abs().mean(dim=1, keepdim=True)
