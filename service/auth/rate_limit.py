"""A token bucket for each caller: so many requests a second, and a burst after a pause. Of this process alone.

Knows names and times. Does not know who they are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

#: People who come with tokens are as many as the issuer names; a bucket that is full again need not be kept.
_MOST_KEPT = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float
    rate_per_s: float
    burst: int

    def fill(self, now_s: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s


class Buckets:
    """The buckets of all callers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, name: str, rate_per_s: float, burst: int) -> float:
        """Take a token; 0.0 when there was one, else how long to wait for it, in seconds. A rate of 0 is no limit."""
        if rate_per_s <= 0:
            return 0.0
        now_s = self._clock()
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._new(name, now_s, rate_per_s, burst)
        bucket.rate_per_s, bucket.burst = rate_per_s, burst
        bucket.fill(now_s)
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate_per_s
        bucket.tokens -= 1
        return 0.0

    def _new(self, name: str, now_s: float, rate_per_s: float, burst: int) -> _Bucket:
        if len(self._buckets) >= _MOST_KEPT:
            for each in self._buckets.values():
                each.fill(now_s)
            self._buckets = {key: each for key, each in self._buckets.items() if each.tokens < each.burst}
        bucket = self._buckets[name] = _Bucket(float(burst), now_s, rate_per_s, burst)
        return bucket
