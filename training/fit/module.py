"""The LightningModule: training and validation steps from uint8 pictures and labels to losses and metrics."""

from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import LRSchedulerTypeUnion, OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassF1Score
from typing_extensions import override

from model.heads import VANOutput
from training.config import Config, FitConfig
from training.data.augment import compress, defocus, exchange_backgrounds, jitter_stain, transfer_stain, warp
from training.data.mixing import draw_mixing
from training.data.sampler import DataParallel
from training.fit.checkpoints import seed_step
from training.fit.distil import Teachers, map_widths
from training.fit.distributed import all_gather
from training.fit.losses import LabelLoss, localisation_loss
from training.fit.optimiser import MONITORED, check_frozen, is_frozen, optimiser_and_schedule
from training.fit.outliers import OutlierExposure
from training.networks.build import build
from training.networks.feature_maps import captured_maps

#: Pictures are decoded this much larger than the input, so that zoomed and rotated ones stay sharp.
OVERSIZE = 4 / 3


class Diverged(ValueError):
    """The loss of a training is not finite."""


class EpochMeans(nn.Module):
    """Loss and accuracy of an epoch, averaged over the pictures of all ranks.

    Lightning's `self.log` averages since the run was resumed; these means are part of the checkpoint. Non-finite losses
    stay visible (`nan_strategy="disable"`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.accuracy = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, logits (N, C) and labels (N,)."""
        # One value per picture in place of a weight, which MeanMetric ignores with "disable" (torchmetrics 1.9).
        self.loss.update(loss.detach().float().expand(len(labels)))
        self.accuracy.update((logits.argmax(dim=1) == labels).float())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean loss and accuracy; resets both."""
        means = self.loss.compute(), self.accuracy.compute()
        self.loss.reset()
        self.accuracy.reset()
        return means

    def checkpoint(self) -> Tensor:
        """(ranks, 3) sums of losses, hits and pictures; one row per rank, so a resumed run adds up to the same bits."""
        return all_gather(torch.stack((self.loss.mean_value, self.accuracy.mean_value, self.loss.weight)))

    def load(self, checkpoint: Tensor, parallel: DataParallel) -> None:
        """Restore the sums; after a change of the number of ranks, rank 0 takes all of them."""
        if len(checkpoint) == parallel.world_size:
            own = checkpoint[parallel.rank]
        else:
            own = checkpoint.sum(dim=0) * (parallel.rank == 0)
        for metric, total in ((self.loss, own[0]), (self.accuracy, own[1])):
            metric.mean_value.copy_(total)
            metric.weight.copy_(own[2])


class View(NamedTuple):
    """A batch of augmented pictures (N, 3, S, S) in 0..1; S: largest input size of network and teachers."""

    teacher_images: Tensor  # what the teachers see
    student_images: Tensor  # with colours and backgrounds of other pictures, out of focus, compressed
    masks: Tensor | None  # (N, 1, S, S) in 0..1, rough masks of the cells


class TrainingModule(L.LightningModule):
    """A network with its losses. Batches are uint8 pictures (N, H, W, 3) and labels (N,); in training, a fourth channel
    may be a rough mask of the cell.

    Args:
        steps_per_epoch: optimiser steps.
        counts: samples of each class per epoch, (C,).
        parallel: this process's part of each step; None: a single process.
        outliers: pictures of no class, (M, H, W, 3), uint8; None: no outlier exposure.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: Config,
        steps_per_epoch: int,
        counts: NDArray,
        parallel: DataParallel | None = None,
        outliers: NDArray | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.parallel = parallel or DataParallel()
        self.steps_per_epoch = steps_per_epoch
        classes = len(config.classes)
        self.net = build(config.model, classes).to(memory_format=torch.channels_last)
        check_frozen([name for name, _ in self.net.named_parameters()], config.fit.freeze)
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(not is_frozen(name, config.fit.freeze))
        self.teachers = [Teachers(config)]  # in a list: not a submodule, so not in checkpoints
        self.projectors = self.teachers[0].projectors(self.net.head.in_features, map_widths(self.net))
        self.register_buffer("mean", torch.tensor(config.model.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.model.std).view(3, 1, 1), persistent=False)
        self.label_loss = LabelLoss(counts, config.fit)
        self.exposure = None if outliers is None else OutlierExposure(outliers, counts, config.fit, self.parallel)
        self.train_means, self.calibration_means = EpochMeans(), EpochMeans()
        self.macro_f1 = MulticlassF1Score(classes, average="macro")

    @property
    def input_size(self) -> int:
        """Input size of the network in this epoch, in pixels."""
        return progressive_size(self.current_epoch, self.config.fit) or self.config.model.input_size

    def _normalise(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def view(self, pictures: Tensor) -> View:
        """Augment uint8 pictures (N, H, W, 3), or (N, H, W, 4) with masks."""
        size, augment = max(self.input_size, self.teachers[0].input_size), self.config.augment
        images = _shrunk(_planes(pictures), round(size * OVERSIZE))
        # bf16 has 8 bits of precision, too few for the coordinates of the sampling grid.
        with torch.autocast(self.device.type, enabled=False):
            warped = warp(images, size, augment)
            clear, masks = jitter_stain(warped[:, :3], augment.stain), warped[:, 3:] if warped.shape[1] > 3 else None
            changed = transfer_stain(clear, augment.stain_transfer) if augment.stain_transfer else clear
            changed = changed if masks is None else exchange_backgrounds(changed, masks, augment.background)
            changed = compress(defocus(changed, augment.blur, augment.blur_sigma), augment.jpeg, augment.jpeg_quality)
        return View(clear, changed, masks)

    @override
    def on_train_start(self) -> None:
        """Follow the schedule of a run that was extended: the checkpoint has the rates of the shorter one."""
        schedule = self.lr_schedulers()
        if isinstance(schedule, LambdaLR):
            factors = (factor(schedule.last_epoch) for factor in schedule.lr_lambdas)
            for group, lr, factor in zip(schedule.optimizer.param_groups, schedule.base_lrs, factors, strict=True):
                group["lr"] = lr * factor

    @override
    def on_train_epoch_start(self) -> None:
        """Frozen parts keep their BatchNorm statistics too, and drop no path."""
        for name, module in self.net.named_modules():
            if name and is_frozen(name, self.config.fit.freeze):
                module.eval()

    @override
    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        step, part = divmod(batch_idx, self.parallel.accumulate)
        seed_step(self.config.seed, self.current_epoch, step, self.parallel.stream(part))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        view = self.view(batch[0])
        mixing = draw_mixing(self.config.augment, view.student_images.shape[-1])
        labels = mixing.labels(self.label_loss.smoothed(batch[1]))
        with captured_maps(self.net) as maps:
            out, outlier_loss = self._answer(mixing.pictures(view.student_images))
        loss = self.label_loss(out.logits, labels) + outlier_loss
        if teachers := self.teachers[0]:
            targets = teachers.targets(view.teacher_images, batch[1]).mixed(mixing)
            taught = teachers.loss(out, maps, targets, self.projectors)
            loss = (1 - teachers.weight) * loss + teachers.weight * taught
        if self.config.fit.localisation and view.masks is not None:
            loss = loss + self.config.fit.localisation * localisation_loss(out, labels, mixing.masks(view.masks))
        # With mixup and CutMix, a picture counts for the class with the larger share.
        self.train_means.update(loss, out.logits, labels.argmax(dim=1))
        return loss

    def _answer(self, images: Tensor) -> tuple[VANOutput, Tensor | float]:
        """Outputs for augmented pictures, and the loss on outliers, which pass with them: BatchNorm sees both."""
        if not self.exposure:
            return self.net(self._normalise(_shrunk(images, self.input_size))), 0.0
        outliers = self.view(self.exposure.draw().to(self.device)).student_images
        out = self.net(self._normalise(_shrunk(torch.cat((images, outliers)), self.input_size)))
        own = VANOutput(*(values[: len(images)] for values in out))
        return own, self.exposure.loss(out.logits[len(images) :])

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        logits = self.net(self._normalise(_shrunk(_planes(batch[0]), self.input_size))).logits
        self.macro_f1(logits, batch[1])
        self.calibration_means.update(F.cross_entropy(logits.float(), batch[1]), logits, batch[1])
        self.log("calibration_macro_f1", self.macro_f1)

    @override
    def on_validation_epoch_end(self) -> None:
        """Log the means of both blocks here: one row of the curves per epoch, written before the checkpoint."""
        for block, means in (("calibration", self.calibration_means), ("train", self.train_means)):
            loss, accuracy = means.compute()
            self.log(f"{block}_loss", loss, prog_bar=True)
            self.log(f"{block}_accuracy", accuracy, prog_bar=block == "calibration")

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["learned"] = self.train_means.checkpoint()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.train_means.load(checkpoint["learned"], self.parallel)

    @override
    def on_validation_end(self) -> None:
        loss = self.trainer.callback_metrics[MONITORED]
        if not loss.isfinite():
            message = f"{MONITORED} is {loss:.3g} in epoch {self.current_epoch}; lower fit.lr or fit.clip_norm"
            raise Diverged(message)
        schedule = self.lr_schedulers()
        # Lightning steps it only after the checkpoint of the epoch was written.
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(loss)

    @override
    def lr_scheduler_step(self, scheduler: LRSchedulerTypeUnion, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        projectors = ((f"projectors.{name}", parameter) for name, parameter in self.projectors.named_parameters())
        trained = [*self.net.named_parameters(), *projectors]
        return optimiser_and_schedule(trained, self.config.fit, self.steps_per_epoch)


def progressive_size(epoch: int, config: FitConfig) -> int | None:
    """Input size of an epoch under progressive resizing (`fit.sizes`); None without it."""
    return next((size for first, size in reversed(config.sizes) if epoch >= first), None)


def _planes(pictures: Tensor) -> Tensor:
    return pictures.permute(0, 3, 1, 2).float() / 255  # (N, H, W, 3) uint8 -> (N, 3, H, W) in 0..1


def _shrunk(images: Tensor, size: int) -> Tensor:
    """Downsample (N, 3, H, H) to (N, 3, size, size) with antialiasing; smaller pictures stay as they are."""
    return images if images.shape[-1] <= size else F.interpolate(images, size, mode="bilinear", antialias=True)
