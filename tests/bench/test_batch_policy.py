"""The simulation of batches answers every picture once, and as fast as its costs allow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulations.batch_policy import POLICIES, Costs, latencies_s
from examples import examples

TIME_S = st.floats(0.1e-3, 5e-3)


@settings(max_examples=examples(80))
@given(st.builds(Costs, TIME_S, TIME_S, TIME_S), st.sampled_from(sorted(POLICIES)))
def test_no_picture_is_faster_than_its_own_work(costs: Costs, name: str) -> None:
    found = latencies_s(costs, POLICIES[name], 0.5 * costs.capacity_per_s(), 0.5, seed=1)
    assert min(found) >= costs.prepare_s + costs.picture_s + costs.batch_s - 1e-6


def test_rare_pictures_do_not_wait_and_none_is_lost() -> None:
    found = latencies_s(Costs(1e-3, 2e-3, 3e-3), POLICIES["at most 8"], 1.0, 1000.0, seed=1)
    assert len(found) == pytest.approx(1000, rel=0.1)
    assert sorted(found)[len(found) // 2] == pytest.approx(6e-3, rel=1e-6)


def test_a_core_beyond_its_capacity_falls_behind() -> None:
    costs = Costs(1e-3, 2e-3, 0.0)
    found = latencies_s(costs, POLICIES["at most 4"], 2 * costs.capacity_per_s(), 5.0, seed=1)
    assert max(found) > 1.0
