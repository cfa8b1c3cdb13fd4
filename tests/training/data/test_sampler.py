"""The order of an epoch: proportional to weights, reproducible by seed, divided over devices without overlap."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.sampler import (
    BatchDataset,
    DataParallel,
    EpochBatchSampler,
    batch_loader,
    epoch_order,
    samples_per_epoch,
    validation_batches,
)

weight = st.floats(0.01, 100)


@given(st.lists(weight, min_size=1, max_size=60), st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(0, 500))
def test_every_picture_is_drawn_as_often_as_its_weight_says(
    weights: list[float], draws: int, seed: int, epoch: int
) -> None:
    order = epoch_order(np.array(weights), draws, seed, epoch)
    times = np.bincount(order, minlength=len(weights))
    due = draws * np.array(weights) / sum(weights)
    assert len(order) == draws
    assert np.all(np.abs(times - due) < 1 + 1e-6)


def test_a_weight_of_one_is_seen_once_an_epoch() -> None:
    assert sorted(epoch_order(np.ones(50), 50, 0, 0)) == list(range(50))


def test_half_a_weight_is_seen_every_other_epoch_on_the_average_and_not_in_pairs() -> None:
    orders = [epoch_order(np.full(40, 0.5), 20, 3, epoch) for epoch in range(400)]
    times = np.bincount(np.concatenate(orders), minlength=40)
    assert 160 < times.min() and times.max() < 240
    together = sum({0, 1} <= set(order.tolist()) for order in orders)
    assert 60 < together < 140  # neighbours are drawn independently: both in a quarter of the epochs


def test_a_seed_repeats_the_order_and_an_epoch_changes_it() -> None:
    first = epoch_order(np.ones(30), 30, 7, 0)
    assert np.array_equal(first, epoch_order(np.ones(30), 30, 7, 0))
    assert not np.array_equal(first, epoch_order(np.ones(30), 30, 7, 1))
    assert not np.array_equal(first, epoch_order(np.ones(30), 30, 8, 0))


def _batches(parallel: DataParallel, done: int, size: int = 12) -> list[list[int]]:
    return list(EpochBatchSampler(np.ones(60), 60, size, 5, parallel, lambda: done))


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 3)])
def test_what_the_devices_draw_together_is_what_one_would_have_drawn(devices: int, parts: int) -> None:
    whole = _batches(DataParallel(), done=5)
    shares = [_batches(DataParallel(rank, devices, parts), done=5) for rank in range(devices)]
    for step, batch in enumerate(whole):
        drawn = chain.from_iterable(chain(*share[step * parts : (step + 1) * parts]) for share in shares)
        assert sorted(drawn) == sorted(batch)


@pytest.mark.parametrize("done", [0, 3, 5, 9])
def test_a_run_picked_up_draws_the_rest_of_its_epoch(done: int) -> None:
    whole = _batches(DataParallel(), done - done % 5)
    assert _batches(DataParallel(), done) == whole[done % 5 :]
    assert len(EpochBatchSampler(np.ones(60), 60, 12, 5, DataParallel(accumulate=2), lambda: done)) == 10


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size 12 is not divisible by 8 \(devices x accumulate\)"):
        EpochBatchSampler(np.ones(60), 60, 12, 5, DataParallel(world_size=4, accumulate=2), lambda: 0)


def test_never_less_than_one_batch() -> None:
    assert samples_per_epoch(np.full(10, 0.1), 16) == 16
    assert samples_per_epoch(np.full(100, 0.4), 16) == 40


@given(st.integers(1, 700), st.integers(1, 8))
def test_every_calibration_picture_is_looked_at_once(count: int, devices: int) -> None:
    if count < devices:
        with pytest.raises(ValueError, match="are too few for"):
            validation_batches(count, DataParallel(0, devices))
        return
    shares = [validation_batches(count, DataParallel(rank, devices), most=100) for rank in range(devices)]
    assert sorted(chain.from_iterable(chain.from_iterable(shares))) == list(range(count))
    assert len({len(batches) for batches in shares}) == 1  # a device with more batches than another would wait forever
    assert all(batch for batches in shares for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_read_row_by_row_from_a_file(tmp_path, workers: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    rows = BatchDataset(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(9))
    found = list(batch_loader(rows, [[3, 1, 3], [8]], workers))
    assert [labels.tolist() for _, labels in found] == [[3, 1, 3], [8]]
    for pictures, labels in found:
        assert np.array_equal(pictures.numpy(), images[labels.numpy()])
