"""How long a training waits for its pictures, step by step.

Knows a clock, and how the loader is asked. On a GPU it is an upper bound: the host may wait while the device is busy.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from typing_extensions import override


@dataclass
class Waits:
    """Seconds of every batch: until it was there, and until the next one was asked for."""

    steps: list[tuple[float, float]] = field(default_factory=list)
    told: int = 0  # of the steps, in epochs that have ended
    now: Callable[[], float] = time.perf_counter

    def share(self, first: int = 0) -> float:
        """Of the time since a step, how much was waited; 0 where there is none."""
        whole = sum(whole for _, whole in self.steps[first:])
        return sum(waited for waited, _ in self.steps[first:]) / whole if whole else 0.0


class WaitedFor(DataLoader[Any]):
    """A loader that says how long it was waited for."""

    def __init__(self, *arguments: Any, waits: Waits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.waits = waits

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # Lightning asks for no more than an iterator
        now = self.waits.now
        batches, asked = super().__iter__(), now()
        for batch in batches:
            waited = now() - asked
            yield batch
            asked, before = now(), asked
            self.waits.steps.append((waited, asked - before))


class Waiting(Callback):
    """Writes to the curves which share of an epoch's steps the process that waited longest has waited."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        share = torch.tensor(self.waits.share(self.waits.told), device=trainer.strategy.root_device)
        self.waits.told = len(self.waits.steps)
        pl_module.log("waiting", trainer.strategy.reduce(share, reduce_op="max"))
