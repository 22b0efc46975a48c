"""The generic cell rate algorithm, exact in integers.

Written as the "continuous-state leaky bucket", the twin of virtual scheduling (ITU-T I.371 annex A): each admitted
request pours `REQUEST` into its bucket, the bucket runs out at `limit` per microsecond and holds `limit` requests. So a
limit of 60 admits 60 at once and then one each second, and in any span of t microseconds never more than
limit + limit x t / 60,000,000. All quantities are integers below 2**53, which keeps Lua's doubles exact too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

REQUEST = 60_000_000
"""What one request pours in; as many microseconds as a minute has, so that `limit` per microsecond runs out."""

MICROSECONDS = 1_000_000
LIMIT_MAXIMUM = 10_000_000
"""Requests per minute; times REQUEST it stays below 2**53."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One limit that a call counts against.

    `kind` is the word customers see ("key", "organization"), `id` whose bucket of that kind. Buckets of one call share
    their `group` and therefore their Redis slot.
    """

    kind: str
    id: UUID
    group: UUID
    requests_per_minute: int

    def __post_init__(self) -> None:
        if not 1 <= self.requests_per_minute <= LIMIT_MAXIMUM:
            raise ValueError(f"requests_per_minute must be 1 to {LIMIT_MAXIMUM}, not {self.requests_per_minute}")

    @property
    def name(self) -> str:
        """Tells this bucket from every other; the part in braces decides the slot."""
        return f"rl:{{{self.group.hex}}}:{self.kind}:{self.id.hex}"


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """What a call may be told about its limits: those of its tightest bucket.

    `reset_seconds`: until the whole limit is free again. `retry_after_seconds`: until this call would be admitted;
    None when it was.
    """

    scope: str
    limit: int
    remaining: int
    reset_seconds: float
    retry_after_seconds: float | None

    @property
    def allowed(self) -> bool:
        """Whether the call was admitted."""
        return self.retry_after_seconds is None


def drained(level: int, limit: int, elapsed_microseconds: int) -> int:
    """What is left of `level` after some time.

    A clock that went back drains nothing; a limit that was lowered meanwhile leaves the bucket full, not over-full.
    """
    return max(0, min(level, limit * REQUEST) - max(0, elapsed_microseconds) * limit)


def fits(level: int, limit: int, cost: int) -> bool:
    """Whether `cost` more requests go in."""
    return level + cost * REQUEST <= limit * REQUEST


def describe(buckets: Sequence[Bucket], levels: Sequence[int], cost: int, *, allowed: bool) -> RateLimitState:
    """The tightest bucket's state. `levels` are after the call when it was admitted, else as it found them."""
    wait: float | None = None
    if allowed:
        left = [_remaining(level, bucket.requests_per_minute) for bucket, level in zip(buckets, levels, strict=True)]
        index = left.index(min(left))
    else:
        waits = [
            -(-(level + cost * REQUEST - bucket.requests_per_minute * REQUEST) // bucket.requests_per_minute)
            for bucket, level in zip(buckets, levels, strict=True)
        ]
        index = waits.index(max(waits))
        wait = waits[index] / MICROSECONDS
    bucket, level = buckets[index], levels[index]
    return RateLimitState(
        scope=bucket.kind,
        limit=bucket.requests_per_minute,
        remaining=_remaining(level, bucket.requests_per_minute),
        reset_seconds=level / bucket.requests_per_minute / MICROSECONDS,
        retry_after_seconds=wait,
    )


def _remaining(level: int, limit: int) -> int:
    return max(0, (limit * REQUEST - level) // REQUEST)
