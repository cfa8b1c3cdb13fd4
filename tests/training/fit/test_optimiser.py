"""The learning rate schedule; trainings run in test_resume.py."""

import pytest

from training.config import FitConfig
from training.fit.optimiser import learning_rate

ONE = FitConfig(epochs=10, warmup_epochs=2)
THREE = FitConfig(epochs=10, warmup_epochs=2, restarts=(6, 4), restart_lr=0.5)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    assert learning_rate(0, ONE) < 0.01
    assert learning_rate(1, ONE) == pytest.approx(0.5, abs=0.01)
    assert learning_rate(2, ONE) == 1
    assert learning_rate(6, ONE) == pytest.approx(0.5)
    assert learning_rate(10, ONE) == pytest.approx(0)


def test_each_restart_begins_at_its_share_and_falls_to_nothing() -> None:
    assert [learning_rate(epoch, THREE) for epoch in (10, 16)] == [0.5, 0.25]
    assert learning_rate(13, THREE) == pytest.approx(0.25)
    assert [learning_rate(epoch, THREE) for epoch in (9.999, 15.999, 20)] == pytest.approx([0, 0, 0], abs=1e-5)


def test_a_restart_changes_nothing_before_it() -> None:
    epochs = [tenth / 10 for tenth in range(100)]
    assert [learning_rate(e, THREE) for e in epochs] == [learning_rate(e, ONE) for e in epochs]


def test_no_warm_up_starts_at_the_top() -> None:
    assert learning_rate(0, FitConfig(epochs=3, warmup_epochs=0)) == 1
