"""The simulation of a front end stays below every bound, and near the lowest one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulations.worker_model import Costs, pictures_per_s
from examples import examples

TIME_S = st.floats(0.05e-3, 2e-3)


@settings(max_examples=examples(120))
@given(st.builds(Costs, TIME_S, TIME_S, TIME_S), st.integers(1, 16), st.integers(1, 32))
def test_no_resource_gives_more_than_it_has(costs: Costs, workers: int, cores: int) -> None:
    bound = min(workers / costs.loop_s, cores / (costs.loop_s + costs.decode_s), 1 / costs.session_s)
    rate = pictures_per_s(costs, workers=workers, cores=cores, pictures=3000)
    assert 0.5 * bound < rate < 1.1 * bound


@pytest.mark.parametrize(("workers", "expected"), [(1, 1000), (2, 2000), (4, 4000), (16, 8000)])
def test_a_front_end_grows_with_its_workers_until_the_device_is_full(workers: int, expected: float) -> None:
    costs = Costs(loop_s=1e-3, decode_s=0.5e-3, session_s=1 / 8000)
    assert pictures_per_s(costs, workers=workers, cores=32) == pytest.approx(expected, rel=0.05)
