"""Learning rate range test (Smith 2017, arXiv 1506.01186): the rate grows with every step, and the loss is followed."""

from typing import Any, NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from typing_extensions import override

#: The first steps have no average yet; the last are those that diverge.
SKIPPED_FIRST, SKIPPED_LAST = 5, 3
SMOOTHING = 0.8
#: The test ends when the loss is this many times its least.
DIVERGED = 3.0


class Finding(NamedTuple):
    """Rates and smoothed losses, (N,) each, and the rate where the loss falls fastest."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    suggested: float


class LearningRateRange(Callback):
    """Sets the rate of each step and records its loss.

    Args:
        lowest, highest: rates of the first and the last step, as `fit.lr`.
        steps: number of steps.
        lr: `fit.lr`; parameter groups keep their ratio to it.
    """

    def __init__(self, lowest: float, highest: float, steps: int, lr: float) -> None:
        self._planned = np.geomspace(lowest, highest, steps)
        self._lr = lr
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._groups: list[float] = []  # learning rates of the groups, as configured

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._groups = [group["initial_lr"] for group in trainer.optimizers[0].param_groups]

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        rate = self._planned[min(trainer.global_step, len(self._planned) - 1)]
        for group, initial in zip(trainer.optimizers[0].param_groups, self._groups, strict=True):
            group["lr"] = float(rate * initial / self._lr)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        previous = self.losses[-1] if self.losses else loss
        self.losses.append(SMOOTHING * previous + (1 - SMOOTHING) * loss)
        self.rates.append(float(self._planned[min(len(self.rates), len(self._planned) - 1)]))
        if not np.isfinite(loss) or self.losses[-1] > DIVERGED * min(self.losses):
            trainer.should_stop = True
            trainer.limit_val_batches = 0

    def finding(self) -> Finding:
        """The rate where the loss falls fastest by the logarithm of the rate, before its minimum.

        Beyond the minimum the training becomes unstable: the loss rises, and may fall steeply between two jumps.

        Raises:
            ValueError: too few steps, or the loss never fell.
        """
        rates, losses = np.array(self.rates), np.array(self.losses)
        if len(losses) < SKIPPED_FIRST + 3 + SKIPPED_LAST:
            raise ValueError(f"{len(losses)} steps are too few to find a learning rate; use more pictures or --steps")
        least = SKIPPED_FIRST + int(np.nanargmin(losses[SKIPPED_FIRST : len(losses) - SKIPPED_LAST]))
        inner = slice(SKIPPED_FIRST, max(least + 1, SKIPPED_FIRST + 3))
        slopes = np.gradient(losses[inner], np.log10(rates[inner]))
        if slopes.min() >= 0:
            raise ValueError("the loss fell at no learning rate: check labels, input_size, mean and std")
        return Finding(rates, losses, float(rates[inner][int(slopes.argmin())]))
