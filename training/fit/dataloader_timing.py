"""DataLoader timing: how long each training step waits for its pictures.

On a GPU the waiting time is an upper bound: the host may wait while the device is busy.
"""

import time
from collections.abc import Callable
from itertools import chain

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler
from numpy.typing import NDArray
from typing_extensions import override

#: Names that Lightning gives these actions.
EPOCH, NEXT_BATCH = "run_training_epoch", "[_TrainingEpochLoop].train_dataloader_next"


class DataLoaderTimer(Profiler):
    """Records seconds of every training batch by epoch: waited for it, and from its request to the next one.

    The last batch of an epoch is not followed by a request and is left out.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.epochs: list[list[tuple[float, float]]] = []
        self._now = now
        self._requested: float | None = None
        self._waited = 0.0

    @override
    def start(self, action_name: str) -> None:
        if action_name == EPOCH:
            self.epochs.append([])
            self._requested = None
        elif action_name == NEXT_BATCH:
            now = self._now()
            if self._requested is not None:
                self.epochs[-1].append((self._waited, now - self._requested))
            self._requested = now

    @override
    def stop(self, action_name: str) -> None:
        if action_name == NEXT_BATCH and self._requested is not None:
            self._waited = self._now() - self._requested

    def waiting_share(self) -> float:
        """Share of the last epoch's time that was spent waiting for pictures; 0 where no step was timed."""
        total = sum(total for _, total in self.epochs[-1])
        return sum(waited for waited, _ in self.epochs[-1]) / total if total else 0.0

    def steps(self, batches_per_step: int) -> NDArray[np.float64]:
        """(steps, 2): seconds waited and seconds in all of each optimiser step."""
        whole = [epoch[: len(epoch) // batches_per_step * batches_per_step] for epoch in self.epochs]
        return np.array(list(chain.from_iterable(whole))).reshape(-1, batches_per_step, 2).sum(axis=1)


class LogWaitingShare(Callback):
    """Logs `waiting`: the waiting share of the epoch, of the rank that waited longest."""

    def __init__(self, timer: DataLoaderTimer) -> None:
        self.timer = timer

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        share = torch.tensor(self.timer.waiting_share(), device=trainer.strategy.root_device)
        pl_module.log("waiting", trainer.strategy.reduce(share, reduce_op="max"))
