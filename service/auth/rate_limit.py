"""A token bucket per caller: requests per second, with a burst. Workers of one service share their buckets."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.concurrency.token_buckets import TokenBuckets, take_token
from service.concurrency.worker import Worker

#: Callers by token are as many as the issuer names. Above this number, full buckets are dropped.
_MAX_BUCKETS = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float
    rate_per_s: float
    burst: int

    def is_full(self, now_s: float) -> bool:
        return self.tokens + (now_s - self.at_s) * self.rate_per_s >= self.burst


class Limiter(Protocol):
    """The token buckets of all callers."""

    def take(self, account: str, rate_per_s: float, burst: int) -> float:
        """Take a token; returns 0.0, or the seconds to wait if there is none. A rate of 0 is no limit."""


def limiter_of(worker: Worker | None) -> Limiter:
    """The rate limiter of one process, or the one that all workers share."""
    return RateLimiter() if worker is None else TokenBuckets(worker.token_buckets)


class RateLimiter:
    """The token buckets of all callers of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, account: str, rate_per_s: float, burst: int) -> float:
        """Take a token; returns 0.0, or the seconds to wait if there is none. A rate of 0 is no limit."""
        if rate_per_s <= 0:
            return 0.0
        now_s = self._clock()
        bucket = self._buckets.get(account)
        if bucket is None:
            bucket = self._new(account, now_s, rate_per_s, burst)
        bucket.rate_per_s, bucket.burst = rate_per_s, burst
        bucket.tokens, wait_s = take_token(bucket.tokens, now_s - bucket.at_s, rate_per_s, burst)
        bucket.at_s = now_s
        return wait_s

    def _new(self, account: str, now_s: float, rate_per_s: float, burst: int) -> _Bucket:
        if len(self._buckets) >= _MAX_BUCKETS:
            self._buckets = {key: each for key, each in self._buckets.items() if not each.is_full(now_s)}
        bucket = self._buckets[account] = _Bucket(float(burst), now_s, rate_per_s, burst)
        return bucket
