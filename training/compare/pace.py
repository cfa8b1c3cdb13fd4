"""How fast a configuration trains on this machine, from a few steps on pictures of noise.

Knows Lightning and a clock. Reads no data, keeps nothing of what was trained.
"""

import logging
import time
import warnings
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from training.config import Config, DistilConfig
from training.fit.module import OVERSIZE, Fitting

#: Timed steps; one more comes before them, in which memory is claimed and kernels are chosen.
STEPS = 3


class _Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def pictures_per_s(config: Config) -> float:
    """Training pictures a second: augmentation, forward, backward and optimiser, at the last input size.

    Teachers are left out: their runs may be part of the same plan, and not there yet.

    Raises:
        ValueError: the network cannot be built.
    """
    size, batch = round(config.model.input_size * OVERSIZE), config.fit.batch_size
    count = batch * (STEPS + 1)
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(0, len(config.classes), count))
    plain = config.model_copy(update={"fit": config.fit.model_copy(update={"sizes": ()}), "distil": DistilConfig()})
    fitting, clock = Fitting(plain, STEPS + 1, np.ones(len(config.classes))), _Clock()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Lightning would say of a training, of which this is none
            _trainer(config, clock).fit(fitting, DataLoader(TensorDataset(images, labels), batch))
    except SystemExit as exit:  # what Lightning makes of a Ctrl-C
        raise KeyboardInterrupt from exit
    return STEPS * batch / (clock.ends[-1] - clock.ends[0])


def _trainer(config: Config, clock: _Clock) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return L.Trainer(
        accelerator="auto",
        devices=1,
        precision=config.fit.precision,
        max_epochs=1,
        gradient_clip_val=config.fit.clip_norm or None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[clock],
    )
