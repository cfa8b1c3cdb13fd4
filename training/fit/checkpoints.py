"""An interrupted run goes on as if nothing had happened: what is saved when, and what needs no saving.

Knows Lightning's hooks and checkpoints. Knows no pictures and no network.

Whatever is random in a step follows from the seed, the epoch and the step, so no random state is saved. A checkpoint
holds weights, their average, the optimiser, the schedule, the counters and the clock. With them a run on one CPU that
was killed at any moment ends with the very bits of one that was not.
"""

import io
import signal
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn
from typing_extensions import override

from model import atomic_file
from training.fit.distributed import on_rank_zero
from training.fit.optimiser import MONITORED
from training.run import TrainingStopped


def seed_step(seed: int, epoch: int, step: int, share: int) -> None:
    """Give torch and numpy (whose global generator timm's Mixup draws from) the random numbers of one share of a step.

    Args:
        share: which of the devices x parts shares, as `Share.number` counts them: two devices draw what one does that
            takes its batch in two parts.
    """
    torch_seed, numpy_seed = np.random.SeedSequence((seed, epoch, step, share)).generate_state(2)
    torch.manual_seed(int(torch_seed))
    np.random.seed(numpy_seed)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and then takes its place, so that a kill leaves either.

    Lightning's own way leads through the folder of temporary files, from where a move to another disk is a slow copy.
    The first process reads and writes them; the others, which may be on machines that have none, get what it has read.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if storage_options is not None:
            raise TypeError("checkpoints are local files and take no storage_options")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file.replacing(path) as file:
            torch.save(checkpoint, file)

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        whole = on_rank_zero(Path(path).read_bytes)
        return torch.load(io.BytesIO(whole), map_location=map_location, weights_only=weights_only)


class RunCheckpoint(Checkpoint):
    """Saves after every epoch and every few steps, keeps the best epoch where asked, and stops a run when told to.

    Lightning's ModelCheckpoint would do for the epochs. But a run saved by it after the last step of an epoch skips
    that epoch's validation when picked up, and the best epoch is forgotten when the folder has been moved.
    A first Ctrl-C or SIGTERM lets the step end and saves; a second one takes effect at once.

    Args:
        last: where the run is picked up.
        best: for the epoch of the lowest calibration loss; none: not kept.
        every: steps between two checkpoints within an epoch; 0: none.
        steps: steps after which the run stops; none: it ends as configured.
    """

    def __init__(self, last: Path, best: Path | None, every: int, steps: int | None) -> None:
        self.last, self.best, self.every, self.steps = last, best, every, steps
        self.lowest = float("inf")
        self.signum: int | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest = state_dict["lowest"]

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._remember)  # Lightning puts back what was there before

    def _remember(self, signum: int, _: object) -> None:
        self.signum = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    def _stops(self, trainer: L.Trainer) -> bool:
        """Whether any process was told to, or the steps are done; all then know by which signal."""
        told = torch.tensor(self.signum or 0, device=trainer.strategy.root_device)
        self.signum = int(trainer.strategy.reduce(told, reduce_op="max")) or None
        return self.signum is not None or (self.steps is not None and trainer.global_step >= self.steps)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Gradients that wait for more of their step are not saved; the last step is, once it has been validated.
        if (batch_idx + 1) % trainer.accumulate_grad_batches or batch_idx + 1 == trainer.num_training_batches:
            return
        stops = self._stops(trainer)
        if stops or (self.every and trainer.global_step % self.every == 0):
            trainer.save_checkpoint(self.last)
        if stops:
            raise TrainingStopped(self.signum, trainer.current_epoch, trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics[MONITORED])
        if self.best and loss < self.lowest:  # first: a kill after it repeats the epoch, and this with it
            self.lowest = loss
            trainer.save_checkpoint(self.best)
        trainer.save_checkpoint(self.last)
        goes_on = trainer.current_epoch + 1 != trainer.max_epochs and not trainer.should_stop
        if self._stops(trainer) and goes_on:
            raise TrainingStopped(self.signum, trainer.current_epoch, trainer.global_step)


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that stays decided when the run is picked up right after it."""

    def __init__(self, patience: int) -> None:
        super().__init__(MONITORED, patience=patience, check_finite=False)

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class ModelEMA(WeightAveraging):
    """Exponential moving average of weights and BatchNorm statistics; in the network in validation and at the end.

    Lightning's EMAWeightAveraging updates tensor by tensor; this one all at once.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Also when a run is picked up after its last epoch, where on_train_end is not called."""
        self.on_train_end(trainer, pl_module)
