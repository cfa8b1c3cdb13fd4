"""Which picture is drawn when: the order of every epoch, cut into steps and shared out over the devices.

Knows weights and indices. Knows no picture and no network. The order of an epoch follows from the seed and the number
of the epoch alone, so that a run can be picked up at any step without anything having been saved.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.data.wait_times import WaitedFor, Waits

Weights = NDArray[np.float64]


def samples_per_epoch(weights: Weights, batch_size: int) -> int:
    """As many as the weights add up to, and never less than one batch."""
    return max(round(float(weights.sum())), batch_size)


def epoch_order(weights: Weights, draws: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices (draws,) in random order; each occurs in proportion to its weight, rounded up or down by chance.

    Systematic sampling over a shuffled list: a picture of weight 1 is seen exactly once an epoch, where drawing with
    replacement would leave out a third of them.
    """
    random = np.random.default_rng((seed, epoch))
    shuffled = random.permutation(len(weights))
    due = np.cumsum(weights[shuffled])
    due = np.minimum(due * (draws / due[-1]), draws)
    due[-1] = draws  # whatever the rounding
    times = np.diff(np.floor(due + random.random()), prepend=0).astype(np.int64)
    return random.permutation(np.repeat(shuffled, times))


@dataclass(frozen=True, slots=True)
class DataParallel:
    """Whose part of each optimiser step: device `rank` of `devices`, in `parts` batches one after the other."""

    rank: int = 0
    devices: int = 1
    parts: int = 1

    def number(self, part: int) -> int:
        """Which of all shares of a step a part of this device is."""
        return part * self.devices + self.rank


class EpochBatchSampler(Sampler[list[int]]):
    """The batches of one device: those of the epoch that the run stands in, from the step that it has reached.

    Args:
        weights: draws of each picture, (N,), in proportion.
        batch_size: pictures an optimiser step, over all devices and parts together.
        steps_done: asked at the start of each epoch.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        weights: Weights,
        draws: int,
        batch_size: int,
        seed: int,
        share: DataParallel,
        steps_done: Callable[[], int],
    ) -> None:
        ways = share.devices * share.parts
        if batch_size % ways:
            raise ValueError(f"fit.batch_size {batch_size} cannot be shared evenly among {ways} (devices x accumulate)")
        self.weights, self.draws, self.seed, self.share, self.steps_done = weights, draws, seed, share, steps_done
        self.steps = draws // batch_size
        self.shape = (self.steps, share.parts, share.devices, batch_size // ways)

    def __len__(self) -> int:
        """Batches of a whole epoch, also when it is picked up in the middle: so Lightning counts them."""
        return self.steps * self.share.parts

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first = divmod(self.steps_done(), self.steps)
        order = epoch_order(self.weights, self.draws, self.seed, epoch)
        cut = order[: int(np.prod(self.shape))].reshape(self.shape)
        for batch in cut[first:, :, self.share.rank].reshape(-1, self.shape[-1]):
            yield batch.tolist()


def validation_batches(count: int, share: DataParallel, most: int = 256) -> list[list[int]]:
    """Each of `count` indices once, in order, in batches of at most `most` shared out over the devices.

    Every device gets as many batches as the others, none of them empty: what they do together must not wait for one.

    Raises:
        ValueError: there are fewer pictures than devices.
    """
    if count < share.devices:
        raise ValueError(f"{count} calibration pictures cannot be shared among {share.devices} devices")
    batches = np.array_split(np.arange(count), -(-count // max(most, share.devices)))
    return [batch[share.rank :: share.devices].tolist() for batch in batches]


class BatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches by fancy indexing: of an array in memory or of one mapped from a file, read row by row."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images[indices]), torch.from_numpy(self.labels[indices])


def batch_loader(
    rows: BatchDataset, batches: Sampler[list[int]] | list[list[int]], workers: int, waits: Waits | None = None
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches in order, read ahead by `workers` processes: 0 on a CPU, where they would take from the training.

    The workers are forked, for an array mapped from a file is then shared; any other way would send it to each whole.

    Args:
        waits: filled with how long each batch was waited for.
    """
    return WaitedFor(
        rows,
        waits=waits or Waits(),
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
