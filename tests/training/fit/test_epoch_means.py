"""Epoch means: over the pictures of all ranks, however the epoch was interrupted and distributed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.data.sampler import DataParallel
from training.fit.module import EpochMeans

Batches = list[tuple[float, int, int]]  # mean loss, hits, pictures
batch = st.tuples(st.floats(0, 10, width=32), st.integers(0, 5), st.integers(1, 5))
batches = st.lists(batch.filter(lambda seen: seen[1] <= seen[2]), min_size=1, max_size=12)


def _update(means: EpochMeans, seen: Batches) -> None:
    for loss, hits, pictures in seen:
        labels = torch.arange(pictures) % 3
        predicted = torch.where(torch.arange(pictures) < hits, labels, labels + 1)
        means.update(torch.tensor(loss), torch.eye(4)[predicted], labels)


def _expected(seen: Batches) -> tuple[float, float]:
    losses, hits, pictures = np.array(seen).T
    return float((losses * pictures).sum() / pictures.sum()), float(hits.sum() / pictures.sum())


@given(batches)
def test_a_mean_is_that_of_the_pictures_and_the_next_epoch_begins_at_nothing(seen: Batches) -> None:
    means = EpochMeans()
    for _ in range(2):
        _update(means, seen)
        assert [float(mean) for mean in means.compute()] == pytest.approx(_expected(seen), rel=1e-5, abs=1e-6)


@given(batches, batches)
def test_an_interruption_changes_no_bit(before: Batches, after: Batches) -> None:
    whole, first, second = EpochMeans(), EpochMeans(), EpochMeans()
    _update(whole, [*before, *after])
    _update(first, before)
    second.load(first.checkpoint(), DataParallel())
    _update(second, after)
    assert torch.equal(whole.checkpoint(), second.checkpoint())


@given(st.integers(1, 4), st.integers(1, 4))
def test_another_number_of_processes_takes_all_over_and_nothing_twice(saved: int, now: int) -> None:
    checkpoint = torch.arange(float(3 * saved)).reshape(saved, 3)
    loaded = [EpochMeans() for _ in range(now)]
    for rank, means in enumerate(loaded):
        means.load(checkpoint, DataParallel(rank, now))
    rows = torch.cat([means.checkpoint() for means in loaded])
    assert torch.equal(rows.sum(dim=0), checkpoint.sum(dim=0))
    assert saved != now or torch.equal(rows, checkpoint)


def test_a_checkpoint_holds_the_sums_of_losses_hits_and_pictures() -> None:
    means = EpochMeans()
    _update(means, [(0.5, 1, 2), (2.0, 3, 4)])
    assert means.checkpoint().tolist() == [[9.0, 4.0, 6.0]]
    resumed = EpochMeans()
    resumed.load(torch.tensor([[9.0, 4.0, 6.0]]), DataParallel())
    _update(resumed, [(1.0, 0, 6)])
    assert [float(mean) for mean in resumed.compute()] == pytest.approx([15 / 12, 4 / 12])


def test_a_loss_that_is_no_number_stays_visible() -> None:
    means = EpochMeans()
    _update(means, [(1.0, 1, 2), (float("nan"), 0, 1)])
    assert means.compute()[0].isnan()
