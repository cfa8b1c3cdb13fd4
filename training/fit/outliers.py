"""Outlier exposure: pictures of no class, for which the network learns to give equal probabilities.

Hendrycks, Mazeika, Dietterich: Deep Anomaly Detection with Outlier Exposure, arXiv 1812.04606, section 4.3.
"""

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.config import FitConfig
from training.data.sampler import DataParallel


class OutlierExposure:
    """Outliers for each step, and the loss on them.

    Args:
        pictures: (M, H, W, 3), uint8.
        counts: samples of each class per epoch, (C,); a class without samples gets no share of the probability.
        parallel: this process's part of each step.
    """

    def __init__(self, pictures: NDArray, counts: NDArray, config: FitConfig, parallel: DataParallel) -> None:
        self.pictures, self.weight = pictures, config.outlier_weight
        parts = parallel.world_size * parallel.accumulate
        self.per_step = max(round(config.outlier_share * config.batch_size / parts), 1)
        learned = torch.from_numpy(counts > 0).float()
        self.shares = learned / learned.sum()

    def draw(self) -> Tensor:
        """Pictures for the next step, (n, H, W, 3), uint8; drawn with replacement, by torch's seed."""
        return torch.from_numpy(self.pictures[torch.randint(len(self.pictures), (self.per_step,)).numpy()])

    def loss(self, logits: Tensor) -> Tensor:
        """Weighted cross entropy between equal probabilities of the learned classes and the logits (n, C)."""
        return self.weight * F.cross_entropy(logits.float(), self.shares.to(logits.device).expand(len(logits), -1))
