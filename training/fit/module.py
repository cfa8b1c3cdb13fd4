"""One step of training and of validation: uint8 pictures and labels in, a loss and its figures out.

Knows the network, the augmentation and the loss. Knows no folders, no loader and no checkpoint.
"""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import LRSchedulerTypeUnion, OptimizerLRScheduler
from numpy.typing import NDArray
from timm.data import Mixup
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics.classification import MulticlassF1Score
from typing_extensions import override

from training.config import Config, FitConfig
from training.data.augment import jitter_stain, warp
from training.data.sampler import DataParallel
from training.fit.checkpoints import seed_step
from training.fit.distil import Teachers
from training.fit.epoch_sums import EpochSums
from training.fit.losses import LabelLoss
from training.fit.optimiser import MONITORED, optimiser_and_schedule
from training.networks.build import build

#: Pictures are decoded this much larger than the input, so that a zoomed or turned one is still sharp.
OVERSIZE = 4 / 3


class Diverged(ValueError):
    """A training whose loss is no longer a number."""


class TrainingModule(L.LightningModule):
    """A network under training. Batches are uint8 pictures (N, H, W, 3) and labels (N,).

    Args:
        steps_per_epoch: optimiser steps.
        counts: draws of each class an epoch, (C,).
        share: whose part of each step this process takes; none: all of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: Config, steps_per_epoch: int, counts: NDArray, share: DataParallel | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.share = share or DataParallel()
        self.steps_per_epoch = steps_per_epoch
        classes = len(config.classes)
        self.net = build(config.model, classes).to(memory_format=torch.channels_last)
        self.teachers = [Teachers(config)]  # in a list: no module of this one, so that no checkpoint holds them
        self.projectors = self.teachers[0].projectors(self.net.head.in_features)
        self.register_buffer("mean", torch.tensor(config.model.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.model.std).view(3, 1, 1), persistent=False)
        self.mixup = _mixup(config)
        self.label_loss = LabelLoss(counts, config.fit)
        self.learned, self.watched = EpochSums(), EpochSums()
        self.macro_f1 = MulticlassF1Score(classes, average="macro")

    @property
    def input_size(self) -> int:
        """Pixels a side that the network is fed in this epoch."""
        return progressive_size(self.current_epoch, self.config.fit) or self.config.model.input_size

    def _normalise(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def augmented(self, pictures: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) → (N, 3, S, S) in 0..1, S what the network or the widest-eyed teacher wants."""
        size = max(self.input_size, self.teachers[0].input_size)
        images = _shrunk(_planes(pictures), round(size * OVERSIZE))
        # In bf16 a coordinate has 8 bits, fewer than a picture has columns.
        with torch.autocast(self.device.type, enabled=False):
            return jitter_stain(warp(images, size, self.config.augment), self.config.augment.stain)

    @override
    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        step, part = divmod(batch_idx, self.share.parts)
        seed_step(self.config.seed, self.current_epoch, step, self.share.number(part))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        teachers = self.teachers[0]
        images, labels = self.augmented(batch[0]), batch[1]
        if self.mixup:
            images, labels = self.mixup(images, labels)
        out = self.net(self._normalise(_shrunk(images, self.input_size)))
        loss = self.label_loss(out.logits, labels)
        if teachers:
            loss = (1 - teachers.weight) * loss + teachers.weight * teachers.loss(out, images, self.projectors)
        self.learned.add(loss, out.logits, labels if labels.ndim == 1 else labels.argmax(dim=1))  # mixed: larger part
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        logits = self.net(self._normalise(_shrunk(_planes(batch[0]), self.input_size))).logits
        self.macro_f1(logits, batch[1])
        self.watched.add(F.cross_entropy(logits.float(), batch[1]), logits, batch[1])
        self.log("calibration_macro_f1", self.macro_f1)

    @override
    def on_validation_epoch_end(self) -> None:
        """Here, so that an epoch's row of the curves is whole, and written before its checkpoint."""
        for block, sums in (("calibration", self.watched), ("train", self.learned)):
            loss, accuracy = sums.close()
            self.log(f"{block}_loss", loss, prog_bar=True)
            self.log(f"{block}_accuracy", accuracy, prog_bar=block == "calibration")

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["learned"] = self.learned.state()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.learned.load(checkpoint.get("learned"), self.share)

    @override
    def on_validation_end(self) -> None:
        loss = self.trainer.callback_metrics[MONITORED]
        if not loss.isfinite():
            raise Diverged(
                f"the {MONITORED} of epoch {self.current_epoch} is {loss:.3g}: lower fit.lr or fit.clip_norm"
            )
        schedule = self.lr_schedulers()
        # Here and not where Lightning does it, which is after the checkpoint of the epoch has been written.
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(loss)

    @override
    def lr_scheduler_step(self, scheduler: LRSchedulerTypeUnion, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        learned = [*self.net.parameters(), *self.projectors.parameters()]
        return optimiser_and_schedule(learned, self.config.fit, self.steps_per_epoch)


def progressive_size(epoch: int, config: FitConfig) -> int | None:
    """The input size that `sizes` gives an epoch; none where there are no sizes."""
    return next((size for first, size in reversed(config.sizes) if epoch >= first), None)


def _planes(pictures: Tensor) -> Tensor:
    return pictures.permute(0, 3, 1, 2).float() / 255  # (N, H, W, 3) uint8 -> (N, 3, H, W) in 0..1


def _shrunk(images: Tensor, size: int) -> Tensor:
    """(N, 3, H, H) → at most (N, 3, size, size), each pixel the mean of what it covers."""
    return images if images.shape[-1] <= size else F.interpolate(images, size, mode="bilinear", antialias=True)


def _mixup(config: Config) -> Mixup | None:
    augment = config.augment
    if not (augment.mixup_alpha or augment.cutmix_alpha):
        return None
    return Mixup(
        augment.mixup_alpha,
        augment.cutmix_alpha,
        prob=augment.mixed_share,
        mode="batch",
        label_smoothing=config.fit.label_smoothing,
        num_classes=len(config.classes),
    )
