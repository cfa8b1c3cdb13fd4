"""Mixup and CutMix: each picture of a batch is combined with the one at the mirrored place.

timm's and torchvision's versions combine pictures and labels only. Here the share is kept, so that masks and the
teachers' answers are combined in the same way.

mixup: arXiv 1710.09412. CutMix: arXiv 1905.04899.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Beta

from training.config import AugmentConfig

Box = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Mixing:
    """How a batch is combined with itself in reverse order."""

    share: float = 1.0  # of each picture; the rest is the other's
    box: Box | None = None  # rows and columns that CutMix takes from the other picture; None: mixup
    side: int = 0  # of the pictures that the box belongs to

    def pictures(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        if self.box is None:
            return self.labels(images)
        images, rows_columns = images.clone(), (..., *self.box)
        images[rows_columns] = images.flip(0)[rows_columns]
        return images

    def labels(self, values: Tensor) -> Tensor:
        """Values of each picture, such as shares of the classes (N, C) → the same shape."""
        return values if self.share == 1 else self.share * values + (1 - self.share) * values.flip(0)

    def masks(self, masks: Tensor) -> Tensor:
        """(N, 1, H, W) → the places of either cell under mixup, as pictures are cut under CutMix."""
        if self.box is not None:
            return self.pictures(masks)
        return masks if self.share == 1 else torch.maximum(masks, masks.flip(0))

    def maps(self, maps: Tensor) -> Tensor:
        """Feature maps (N, C, h, w) of the pictures → the same shape.

        Under CutMix, each position is mixed by the share of it that the box covers.
        """
        if self.box is None:
            return self.labels(maps)
        own = torch.ones(1, 1, self.side, self.side, device=maps.device)
        own[(..., *self.box)] = 0
        own = F.interpolate(own, maps.shape[-2:], mode="area").to(maps)
        return own * maps + (1 - own) * maps.flip(0)


def draw_mixing(config: AugmentConfig, side: int) -> Mixing:
    """Draw how the next batch is mixed; with both alphas set, mixup and CutMix take turns at random.

    Args:
        side: of the pictures, in pixels.
    """
    mixup, cutmix = config.mixup_alpha, config.cutmix_alpha
    if not (mixup or cutmix) or torch.rand(()) >= config.mixed_share:
        return Mixing()
    cuts = not mixup or bool(cutmix and torch.rand(()) < 0.5)
    alpha = cutmix if cuts else mixup
    share = float(Beta(alpha, alpha).sample())
    return _cutmix(share, side) if cuts else Mixing(share)


def _cutmix(share: float, side: int) -> Mixing:
    """The share is corrected for a box that the picture's edge cuts."""
    half = round(side * (1 - share) ** 0.5 / 2)
    rows, columns = (
        slice(max(centre - half, 0), min(centre + half, side)) for centre in torch.randint(side, (2,)).tolist()
    )
    taken = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mixing(1 - taken / side**2, (rows, columns), side)
