"""Optimiser and learning rate schedule."""

import math
import re
from collections.abc import Iterable, Sequence

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from training.config import FitConfig

#: The block of a parameter: its name up to the first number.
_BLOCK = re.compile(r"^(?:[^.]+\.)+?\d+(?=\.)")
#: Metric that the plateau schedule, early stopping and `keep = "best"` monitor; lower is better.
MONITORED = "calibration_loss"


def optimiser_and_schedule(
    parameters: Iterable[tuple[str, nn.Parameter]], config: FitConfig, steps_per_epoch: int
) -> OptimizerLRScheduler:
    """The return value of Lightning's configure_optimizers.

    Args:
        parameters: with their names in the network; `fit.trunk_lr` applies to those that begin with `trunk.`.
    """
    optimiser = _optimiser([(name, p) for name, p in parameters if p.requires_grad], config)
    if config.schedule == "plateau":
        plateau = ReduceLROnPlateau(optimiser, factor=config.plateau_factor, patience=config.plateau_patience)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": MONITORED}}
    schedule = LambdaLR(optimiser, lambda step: learning_rate(step / steps_per_epoch, config))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _optimiser(parameters: list[tuple[str, nn.Parameter]], config: FitConfig) -> Optimizer:
    """Weight decay applies to matrices and kernels only, not to biases, norms and layer scales."""
    groups = []
    factors = lr_factors([name for name, _ in parameters], config)
    for decays in (True, False):
        for factor in dict.fromkeys((1.0, config.trunk_lr, *factors.values())):
            chosen = [p for name, p in parameters if (_decays(p), factors[name]) == (decays, factor)]
            decay = config.weight_decay if decays else 0.0
            groups.append({"params": chosen, "weight_decay": decay, "lr": config.lr * factor})
    return (AdamW if config.optimiser == "adamw" else Adam)([g for g in groups if g["params"]], lr=config.lr)


def _decays(parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and parameter.shape[1:] != (1, 1)


def lr_factors(names: Sequence[str], config: FitConfig) -> dict[str, float]:
    """Name of a parameter → factor on `lr`: `trunk_lr` for the trunk, and `layer_lr_decay` to the power of its depth.

    The depth counts blocks of trunk and stages from the last (1) to the first; other parts, such as the head, have 0.
    """
    block_of: dict[str, int] = {}
    blocks: dict[str, int] = {}
    for name in names:
        if name.startswith(("trunk.", "stages.")):
            block = _BLOCK.match(name)
            if block:
                blocks.setdefault(block[0], len(blocks))
            block_of[name] = max(len(blocks) - 1, 0)
    depth = {name: max(len(blocks), 1) - at for name, at in block_of.items()}
    return {
        name: (config.trunk_lr if name.startswith("trunk.") else 1.0) * config.layer_lr_decay ** depth.get(name, 0)
        for name in names
    }


def check_frozen(names: Sequence[str], freeze: Sequence[str]) -> None:
    """Check that every entry of `fit.freeze` names a part of the network, and that something is left to train.

    Raises:
        ValueError: one names none, or all are frozen.
    """
    for start in freeze:
        if start != "*" and not any(_begins(name, start) for name in names):
            parts = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
            raise ValueError(f"fit.freeze: no part {start!r}; the network has {parts}")
    if all(is_frozen(name, freeze) for name in names):
        raise ValueError("fit.freeze: nothing is left to train")


def is_frozen(name: str, freeze: Sequence[str]) -> bool:
    """Whether a tensor, or a module, is not trained."""
    return any(not _begins(name, "head") if start == "*" else _begins(name, start) for start in freeze)


def _begins(name: str, start: str) -> bool:
    return f"{name}.".startswith(f"{start.rstrip('.')}.")


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
