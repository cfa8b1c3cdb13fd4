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
    parameters: Iterable[tuple[str, nn.Parameter]], config: FitConfig, steps_per_epoch: int
) -> OptimizerLRScheduler:
    """The return value of Lightning's configure_optimizers.

    Args:
        parameters: with their names in the network; `fit.trunk_lr` applies to those that begin with `trunk.`.
    """
    optimiser = _optimiser(list(parameters), config)
    if config.schedule == "plateau":
        plateau = ReduceLROnPlateau(optimiser, factor=config.plateau_factor, patience=config.plateau_patience)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": MONITORED}}
    schedule = LambdaLR(optimiser, lambda step: learning_rate(step / steps_per_epoch, config))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _optimiser(parameters: list[tuple[str, nn.Parameter]], config: FitConfig) -> Optimizer:
    """Weight decay applies to matrices and kernels only, not to biases, norms and layer scales."""
    groups = []
    for decays in (True, False):
        for factor in dict.fromkeys((1.0, config.trunk_lr)):
            chosen = [p for name, p in parameters if (_decays(p), _factor(name, config)) == (decays, factor)]
            decay = config.weight_decay if decays else 0.0
            groups.append({"params": chosen, "weight_decay": decay, "lr": config.lr * factor})
    return (AdamW if config.optimiser == "adamw" else Adam)([g for g in groups if g["params"]], lr=config.lr)


def _decays(parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and parameter.shape[1:] != (1, 1)


def _factor(name: str, config: FitConfig) -> float:
    return config.trunk_lr if name.startswith("trunk.") else 1.0


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
