"""Classes of unequal size: drawn more evenly, or told apart in the loss.

Knows counts, labels and logits. Knows no pictures and no network.

A class without a training picture (14 of the 21 may be such) is treated like the largest one: it has nothing to gain
from being rare, every number stays finite, and its logit is pushed down as far as that of any class.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import FitConfig


def class_counts(labels: NDArray[np.int64], weights: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Draws of each class an epoch, (C,): its pictures, each as often as its source's weight says."""
    return np.bincount(labels, weights=weights, minlength=classes).astype(np.float64)


def effective_number(counts: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """How many pictures are worth counting when each new one repeats more of the old (arXiv 1901.05555, equation 2).

    Args:
        counts: pictures of each class.
        beta: 1 counts every picture, 0 counts every class once, 0.999 levels off at a thousand.
    """
    return counts if beta == 1 else (1 - beta**counts) / (1 - beta)


def class_weights(counts: NDArray[np.float64], config: FitConfig) -> NDArray[np.float64]:
    """(1 / count of the class)^power, (C,), up to a factor; of a class without pictures: the largest class's."""
    effective = effective_number(counts, config.imbalance_beta)
    return np.where(counts > 0, effective, effective.max()) ** -config.imbalance_power


def sampling_weights(
    labels: NDArray[np.int64], weights: NDArray[np.float64], classes: int, config: FitConfig
) -> NDArray[np.float64]:
    """Draws of each picture an epoch, (N,): as its source says, and for `sampling` more of the rare classes.

    The draws of all pictures together stay what the sources say.
    """
    if config.imbalance != "sampling":
        return weights
    drawn = weights * class_weights(class_counts(labels, weights, classes), config)[labels]
    return drawn * (weights.sum() / drawn.sum())


class LabelLoss(nn.Module):
    """Cross entropy against labels, with what `imbalance` adds to the logits or multiplies the classes with.

    logit_adjustment: power · log(share of the draws) is added to the logits, in the loss alone, so that the bare logits
    learn to answer as if all classes were equally frequent (arXiv 2007.07314, equation 10).
    loss_weights: each class times its rarity; the mean over all draws is 1.

    Args:
        counts: draws of each class an epoch, (C,).
    """

    adjustment: Tensor
    weight: Tensor

    def __init__(self, counts: NDArray[np.float64], config: FitConfig) -> None:
        super().__init__()
        self.smoothing = config.label_smoothing
        rare = class_weights(counts, config)
        adjustment = -np.log(rare) if config.imbalance == "logit_adjustment" else np.zeros_like(rare)
        weight = rare if config.imbalance == "loss_weights" else np.ones_like(rare)
        weight = weight * (counts.sum() / (weight * counts).sum())
        # A constant added to all logits changes nothing; the largest class's 0 keeps the numbers small.
        adjustment = adjustment - adjustment.max()
        self.register_buffer("adjustment", torch.from_numpy(adjustment).float(), persistent=False)
        self.register_buffer("weight", torch.from_numpy(weight).float(), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the batch.

        Args:
            logits: (N, C).
            labels: class indices (N,), smoothed here; or shares of each class (N, C), taken as they are.
        """
        if labels.ndim == 1:
            labels = F.one_hot(labels, logits.shape[1]).to(logits)
            labels = labels * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        return F.cross_entropy(logits.float() + self.adjustment, labels.float(), weight=self.weight)
