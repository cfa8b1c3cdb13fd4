"""Class imbalance: oversampling of rare classes, and a cross entropy with logit adjustment or class weights.

A class without training pictures (8 of the 21 in the data of the bundled model) is treated like the largest class: all
numbers stay finite, and its logit is pushed down as far as any.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.heads import VANOutput
from training.config import FitConfig


def class_counts(labels: NDArray[np.int64], weights: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Samples of each class per epoch, (C,): its pictures times their sampling weights."""
    return np.bincount(labels, weights=weights, minlength=classes).astype(np.float64)


def effective_number(counts: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """Effective number of samples (arXiv 1901.05555, equation 2): (1 - beta^n) / (1 - beta).

    Args:
        counts: pictures of each class.
        beta: 1: n itself; 0: every class counts 1; 0.999: levels off at a thousand.
    """
    return counts if beta == 1 else (1 - beta**counts) / (1 - beta)


def class_weights(counts: NDArray[np.float64], config: FitConfig) -> NDArray[np.float64]:
    """(1 / effective number)^power of each class, (C,), up to a factor."""
    effective = effective_number(counts, config.imbalance_beta)
    return np.where(counts > 0, effective, effective.max()) ** -config.imbalance_power


def sampling_weights(
    labels: NDArray[np.int64], weights: NDArray[np.float64], classes: int, config: FitConfig
) -> NDArray[np.float64]:
    """Samples of each picture per epoch, (N,): its source's weight; with `imbalance = "sampling"` more of rare classes.

    The sum over all pictures stays that of the sources' weights.
    """
    if config.imbalance != "sampling":
        return weights
    balanced = weights * class_weights(class_counts(labels, weights, classes), config)[labels]
    return balanced * (weights.sum() / balanced.sum())


class LabelLoss(nn.Module):
    """Cross entropy with label smoothing, and logit adjustment or class weights as `imbalance` says.

    logit_adjustment: power · log(class frequency) is added to the logits in the loss alone, so that the plain logits
    answer as if all classes were equally frequent (arXiv 2007.07314, equation 10).
    loss_weights: each class times its weight; the mean over all samples is 1.

    Args:
        counts: samples of each class per epoch, (C,).
    """

    adjustment: Tensor
    weight: Tensor

    def __init__(self, counts: NDArray[np.float64], config: FitConfig) -> None:
        super().__init__()
        self.smoothing = config.label_smoothing
        weights = class_weights(counts, config)
        adjustment = -np.log(weights) if config.imbalance == "logit_adjustment" else np.zeros_like(weights)
        weight = weights if config.imbalance == "loss_weights" else np.ones_like(weights)
        weight = weight * (counts.sum() / (weight * counts).sum())
        # The softmax ignores a constant added to all logits; 0 for the largest class keeps the numbers small.
        adjustment = adjustment - adjustment.max()
        self.register_buffer("adjustment", torch.from_numpy(adjustment).float(), persistent=False)
        self.register_buffer("weight", torch.from_numpy(weight).float(), persistent=False)

    def smoothed(self, labels: Tensor) -> Tensor:
        """Class indices (N,) → smoothed shares of each class (N, C)."""
        shares = F.one_hot(labels, len(self.weight)).to(self.weight)
        return shares * (1 - self.smoothing) + self.smoothing / len(self.weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: (N, C).
            labels: class indices (N,), smoothed here; or shares of each class (N, C), used as they are.
        """
        labels = self.smoothed(labels) if labels.ndim == 1 else labels
        return F.cross_entropy(logits.float() + self.adjustment, labels.float(), weight=self.weight)


def localisation_loss(out: VANOutput, labels: Tensor, masks: Tensor) -> Tensor:
    """Share of the attention, and of the positive evidence for the labelled class, outside the masks; mean of both.

    Args:
        labels: shares of each class (N, C); the class with the largest share counts.
        masks: of the cells, (N, 1, S, S) in 0..1.
    """
    of_class = out.evidence[torch.arange(len(labels)), labels.argmax(dim=1)][:, None]
    maps = (out.attention.float(), of_class.float().relu())
    return torch.stack([_share_outside(map, masks) for map in maps]).mean()


def _share_outside(map: Tensor, masks: Tensor) -> Tensor:
    inside = F.adaptive_avg_pool2d(masks, (map.shape[2], map.shape[3]))
    return ((map * (1 - inside)).sum(dim=(2, 3)) / (map.sum(dim=(2, 3)) + 1e-3)).mean()
