"""Tables that several workers share: token buckets and counts, each worker with its own view of one file."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from service.auth.rate_limit import RateLimiter
from service.concurrency.shared_counts import ABSENT, Column, SharedCounts
from service.concurrency.token_buckets import SETS, WAYS, TokenBuckets

REQUESTS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.floats(0, 3)), max_size=60)


@given(REQUESTS, st.floats(0.1, 5), st.integers(1, 5))
def test_workers_together_give_what_one_limiter_gives(
    requests: list[tuple[int, str, float]], rate_per_s: float, burst: int
) -> None:
    now_s = [1000.0]
    alone = RateLimiter(lambda: now_s[0])
    with TemporaryDirectory() as folder:
        workers = [TokenBuckets(Path(folder) / "buckets", lambda: now_s[0]) for _ in range(3)]
        for worker, account, pause_s in requests:
            now_s[0] += pause_s
            assert workers[worker].take(account, rate_per_s, burst) == alone.take(account, rate_per_s, burst)


def test_no_rate_is_no_limit_and_more_callers_than_places_are_served(tmp_path: Path) -> None:
    buckets = TokenBuckets(tmp_path / "buckets")
    assert [buckets.take("one", 0, 1) for _ in range(3)] == [0.0] * 3
    assert {buckets.take(f"caller {number}", 0.001, 1) for number in range(2 * SETS * WAYS)} == {0.0}
    assert buckets.take(f"caller {2 * SETS * WAYS - 1}", 0.001, 1) > 0  # the last one is still known


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-50, 50)), max_size=60))
def test_the_sum_over_all_workers_stays_within_the_limit(changes: list[tuple[int, int]]) -> None:
    held = [0, 0, 0]
    with TemporaryDirectory() as folder:
        workers = [SharedCounts(Path(folder) / "counts", 3, row) for row in range(3)]
        for row, change in changes:
            change = max(change, -held[row])
            fits = change <= 0 or sum(held) + change <= 100
            assert workers[row].add_within(Column.MEMORY, change, 100) is fits
            held[row] += change * fits


def test_a_worker_that_ended_holds_nothing_and_is_left_no_connection(tmp_path: Path) -> None:
    first, second = (SharedCounts(tmp_path / "counts", 2, row) for row in range(2))
    first.set(Column.CONNECTIONS, 0)
    second.set(Column.CONNECTIONS, 7)
    assert first.add_within(Column.MEMORY, 100, 100) and not second.add_within(Column.MEMORY, 1, 100)
    second.clear(0)
    assert second.least(Column.CONNECTIONS) == 7 < ABSENT
    assert second.add_within(Column.MEMORY, 100, 100)
