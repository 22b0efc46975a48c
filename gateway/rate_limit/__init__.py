"""Requests per minute, counted exactly: in this process, or in Redis for all processes."""

from gateway.rate_limit.gcra import Bucket, RateLimitState
from gateway.rate_limit.headers import rate_limit_headers
from gateway.rate_limit.limiter import RateLimiter
from gateway.rate_limit.local import LocalRateLimiter
from gateway.rate_limit.shared import RedisRateLimiter
from gateway.settings import Settings

__all__ = [
    "Bucket",
    "LocalRateLimiter",
    "RateLimitState",
    "RateLimiter",
    "RedisRateLimiter",
    "open_rate_limiter",
    "rate_limit_headers",
]


async def open_rate_limiter(settings: Settings) -> RateLimiter:
    """The shared limiter where a Redis is configured, else one for this process; close it with `aclose`."""
    if settings.redis_url is None:
        return LocalRateLimiter()
    url = settings.redis_url.get_secret_value()
    return await RedisRateLimiter.connect(url, processes=settings.gateway_processes)
