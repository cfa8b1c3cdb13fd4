"""One training run with Lightning: decoded pictures in, weights, curves and the split out.

Knows the optimiser, the schedule and the loss. Knows nothing of folders' layout, of evaluation or of export.
"""

import logging
import math
import platform
import warnings
from collections.abc import Callable
from importlib.metadata import version

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from timm.data import Mixup
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader, TensorDataset, WeightedRandomSampler
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from training.allocator import keep_freed_memory
from training.augment import jitter_stain, warp
from training.config import Config, FitConfig
from training.distil import Teachers
from training.initial import take_over
from training.networks import build
from training.pictures import Pictures
from training.run import Fit, Run

#: Pictures are decoded this much larger than the input, so that a zoomed or turned one is still sharp.
OVERSIZE = 4 / 3


class Fitting(L.LightningModule):
    """A network under training. Batches are uint8 pictures (N, H, W, 3) and labels (N,)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        super().__init__()
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        classes = len(config.classes)
        self.net = build(config.model, classes).to(memory_format=torch.channels_last)
        self.teachers = [Teachers(config)]  # in a list: no module of this one, so that no checkpoint holds them
        self.register_buffer("mean", torch.tensor(config.model.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.model.std).view(3, 1, 1), persistent=False)
        self.mixup = _mixup(config)
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.macro_f1 = MulticlassF1Score(classes, average="macro")

    def _normalise(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _planes(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).float() / 255  # (N, H, W, 3) uint8 -> (N, 3, H, W) in 0..1

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        config, teachers = self.config, self.teachers[0]
        size = config.model.input_size
        images = warp(self._planes(batch[0]), max(size, teachers.input_size), config.augment)
        images, labels = jitter_stain(images, config.augment.stain), batch[1]
        if self.mixup:
            images, labels = self.mixup(images, labels)
        seen = images if images.shape[-1] == size else F.interpolate(images, size, mode="bilinear", antialias=True)
        smoothing = 0.0 if labels.ndim == 2 else config.fit.label_smoothing
        logits = self.net(self._normalise(seen)).logits
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if teachers:
            loss = (1 - teachers.weight) * loss + teachers.weight * teachers.loss(logits, images)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        logits = self.net(self._normalise(self._planes(batch[0]))).logits
        self.accuracy(logits, batch[1])
        self.macro_f1(logits, batch[1])
        self.log("calibration_loss", F.cross_entropy(logits, batch[1]), prog_bar=True)
        self.log("calibration_accuracy", self.accuracy, prog_bar=True)
        self.log("calibration_macro_f1", self.macro_f1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        decayed = [p for p in self.net.parameters() if p.ndim >= 2 and p.shape[1:] != (1, 1)]
        plain = [p for p in self.net.parameters() if not (p.ndim >= 2 and p.shape[1:] != (1, 1))]
        fit = self.config.fit
        groups = [{"params": decayed, "weight_decay": fit.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimiser = AdamW(groups, lr=fit.lr)
        schedule = LambdaLR(optimiser, lambda step: learning_rate(step / self.steps_per_epoch, fit))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Averaging(EMAWeightAveraging):
    """Leaves the averaged weights in the network also when a run is picked up after its last epoch.

    Lightning hands them over in on_train_end, which is not called where no epoch is left.
    """

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_end(trainer, pl_module)


def _mixup(config: Config) -> Mixup | None:
    augment = config.augment
    if not (augment.mixup_alpha or augment.cutmix_alpha):
        return None
    return Mixup(
        augment.mixup_alpha,
        augment.cutmix_alpha,
        prob=0.5,
        mode="batch",
        label_smoothing=config.fit.label_smoothing,
        num_classes=len(config.classes),
    )


def learning_rate(epoch: float, config: FitConfig) -> float:
    """Share of `lr` at a (fractional) epoch: a linear warm-up, then cosine cycles (SGDR, arXiv 1608.03983, eq. 5)."""
    if epoch < config.warmup_epochs:
        return (epoch + 1e-3) / config.warmup_epochs
    start, length, peak = config.warmup_epochs, max(config.epochs - config.warmup_epochs, 1e-9), 1.0
    for restart in config.restarts:
        if epoch < start + length:
            break
        start, length, peak = start + length, restart, peak * config.restart_lr
    return peak * 0.5 * (1 + math.cos(math.pi * min((epoch - start) / length, 1.0)))


def _loader(pictures: Pictures, batch_size: int, weights: Tensor | None) -> DataLoader[tuple[Tensor, ...]]:
    """Whole batches by fancy indexing of the array in memory: no worker, no copy a picture."""
    data = TensorDataset(torch.from_numpy(pictures.images), torch.from_numpy(pictures.labels))
    if weights is None:
        batches = BatchSampler(range(len(data)), batch_size, drop_last=False)
    else:
        draws = max(round(float(weights.sum())), batch_size)
        sampler = WeightedRandomSampler(weights.tolist(), draws, replacement=True)
        batches = BatchSampler(sampler, batch_size, drop_last=True)
    return DataLoader(data, sampler=batches, batch_size=None, collate_fn=None)


def fit(
    config: Config, train: Pictures, calibration: Pictures, run: Run, config_path: str, say: Callable[[str], None]
) -> None:
    """Train and write the averaged weights (a state_dict of VAN); picks up where an interrupted run stopped."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # advice and advertisements stay out of the way
    keep_freed_memory()
    L.seed_everything(config.seed, workers=True, verbose=False)
    weight_of = {source.name: source.weight for source in config.data.sources}
    weights = torch.tensor([weight_of[sample.source] for sample in train.samples])
    train_loader = _loader(train, config.fit.batch_size, weights)
    fitting = Fitting(config, steps_per_epoch=len(train_loader))
    if config.model.init and not run.checkpoint.exists():
        say(f"begins with {take_over(fitting.net, config.model.variant, config.model.init)} of {config.model.init}")
    timer = Timer()  # counts on when a run is picked up
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=config.fit.epochs + sum(config.fit.restarts),
        gradient_clip_val=config.fit.clip_norm,
        logger=CSVLogger(run.folder, name="curves"),  # a resumed run adds version_1 and keeps version_0
        callbacks=[timer, *_callbacks(config, run)],
        log_every_n_steps=max(len(train_loader) // 4, 1),
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    resume = run.checkpoint if run.checkpoint.exists() else None
    with warnings.catch_warnings():
        # Lightning 2.6 asks torch for a name that torch 2.15 renamed; nothing a user can mend.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer.fit(fitting, train_loader, _loader(calibration, 256, None), ckpt_path=resume)
    run.write_fit(
        Fit(config=config_path, versions=versions(), train_s=timer.time_elapsed("train"), device=_device(trainer))
    )
    state = {name: tensor.contiguous() for name, tensor in fitting.net.state_dict().items()}
    unfinished = run.weights.with_suffix(".unfinished")
    save_file(state, unfinished)
    unfinished.replace(run.weights)  # last and at once: where this file lies, training has ended


def versions() -> dict[str, str]:
    """The libraries that decide what a seed gives."""
    return {name: version(name) for name in ("marrowlens", "torch", "lightning", "timm", "numpy", "pillow")}


def _device(trainer: L.Trainer) -> str:
    if isinstance(trainer.accelerator, CUDAAccelerator):
        return f"one {torch.cuda.get_device_name()}"
    if isinstance(trainer.accelerator, CPUAccelerator):
        return f"{torch.get_num_threads()} CPU cores ({platform.machine()})"
    return f"one {type(trainer.accelerator).__name__.removesuffix('Accelerator')} ({platform.machine()})"


def _callbacks(config: Config, run: Run) -> list[Callback]:
    return [
        Averaging(decay=config.fit.ema_decay, use_buffers=True),
        ModelCheckpoint(run.checkpoint.parent, filename=run.checkpoint.stem, enable_version_counter=False),
        LearningRateMonitor("epoch"),
        RichProgressBar(),
    ]
