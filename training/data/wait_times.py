"""How long a training waits for its pictures, step by step.

Knows a clock, and how the loader is asked. On a GPU it is an upper bound: the host may wait while the device is busy.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from typing_extensions import override


@dataclass
class Waits:
    """Of every epoch, seconds of each batch: until it was there, and until the next one was asked for.

    After the last batch of an epoch nothing is asked for, so that it is missing.
    """

    epochs: list[list[tuple[float, float]]] = field(default_factory=list)
    now: Callable[[], float] = time.perf_counter

    def share(self) -> float:
        """Of the time of the last epoch's steps, how much was waited; 0 where there is none."""
        whole = sum(whole for _, whole in self.epochs[-1])
        return sum(waited for waited, _ in self.epochs[-1]) / whole if whole else 0.0

    def steps(self, parts: int) -> NDArray[np.float64]:
        """The same by steps of so many batches, (steps, 2)."""
        whole = [epoch[: len(epoch) // parts * parts] for epoch in self.epochs]
        return np.array(list(chain.from_iterable(whole))).reshape(-1, parts, 2).sum(axis=1)


class WaitedFor(DataLoader[Any]):
    """A loader that says how long it was waited for."""

    def __init__(self, *arguments: Any, waits: Waits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.waits = waits

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # Lightning asks for no more than an iterator
        now, times = self.waits.now, list[tuple[float, float]]()
        self.waits.epochs.append(times)
        batches, asked = super().__iter__(), now()
        for batch in batches:
            waited = now() - asked
            yield batch
            asked, before = now(), asked
            times.append((waited, asked - before))


class Waiting(Callback):
    """Writes to the curves which share of an epoch's steps the process that waited longest has waited."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        share = torch.tensor(self.waits.share(), device=trainer.strategy.root_device)
        pl_module.log("waiting", trainer.strategy.reduce(share, reduce_op="max"))
