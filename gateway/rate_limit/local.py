"""A rate limiter in the memory of one process."""

import time
from collections.abc import Callable, Sequence

from gateway.rate_limit.gcra import REQUEST, Bucket, RateLimitState, describe, drained, fits

BUCKETS_MAXIMUM = 100_000
EVICTED_PER_TAKE = 4
FULL_DRAIN_MICROSECONDS = REQUEST
"""A bucket holds one minute's worth, so after a minute untouched it is empty, whatever its limit."""


def monotonic_microseconds() -> int:
    """The process's clock for limits."""
    return time.monotonic_ns() // 1_000


class LocalRateLimiter:
    """Exact within its process; memory is bounded by `buckets_maximum`, about 300 bytes each.

    Buckets are kept in the order of their last touch. Every call drops up to four that have drained since; past the
    maximum the one longest untouched goes, drained or not.
    """

    def __init__(
        self,
        *,
        clock_microseconds: Callable[[], int] = monotonic_microseconds,
        buckets_maximum: int = BUCKETS_MAXIMUM,
    ) -> None:
        self._clock = clock_microseconds
        self._buckets_maximum = buckets_maximum
        self._levels: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._levels)

    async def take(self, buckets: Sequence[Bucket], cost: int = 1) -> RateLimitState:
        """See RateLimiter."""
        return self.take_now(buckets, cost)

    def take_now(self, buckets: Sequence[Bucket], cost: int = 1) -> RateLimitState:
        """`take` without a coroutine."""
        now = self._clock()
        levels = [self._level(bucket, now) for bucket in buckets]
        allowed = all(
            fits(level, bucket.requests_per_minute, cost) for bucket, level in zip(buckets, levels, strict=True)
        )
        if allowed:
            levels = [level + cost * REQUEST for level in levels]
            for bucket, level in zip(buckets, levels, strict=True):
                self._store(bucket, level, now)
        return describe(buckets, levels, cost, allowed=allowed)

    def record(self, buckets: Sequence[Bucket], cost: int = 1) -> None:
        """Charge what somebody else has admitted already; a full bucket stays full."""
        now = self._clock()
        for bucket in buckets:
            level = min(self._level(bucket, now) + cost * REQUEST, bucket.requests_per_minute * REQUEST)
            self._store(bucket, level, now)

    def level(self, bucket: Bucket) -> int:
        """What is in a bucket now."""
        return self._level(bucket, self._clock())

    async def aclose(self) -> None:
        """Nothing to close."""

    def _level(self, bucket: Bucket, now: int) -> int:
        level, touched = self._levels.get(bucket.name, (0, now))
        return drained(level, bucket.requests_per_minute, now - touched)

    def _store(self, bucket: Bucket, level: int, now: int) -> None:
        self._levels.pop(bucket.name, None)
        self._levels[bucket.name] = (level, now)
        for _ in range(EVICTED_PER_TAKE):
            oldest = next(iter(self._levels))
            drained_since = self._levels[oldest][1] + FULL_DRAIN_MICROSECONDS <= now
            if not drained_since and len(self._levels) <= self._buckets_maximum:
                return
            del self._levels[oldest]
