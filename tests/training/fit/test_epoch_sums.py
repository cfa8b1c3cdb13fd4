"""Sums of an epoch: means over the pictures of all processes, however the epoch was interrupted and shared out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.data.sampler import DataParallel
from training.fit.epoch_sums import EpochSums

Batches = list[tuple[float, int, int]]  # mean loss, hits, pictures
batch = st.tuples(st.floats(0, 10, width=32), st.integers(0, 5), st.integers(1, 5))
batches = st.lists(batch.filter(lambda seen: seen[1] <= seen[2]), min_size=1, max_size=12)


def _add(sums: EpochSums, seen: Batches) -> None:
    for loss, hits, pictures in seen:
        labels = torch.arange(pictures) % 3
        guessed = torch.where(torch.arange(pictures) < hits, labels, labels + 1)
        sums.add(torch.tensor(loss), torch.eye(4)[guessed], labels)


def _means(seen: Batches) -> tuple[float, float]:
    losses, hits, pictures = np.array(seen).T
    return float((losses * pictures).sum() / pictures.sum()), float(hits.sum() / pictures.sum())


@given(batches)
def test_a_mean_is_that_of_the_pictures_and_the_next_epoch_begins_at_nothing(seen: Batches) -> None:
    sums = EpochSums()
    for _ in range(2):
        _add(sums, seen)
        assert [float(mean) for mean in sums.close()] == pytest.approx(_means(seen), rel=1e-5, abs=1e-6)


@given(batches, batches)
def test_an_interruption_changes_no_bit(before: Batches, after: Batches) -> None:
    whole, first, second = EpochSums(), EpochSums(), EpochSums()
    _add(whole, [*before, *after])
    _add(first, before)
    second.load(first.state(), DataParallel())
    _add(second, after)
    assert torch.equal(whole.sums, second.sums)


@given(st.integers(1, 4), st.integers(1, 4))
def test_another_number_of_processes_takes_all_over_and_nothing_twice(saved: int, now: int) -> None:
    state = torch.arange(float(3 * saved)).reshape(saved, 3)
    loaded = [EpochSums() for _ in range(now)]
    for rank, sums in enumerate(loaded):
        sums.load(state, DataParallel(rank, now))
    rows = torch.stack([sums.sums for sums in loaded])
    assert torch.equal(rows.sum(dim=0), state.sum(dim=0))
    assert saved != now or torch.equal(rows, state)


def test_a_checkpoint_of_an_earlier_version_has_none() -> None:
    sums = EpochSums()
    _add(sums, [(1.0, 1, 2)])
    sums.load(None, DataParallel())
    assert sums.sums[2] == 2
