"""Training of one run with Lightning: decoded pictures in; weights, curves and fit.json out."""

import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, RichProgressBar, Timer
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from model import atomic_file
from model.plural import plural
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
from training.fit.checkpoints import AtomicCheckpointIO, ModelEMA, ResumableEarlyStopping, RunCheckpoint
from training.fit.dataloader_timing import DataLoaderTimer, LogWaitingShare
from training.fit.distributed import barrier, on_all_ranks, on_rank_zero
from training.fit.loggers import make_loggers
from training.fit.losses import class_counts, sampling_weights
from training.fit.module import TrainingModule
from training.fit.precision import strided_depthwise_in_float32
from training.fit.pretrained import initialise
from training.process import this_process
from training.run import FitRecord, RunFolder


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run is executed. None of it changes what is trained, so a run may be resumed with other values; but each
    device and each accumulation step computes its own BatchNorm statistics.

    Args:
        devices: processes on this machine, one per GPU (or on the CPU); each computes a part of every batch.
        accumulate: accumulation steps, to fit a device's memory.
        workers: processes per device that prefetch pictures.
        checkpoint_every: steps between two checkpoints within an epoch; 0: only at its end.
        steps: optimiser steps after which the run stops, to be resumed; None: it ends as configured.
    """

    devices: int = 1
    accumulate: int = 1
    workers: int = 0
    checkpoint_every: int = 0
    steps: int | None = None


class OutOfMemory(ValueError):
    """The pictures of a step do not fit into memory."""


#: Of the messages of a RuntimeError: the CPU's allocator, oneDNN and cuDNN have no exception of their own.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUDNN_STATUS_ALLOC_FAILED")


def fit(
    config: Config,
    train: LabelledImages,
    calibration: LabelledImages,
    run: RunFolder,
    config_path: str,
    log: Callable[[str], None],
    execution: Execution = Execution(),
    timer: DataLoaderTimer | None = None,
    callbacks: Sequence[Callback] = (),
    outliers: NDArray[np.uint8] | None = None,
) -> None:
    """Train, or resume an interrupted training, and write the weights (a state_dict) and fit.json.

    Args:
        config_path: the configuration as `marrowlens-train fit` was given it, for fit.json.
        log: prints a line.
        timer: records how long each batch was waited for.
        callbacks: further callbacks of Lightning.
        outliers: pictures of no class for outlier exposure, (M, H, W, 3).

    Raises:
        OutOfMemory: the pictures of a step do not fit into memory.
        TrainingStopped: stopped on a signal or after `execution.steps`, with a checkpoint.
        Diverged: the loss is not finite.
        ValueError: configuration, number of pictures and devices contradict each other.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):  # hides tips and advertisements
        logging.getLogger(name).setLevel(logging.WARNING)
    L.seed_everything(config.seed, workers=True, verbose=False)
    clock = Timer()  # part of the checkpoint
    timer = timer or DataLoaderTimer()
    trainer = _trainer(config, run, execution, [clock, LogWaitingShare(timer), *callbacks], timer)
    parallel = DataParallel(trainer.global_rank, trainer.world_size, execution.accumulate)
    batches, counts = _batches(config, train, parallel, lambda: trainer.global_step)
    module = on_all_ranks(lambda: TrainingModule(config, batches.steps, counts, parallel, outliers))
    resumed = on_rank_zero(run.checkpoint.exists)
    if not resumed and (result := on_all_ranks(lambda: initialise(module.net, config))):
        log(f"loaded {result} from {config.model.init}")
    if config.fit.precision == "bf16-mixed" and isinstance(trainer.accelerator, CPUAccelerator):
        strided_depthwise_in_float32(module)
    calibration_batches = validation_batches(len(calibration.samples), parallel)
    with warnings.catch_warnings(), _reported_out_of_memory(config, execution):
        _filter_warnings()
        try:
            trainer.fit(
                module,
                batch_loader(BatchDataset(train.images, train.labels), batches, execution.workers),
                batch_loader(
                    BatchDataset(calibration.images, calibration.labels), calibration_batches, execution.workers
                ),
                ckpt_path=run.checkpoint if resumed else None,
            )
        except SystemExit as exit:  # Lightning's reaction to a second Ctrl-C
            raise KeyboardInterrupt from exit
    if trainer.is_global_zero:
        if config.fit.keep == "best":
            checkpoint = torch.load(run.best_checkpoint, map_location="cpu", weights_only=True)
            module.load_state_dict(checkpoint["state_dict"])
        device, seconds = _device(trainer), clock.time_elapsed("train")
        run.write_fit(FitRecord(config=config_path, versions=versions(), train_s=seconds, device=device))
        _write_weights(module.net, run)
    barrier()  # torchrun takes the first process to end for the end of the training


@contextmanager
def _reported_out_of_memory(config: Config, execution: Execution) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        batch = config.fit.batch_size
        at_once = batch // (execution.devices * this_process().nodes * execution.accumulate)
        raise OutOfMemory(
            f"out of memory with {at_once} pictures at once: run again with --accumulate {2 * execution.accumulate} "
            f"(the same result up to BatchNorm), or with a smaller fit.batch_size (now {batch}) or model.input_size; "
            "`marrowlens-train size` estimates the memory"
        ) from error


def _batches(
    config: Config, train: LabelledImages, parallel: DataParallel, steps_done: Callable[[], int]
) -> tuple[EpochBatchSampler, NDArray[np.float64]]:
    """The training batches, and the samples of each class per epoch, (C,)."""
    weight_of = {source.name: source.weight for source in config.data.sources}
    source_weights = np.array([weight_of[sample.source] for sample in train.samples], dtype=np.float64)
    weights = sampling_weights(train.labels, source_weights, len(config.classes), config.fit)
    draws = samples_per_epoch(source_weights, config.fit.batch_size)
    batches = EpochBatchSampler(weights, draws, config.fit.batch_size, config.seed, parallel, steps_done)
    return batches, class_counts(train.labels, weights, len(config.classes))


def _trainer(
    config: Config, run: RunFolder, execution: Execution, clocks: list[Callback], timer: DataLoaderTimer
) -> L.Trainer:
    return L.Trainer(
        accelerator="auto",
        devices=execution.devices,
        num_nodes=this_process().nodes,
        strategy="ddp" if execution.devices * this_process().nodes > 1 else "auto",
        precision=config.fit.precision,
        max_epochs=config.fit.epochs + sum(config.fit.restarts),
        accumulate_grad_batches=execution.accumulate,
        gradient_clip_val=config.fit.clip_norm or None,
        logger=make_loggers(config, run),
        profiler=timer,
        callbacks=[*clocks, *_callbacks(config, run, execution)],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # EpochBatchSampler divides over the ranks
        log_every_n_steps=1,  # metrics are logged by epoch; a longer interval causes a warning
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


def _filter_warnings() -> None:
    """Ignore warnings of Lightning and torch that do not apply here."""
    # Lightning 2.6 uses a name that torch 2.15 renamed.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # On a CPU the pictures are in memory; workers would compete with the training.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # EpochMeans are reduced over the ranks before they are logged.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # EpochBatchSampler needs no saved state.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # The strides of a depthwise kernel can be written in two equivalent ways.
    warnings.filterwarnings("ignore", message="Grad strides do not match")


def _write_weights(net: nn.Module, run: RunFolder) -> None:
    """Write weights.safetensors last: it marks the end of the training. Unlike save_file, with the umask's mode."""
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    atomic_file.write_bytes(run.weights, save(state))


def versions() -> dict[str, str]:
    """Versions of the libraries that the result of a seed depends on."""
    return {name: version(name) for name in ("marrowlens", "torch", "lightning", "timm", "numpy", "pillow")}


def _device(trainer: L.Trainer) -> str:
    count = "one" if trainer.world_size == 1 else str(trainer.world_size)
    if isinstance(trainer.accelerator, CUDAAccelerator):
        return f"{count} {torch.cuda.get_device_name()}"
    if isinstance(trainer.accelerator, CPUAccelerator):
        cores = torch.get_num_threads() * trainer.world_size
        return f"{plural(cores, 'CPU core')} ({platform.machine()})"
    return f"{count} {type(trainer.accelerator).__name__.removesuffix('Accelerator')} ({platform.machine()})"
