"""Comparison networks: trunks of timm with a linear head and the outputs of the contract.

timm (pytorch-image-models, Apache-2.0) is the field's reference implementation of these trunks.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import timm
import torch
from torch import Tensor, nn

from model.heads import VANOutput, answer

#: Before the name of a backbone of timm, in `model.variant`.
TIMM_PREFIX = "timm:"
#: Variant → timm's name and options.
TRUNKS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "efficientnet_lite0": ("tf_efficientnet_lite0", {}),
        "efficientnet_lite1": ("tf_efficientnet_lite1", {}),
        "efficientnet_lite2": ("tf_efficientnet_lite2", {}),
        "resnext50": ("resnext50_32x4d", {}),  # Matek 2021
        "densenet121": ("densenet121", {}),
        "resnet18": ("resnet18", {}),
        "convnext_atto": (
            "convnext_atto",
            {"head_norm_first": True},
        ),  # norm before the mean, for the sum rule
    }
)


class PooledClassifier(nn.Module):
    """A trunk, global average pooling and a linear head.

    Args:
        trunk: the trunk that `forward_maps` calls.
        features: channels of its last map, D.
        num_classes: width of the head.
    """

    #: Names of the `attention` maps, in order.
    attention_scales: tuple[str, ...] = ("features",)
    trunk: Any  # typed Any: its submodules differ by trunk

    def __init__(self, trunk: nn.Module, features: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Empty: no part of a comparison network is measured, and none is exported as attention."""
        return {}

    def forward_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map (N, D, h, w) and attention maps (N, K, h', w') of normalised pictures (N, 3, S, S).

        Here the attention map is the mean magnitude of the features over their channels.
        """
        features = self.trunk.forward_features(x)
        return features, mean_magnitude(features)

    def forward(self, x: Tensor) -> VANOutput:
        """Outputs of the contract for normalised pictures (N, 3, S, S)."""
        features, weighted = self.forward_maps(x)
        return answer(self.head, [features], weighted)


def any_timm_classifier(name: str, num_classes: int, drop_path: float = 0.0) -> PooledClassifier:
    """A backbone of timm by its name in timm, with random weights.

    Raises:
        ValueError: timm has no such backbone, or it is not convolutional: without a map (N, D, h, w) there is no
            evidence for each class.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        advice = (
            f"did you mean {', '.join(f'{TIMM_PREFIX}{one}' for one in near)}?" if near else "see timm.list_models()"
        )
        raise ValueError(f"timm has no backbone {name!r}; {advice}")
    options = {"head_norm_first": True} if name.startswith("convnext") else {}  # norm before the mean
    network = _classifier(name, options, num_classes, drop_path)
    with torch.device("meta"):
        probe = _classifier(name, options, num_classes, drop_path).eval()
        try:
            shape = tuple(probe.trunk.forward_features(torch.zeros(1, 3, 224, 224)).shape)
        except Exception as error:  # a backbone may fail in any way
            raise ValueError(f"{TIMM_PREFIX}{name} computes no features of 224 px: {error}") from error
    if len(shape) != 4 or shape[1] != probe.head.in_features:
        raise ValueError(
            f"{TIMM_PREFIX}{name} ends with features of the shape {shape}; a convolutional backbone is needed, with a "
            "map (N, D, h, w) that the evidence for each class is read from"
        )
    return network


def timm_classifier(name: str, num_classes: int, drop_path: float = 0.0) -> PooledClassifier:
    """A trunk of timm with random weights.

    Args:
        name: a key of TRUNKS.
        drop_path: stochastic depth rate at the last block; ignored by trunks without it.
    """
    timm_name, options = TRUNKS[name]
    return _classifier(timm_name, options, num_classes, drop_path)


def _classifier(timm_name: str, options: Mapping[str, Any], num_classes: int, drop_path: float) -> PooledClassifier:
    options = {"pretrained": False, "num_classes": 0, **options}
    trunk: Any
    try:
        trunk = timm.create_model(timm_name, drop_path_rate=drop_path, **options)
    except TypeError:  # DenseNet, for example, has no stochastic depth
        trunk = timm.create_model(timm_name, **options)
    return PooledClassifier(trunk, trunk.num_features, num_classes)


def mean_magnitude(features: Tensor) -> Tensor:
    """Mean absolute value over the channels, (N, D, h, w) → (N, 1, h, w)."""
    return features.abs().mean(dim=1, keepdim=True)
