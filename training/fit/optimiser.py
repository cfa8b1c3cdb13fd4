"""Optimiser and learning rate schedule."""

import math
from collections.abc import Iterable

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from training.config import FitConfig

#: Metric that the plateau schedule, early stopping and `keep = "best"` monitor; lower is better.
MONITORED = "calibration_loss"


def optimiser_and_schedule(
    parameters: Iterable[nn.Parameter], config: FitConfig, steps_per_epoch: int
) -> OptimizerLRScheduler:
    """The return value of Lightning's configure_optimizers."""
    optimiser = _optimiser(list(parameters), config)
    if config.schedule == "plateau":
        plateau = ReduceLROnPlateau(optimiser, factor=config.plateau_factor, patience=config.plateau_patience)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": MONITORED}}
    schedule = LambdaLR(optimiser, lambda step: learning_rate(step / steps_per_epoch, config))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _optimiser(parameters: list[nn.Parameter], config: FitConfig) -> Optimizer:
    """Weight decay applies to matrices and kernels only, not to biases, norms and layer scales."""
    decayed = [p for p in parameters if p.ndim >= 2 and p.shape[1:] != (1, 1)]
    plain = [p for p in parameters if not (p.ndim >= 2 and p.shape[1:] != (1, 1))]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return (AdamW if config.optimiser == "adamw" else Adam)(groups, lr=config.lr)


def learning_rate(epoch: float, config: FitConfig) -> float:
    """Factor of `lr` at a (fractional) epoch: linear warm-up, then cosine cycles (SGDR, arXiv 1608.03983, eq. 5)."""
    if epoch < config.warmup_epochs:
        return (epoch + 1e-3) / config.warmup_epochs
    start, length, peak = config.warmup_epochs, max(config.epochs - config.warmup_epochs, 1e-9), 1.0
    for restart in config.restarts:
        if epoch < start + length:
            break
        start, length, peak = start + length, restart, peak * config.restart_lr
    return peak * 0.5 * (1 + math.cos(math.pi * min((epoch - start) / length, 1.0)))
