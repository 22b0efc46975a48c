"""How a rate limit is told to clients.

`x-ratelimit-*` are OpenAI's names and formats (https://platform.openai.com/docs/guides/rate-limits); `RateLimit-Policy`
and `RateLimit` follow draft-ietf-httpapi-ratelimit-headers-10.
"""

import math

from gateway.rate_limit.gcra import RateLimitState

WINDOW_SECONDS = 60


def rate_limit_headers(state: RateLimitState) -> dict[str, str]:
    """Headers of every answer to a counted call; `retry-after` (1 to 60 whole seconds) only if it was refused."""
    reset_seconds = math.ceil(state.reset_seconds)
    headers = {
        "x-ratelimit-limit-requests": str(state.limit),
        "x-ratelimit-remaining-requests": str(state.remaining),
        "x-ratelimit-reset-requests": _duration(reset_seconds),
        "ratelimit-policy": f'"{state.scope}";q={state.limit};w={WINDOW_SECONDS}',
        "ratelimit": f'"{state.scope}";r={state.remaining};t={reset_seconds}',
    }
    if state.retry_after_seconds is not None:
        headers["retry-after"] = str(min(WINDOW_SECONDS, max(1, math.ceil(state.retry_after_seconds))))
    return headers


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
