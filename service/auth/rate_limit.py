"""A token bucket per caller: requests per second, with a burst. Each process counts for itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Callers by token are as many as the issuer names. Above this number, full buckets are dropped.
_MAX_BUCKETS = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float
    rate_per_s: float
    burst: int

    def fill(self, now_s: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s


class RateLimiter:
    """The token buckets of all callers."""

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
        bucket.fill(now_s)
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate_per_s
        bucket.tokens -= 1
        return 0.0

    def _new(self, account: str, now_s: float, rate_per_s: float, burst: int) -> _Bucket:
        if len(self._buckets) >= _MAX_BUCKETS:
            for each in self._buckets.values():
                each.fill(now_s)
            self._buckets = {key: each for key, each in self._buckets.items() if each.tokens < each.burst}
        bucket = self._buckets[account] = _Bucket(float(burst), now_s, rate_per_s, burst)
        return bucket
