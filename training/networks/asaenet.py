"""ASAE-Net-like: attention without parameters. It enhances the most attended part, and sometimes hides it in training.

After Wang et al. 2020, ACCV, doi 10.1007/978-3-030-69541-5_39, from its description alone: attention-based
suppression and enhancement for bone-marrow cells, without parameters beyond the backbone. Details chosen here:

- The attention is the mean over the channels.
- The most attended part is hidden in half of the training pictures, as in the attention-based dropout layer
  (arXiv 1908.10028, section 3).
- Both are applied after the last two stages of a ResNet-18.
"""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from training.networks.trunks import PooledClassifier, mean_magnitude

#: Attention above this share of its maximum is hidden.
HIDDEN_ABOVE = 0.85
#: Share of the pictures of a training batch.
HIDDEN_SHARE = 0.5


class SuppressAndEnhance(nn.Module):
    """x → (x · (1 + A), A) with attention A (N, 1, h, w) in 0..1; in training the peak of some pictures is hidden."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        attention = mean_magnitude(x)
        attention = attention / attention.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
        enhanced = x * (1 + attention)
        if self.training:
            hidden = (attention > HIDDEN_ABOVE) & (torch.rand(x.shape[0], 1, 1, 1, device=x.device) < HIDDEN_SHARE)
            enhanced = enhanced * ~hidden
        return enhanced, attention


class ASAENetLike(PooledClassifier):
    """ASAE-Net-like: ResNet-18 with suppression and enhancement after its last two stages.

    `attention` is from the third stage.
    """

    attention_scales = ("attention of stage 3",)

    def __init__(self, num_classes: int, drop_path: float = 0.0) -> None:
        trunk: Any = timm.create_model("resnet18", pretrained=False, num_classes=0, drop_path_rate=drop_path)
        super().__init__(trunk, trunk.num_features, num_classes)
        self.attend = SuppressAndEnhance()

    def forward_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        trunk = self.trunk
        x = trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(x))))
        x, attention = self.attend(trunk.layer3(trunk.layer2(trunk.layer1(x))))
        x, _ = self.attend(trunk.layer4(x))
        return x, attention
