"""What the paid path asks of a limiter."""

from collections.abc import Sequence
from typing import Protocol

from gateway.rate_limit.gcra import Bucket, RateLimitState


class RateLimiter(Protocol):
    """Counts calls per minute; in this process or shared by all."""

    async def take(self, buckets: Sequence[Bucket], cost: int = 1) -> RateLimitState:
        """Charge `cost` requests to every bucket, or to none if one of them is full. Never raises, never waits long."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
