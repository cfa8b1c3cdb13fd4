"""Checkpoints, resumption, early stopping and weight averaging as Lightning callbacks.

The random numbers of a step follow from seed, epoch and step, so no random state is saved. A checkpoint holds weights,
their moving average, optimiser, schedule, counters and training time. A run on one CPU that was killed and resumed
ends with the same bits as one that was not.
"""

import io
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from typing_extensions import override

from model import atomic_file
from training.fit.distributed import on_rank_zero
from training.fit.optimiser import MONITORED
from training.run import TrainingStopped


def seed_step(seed: int, epoch: int, step: int, stream: int) -> None:
    """Seed torch for one part of an optimiser step.

    Args:
        stream: `DataParallel.stream`; two ranks draw the same numbers as one rank with two accumulation steps.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, step, stream)).generate_state(1)[0]))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and renames it; reads it on rank 0 and broadcasts it.

    Lightning's own writer goes through the temporary folder, from where a move to another disk is a slow copy.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if storage_options is not None:
            raise TypeError("storage_options are not supported: checkpoints are local files")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file.replacing(path) as file:
            torch.save(checkpoint, file)

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        content = on_rank_zero(Path(path).read_bytes)
        return torch.load(io.BytesIO(content), map_location=map_location, weights_only=weights_only)


class RunCheckpoint(Checkpoint):
    """Saves after every epoch and every few steps, keeps the best epoch on request, and stops on a signal.

    It replaces Lightning's ModelCheckpoint. Resumed after the last step of an epoch, ModelCheckpoint skips the epoch's
    validation. It also loses the best epoch when the run folder is moved.
    The first SIGINT or SIGTERM ends the step and saves; the second one takes effect at once.

    Args:
        last: path of the checkpoint to resume from.
        best: path of the checkpoint of the lowest calibration loss; None: not kept.
        every: steps between two checkpoints within an epoch; 0: none.
        max_steps: optimiser steps after which the run stops; None: it ends as configured.
    """

    def __init__(self, last: Path, best: Path | None, every: int, max_steps: int | None) -> None:
        self.last, self.best, self.every, self.max_steps = last, best, every, max_steps
        self.lowest = float("inf")
        self.signum: int | None = None

    @property
    @override
    def state_key(self) -> str:
        """Name of this state in checkpoint files."""
        return "Checkpoints"

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest = state_dict["lowest"]

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)  # Lightning restores the previous handlers

    def _on_signal(self, signum: int, _: object) -> None:
        self.signum = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    def _must_stop(self, trainer: L.Trainer) -> bool:
        """Whether any rank got a signal or the steps are done; sets `signum` on every rank."""
        own = torch.tensor(self.signum or 0, device=trainer.strategy.root_device)
        self.signum = int(trainer.strategy.reduce(own, reduce_op="max")) or None
        return self.signum is not None or (self.max_steps is not None and trainer.global_step >= self.max_steps)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not between accumulation steps, whose gradients are not saved; the last step is saved after its validation.
        if (batch_idx + 1) % trainer.accumulate_grad_batches or batch_idx + 1 == trainer.num_training_batches:
            return
        stop = self._must_stop(trainer)
        if stop or (self.every and trainer.global_step % self.every == 0):
            trainer.save_checkpoint(self.last)
        if stop:
            raise TrainingStopped(self.signum, trainer.current_epoch, trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics[MONITORED])
        if self.best and loss < self.lowest:  # before `last`: a kill in between repeats the epoch and this check
            self.lowest = loss
            trainer.save_checkpoint(self.best)
        trainer.save_checkpoint(self.last)
        more_epochs = trainer.current_epoch + 1 != trainer.max_epochs and not trainer.should_stop
        if self._must_stop(trainer) and more_epochs:
            raise TrainingStopped(self.signum, trainer.current_epoch, trainer.global_step)


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that keeps its decision when the run is resumed right after it."""

    def __init__(self, patience: int) -> None:
        super().__init__(MONITORED, patience=patience, check_finite=False)

    @property
    @override
    def state_key(self) -> str:
        """Name of this state in checkpoint files."""
        return super().state_key.replace(type(self).__qualname__, "Stopping")

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class ModelEMA(WeightAveraging):
    """Exponential moving average of weights and BatchNorm statistics, used in validation and at the end.

    Lightning's EMAWeightAveraging updates tensor by tensor; this one all tensors at once. The decay grows with the
    steps up to `decay`, so that the average forgets the initial weights within a short training too.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=partial(_average, decay))

    @property
    @override
    def state_key(self) -> str:
        """Name of this state in checkpoint files."""
        return "Averaging"

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Use the average also when a run is resumed after its last epoch, where on_train_end is not called."""
        self.on_train_end(trainer, pl_module)


def _average(decay: float, averages: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
    """One step of the moving average, after `updates` earlier ones."""
    now = min(decay, (1 + int(updates)) / (10 + int(updates)))
    get_ema_multi_avg_fn(now)(averages, current, updates)
