"""Batches of an epoch: sampling order, division into steps and over ranks, and the DataLoader.

The order of an epoch follows from the seed and the number of the epoch, so a run can be resumed at any step without a
saved sampler state.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Weights = NDArray[np.float64]


def samples_per_epoch(weights: Weights, batch_size: int) -> int:
    """The sum of the weights, rounded; at least one batch."""
    return max(round(float(weights.sum())), batch_size)


def epoch_order(weights: Weights, draws: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices (draws,) in random order; each occurs in proportion to its weight, rounded up or down at random.

    Systematic sampling over a shuffled list: a picture of weight 1 occurs exactly once per epoch. Sampling with
    replacement would omit a third of them.
    """
    random = np.random.default_rng((seed, epoch))
    shuffled = random.permutation(len(weights))
    due = np.cumsum(weights[shuffled])
    due = np.minimum(due * (draws / due[-1]), draws)
    due[-1] = draws  # despite rounding
    times = np.diff(np.floor(due + random.random()), prepend=0).astype(np.int64)
    return random.permutation(np.repeat(shuffled, times))


@dataclass(frozen=True, slots=True)
class DataParallel:
    """The part of an optimiser step that one process computes: rank of `world_size`, in `accumulate` batches."""

    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def stream(self, part: int) -> int:
        """Number of the random stream of an accumulation step of this rank."""
        return part * self.world_size + self.rank


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of one rank for the current epoch, from the step that the run has reached.

    Args:
        weights: sampling weight of each picture, (N,).
        draws: samples of an epoch.
        batch_size: samples of an optimiser step, over all ranks and accumulation steps.
        steps_done: returns the number of finished optimiser steps; called at the start of each epoch.

    Raises:
        ValueError: the batch size is not divisible by ranks x accumulation steps.
    """

    def __init__(
        self,
        weights: Weights,
        draws: int,
        batch_size: int,
        seed: int,
        parallel: DataParallel,
        steps_done: Callable[[], int],
    ) -> None:
        ways = parallel.world_size * parallel.accumulate
        if batch_size % ways:
            raise ValueError(f"fit.batch_size {batch_size} is not divisible by {ways} (devices x accumulate)")
        self.weights, self.draws, self.seed, self.parallel = weights, draws, seed, parallel
        self.steps_done = steps_done
        self.steps = draws // batch_size
        self.shape = (self.steps, parallel.accumulate, parallel.world_size, batch_size // ways)

    def __len__(self) -> int:
        """Batches of a whole epoch, also when it is resumed in the middle: Lightning counts them this way."""
        return self.steps * self.parallel.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first = divmod(self.steps_done(), self.steps)
        order = epoch_order(self.weights, self.draws, self.seed, epoch)
        cut = order[: int(np.prod(self.shape))].reshape(self.shape)
        for batch in cut[first:, :, self.parallel.rank].reshape(-1, self.shape[-1]):
            yield batch.tolist()


def validation_batches(count: int, parallel: DataParallel, most: int = 256) -> list[list[int]]:
    """Each of `count` indices once, in order, in batches of at most `most` divided over the ranks.

    Every rank gets the same number of batches, none of them empty, as collective operations need.

    Raises:
        ValueError: there are fewer pictures than ranks.
    """
    if count < parallel.world_size:
        raise ValueError(f"{count} calibration pictures are too few for {parallel.world_size} devices")
    batches = np.array_split(np.arange(count), -(-count // max(most, parallel.world_size)))
    return [batch[parallel.rank :: parallel.world_size].tolist() for batch in batches]


class BatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches by fancy indexing of an array in memory or of a memory-mapped file."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images[indices]), torch.from_numpy(self.labels[indices])


def batch_loader(
    dataset: BatchDataset, batches: Sampler[list[int]] | list[list[int]], workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """A DataLoader over ready-made batches of indices.

    Args:
        workers: processes that prefetch; 0 on a CPU, where they would compete with the training. They are forked, so
            that they share a memory-mapped array; other start methods would copy it to each of them.
    """
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
