"""One training run with Lightning: decoded pictures in, weights, curves and the split out.

Knows how a run is put together and on what it runs. Knows nothing of folders' layout, of evaluation or of export.
"""

import logging
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, RichProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from model import atomic_file
from training.config import Config
from training.data.images import LabelledImages
from training.data.sampler import (
    BatchDataset,
    DataParallel,
    EpochBatchSampler,
    batch_loader,
    samples_per_epoch,
    validation_batches,
)
from training.data.wait_times import Waiting, Waits
from training.fit.allocator import keep_freed_memory
from training.fit.checkpoints import AtomicCheckpointIO, ModelEMA, ResumableEarlyStopping, RunCheckpoint
from training.fit.distributed import barrier, on_all_ranks, on_rank_zero, this_process
from training.fit.losses import class_counts, sampling_weights
from training.fit.module import TrainingModule
from training.fit.pretrained import initialise
from training.run import FitRecord, RunFolder


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run is carried out. Nothing of what is learned is decided here, so that an interrupted run may go on with
    other numbers; but each device, and each part of a step, normalises its pictures by themselves (BatchNorm).

    Args:
        devices: processes on this machine, one a GPU (or CPU); each takes its share of every batch.
        accumulate: parts in which each device takes its share, where it does not fit its memory.
        workers: processes a device that read pictures ahead.
        checkpoint_every: steps between two checkpoints within an epoch; 0: at its end alone.
        steps: optimiser steps from the beginning after which the run stops, to be picked up; none: it ends.
    """

    devices: int = 1
    accumulate: int = 1
    workers: int = 0
    checkpoint_every: int = 0
    steps: int | None = None


def fit(
    config: Config,
    train: LabelledImages,
    calibration: LabelledImages,
    run: RunFolder,
    config_path: str,
    say: Callable[[str], None],
    execution: Execution = Execution(),
    waits: Waits | None = None,
) -> None:
    """Train and write the weights (a state_dict of VAN); picks up where an interrupted run stopped.

    Args:
        waits: filled with how long each batch was waited for.

    Raises:
        Halted: told to stop, it has saved where.
        Diverged: the loss is no longer a number.
        ValueError: the numbers of config, pictures and devices do not fit together.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):  # advice and advertisements stay out of the way
        logging.getLogger(name).setLevel(logging.WARNING)
    keep_freed_memory()
    L.seed_everything(config.seed, workers=True, verbose=False)
    timer = Timer()  # counts on when a run is picked up
    waits = waits or Waits()
    trainer = _trainer(config, run, execution, [timer, Waiting(waits)])
    share = DataParallel(trainer.global_rank, trainer.world_size, execution.accumulate)
    batches, counts = _draws(config, train, share, lambda: trainer.global_step)
    fitting = on_all_ranks(lambda: TrainingModule(config, batches.steps, counts, share))
    goes_on = on_rank_zero(run.checkpoint.exists)
    if not goes_on and (taken := on_all_ranks(lambda: initialise(fitting.net, config))):
        say(f"begins with {taken} of {config.model.init}")
    checked = validation_batches(len(calibration.samples), share)
    with warnings.catch_warnings():
        _silence_what_nobody_can_mend()
        try:
            trainer.fit(
                fitting,
                batch_loader(BatchDataset(train.images, train.labels), batches, execution.workers, waits),
                batch_loader(BatchDataset(calibration.images, calibration.labels), checked, execution.workers),
                ckpt_path=run.checkpoint if goes_on else None,
            )
        except SystemExit as exit:  # what Lightning makes of a Ctrl-C that did not wait for the step's end
            raise KeyboardInterrupt from exit
    if trainer.is_global_zero:
        if config.fit.keep == "best":
            fitting.load_state_dict(
                torch.load(run.best_checkpoint, map_location="cpu", weights_only=True)["state_dict"]
            )
        device, seconds = _device(trainer), timer.time_elapsed("train")
        run.write_fit(FitRecord(config=config_path, versions=versions(), train_s=seconds, device=device))
        _write_weights(fitting.net, run)
    barrier()  # a process that ended before the weights are written would count as done


def _draws(
    config: Config, train: LabelledImages, share: DataParallel, steps_done: Callable[[], int]
) -> tuple[EpochBatchSampler, NDArray[np.float64]]:
    """The batches, and the draws of each class an epoch."""
    weight_of = {source.name: source.weight for source in config.data.sources}
    weights = np.array([weight_of[sample.source] for sample in train.samples], dtype=np.float64)
    drawn = sampling_weights(train.labels, weights, len(config.classes), config.fit)
    draws = samples_per_epoch(weights, config.fit.batch_size)
    batches = EpochBatchSampler(drawn, draws, config.fit.batch_size, config.seed, share, steps_done)
    return batches, class_counts(train.labels, drawn, len(config.classes))


def _trainer(config: Config, run: RunFolder, execution: Execution, clocks: list[Callback]) -> L.Trainer:
    return L.Trainer(
        accelerator="auto",
        devices=execution.devices,
        num_nodes=this_process().nodes,
        strategy="ddp" if execution.devices * this_process().nodes > 1 else "auto",
        precision=config.fit.precision,
        max_epochs=config.fit.epochs + sum(config.fit.restarts),
        accumulate_grad_batches=execution.accumulate,
        gradient_clip_val=config.fit.clip_norm or None,
        logger=CSVLogger(run.folder, name="curves"),  # a resumed run adds version_1 and keeps version_0
        callbacks=[*clocks, *_callbacks(config, run, execution)],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # EpochDraws knows its share
        log_every_n_steps=1,  # what is logged is logged by epoch; a longer interval only earns a warning
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )


def _callbacks(config: Config, run: RunFolder, execution: Execution) -> list[Callback]:
    settings = config.fit
    best = run.best_checkpoint if settings.keep == "best" else None
    return [
        *([ModelEMA(settings.ema_decay)] if settings.ema_decay else []),
        *([ResumableEarlyStopping(settings.early_stopping_patience)] if settings.early_stopping_patience else []),
        RunCheckpoint(run.checkpoint, best, execution.checkpoint_every, execution.steps),
        LearningRateMonitor("epoch"),
        RichProgressBar(),
    ]


def _silence_what_nobody_can_mend() -> None:
    # Lightning 2.6 asks torch for a name that torch 2.15 renamed.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # On a CPU the pictures are in memory and workers would take from the training.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # It cannot know that these sums are those of all processes.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # It asks the loader for a state; EpochDraws needs none.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # The strides of a depthwise kernel may be written in two ways; they mean the same.
    warnings.filterwarnings("ignore", message="Grad strides do not match")


def _write_weights(net: nn.Module, run: RunFolder) -> None:
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    # Last and at once: where this file lies, training has ended. save_file would shut out everybody but its owner.
    atomic_file.write_bytes(run.weights, save(state))


def versions() -> dict[str, str]:
    """The libraries that decide what a seed gives."""
    return {name: version(name) for name in ("marrowlens", "torch", "lightning", "timm", "numpy", "pillow")}


def _device(trainer: L.Trainer) -> str:
    count = "one" if trainer.world_size == 1 else str(trainer.world_size)
    if isinstance(trainer.accelerator, CUDAAccelerator):
        return f"{count} {torch.cuda.get_device_name()}"
    if isinstance(trainer.accelerator, CPUAccelerator):
        cores = torch.get_num_threads() * trainer.world_size
        return f"{cores} CPU core{'s' if cores > 1 else ''} ({platform.machine()})"
    return f"{count} {type(trainer.accelerator).__name__.removesuffix('Accelerator')} ({platform.machine()})"
