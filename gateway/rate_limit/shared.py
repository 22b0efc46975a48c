"""A rate limiter that all gateways share through Redis.

The checks of one process that wait at the same moment travel in one script call. When Redis does not answer, each
process limits on its own to its share (limit / processes): never an error, never unlimited. What Redis admitted is
noted in the local share too, so that an outage does not hand out a fresh minute; and for a minute after Redis is back
each check says what this process knows to be in its buckets, in case Redis lost its memory.

One Redis primary (with replicas if wanted), not a Redis Cluster: a batch spans the slots of many organizations.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from structlog.typing import FilteringBoundLogger

from gateway.rate_limit.gcra import Bucket, RateLimitState, describe
from gateway.rate_limit.local import LocalRateLimiter

SCRIPT = Path(__file__).with_name("gcra.lua").read_text()
COMMAND_TIMEOUT_SECONDS = 0.05
PROBE_TIMEOUT_SECONDS = 1.0
PROBE_INTERVAL_SECONDS = 1.0
FAILURES_TO_OPEN = 3
BATCH_MAXIMUM = 256
WAITING_MAXIMUM = 4_096
CONNECTIONS_MAXIMUM = 4
RESTORE_SECONDS = 60.0

_log: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Check:
    buckets: Sequence[Bucket]
    cost: int
    answer: asyncio.Future[RateLimitState]


class RedisRateLimiter:
    """Exact over all processes while Redis answers within `command_timeout_seconds`; see the module for when not."""

    def __init__(
        self,
        redis: Redis,
        *,
        processes: int,
        command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
        probe_interval_seconds: float = PROBE_INTERVAL_SECONDS,
        clock_seconds: Callable[[], float] = time.monotonic,
        log: FilteringBoundLogger = _log,
    ) -> None:
        """`processes` share the limits while Redis is out; `clock_seconds` times probes, never limits."""
        self._redis = redis
        self._processes = processes
        self._command_timeout_seconds = command_timeout_seconds
        self._probe_interval_seconds = probe_interval_seconds
        self._clock = clock_seconds
        self._log = log
        self._share = LocalRateLimiter()
        self._script_sha = ""
        self._waiting: list[_Check] = []
        self._pump: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._failures = 0
        self._degraded = False
        self._probe_after = 0.0
        self._restore_until = 0.0

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        processes: int,
        command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
        probe_interval_seconds: float = PROBE_INTERVAL_SECONDS,
    ) -> Self:
        """Connect to redis:// or rediss://. An unreachable Redis is no error: it is used as soon as it answers."""
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAXIMUM,
            timeout=command_timeout_seconds,
            socket_connect_timeout=PROBE_TIMEOUT_SECONDS,
            socket_timeout=max(PROBE_TIMEOUT_SECONDS, command_timeout_seconds),
            retry=Retry(NoBackoff(), 0),
        )
        limiter = cls(
            Redis.from_pool(pool),
            processes=processes,
            command_timeout_seconds=command_timeout_seconds,
            probe_interval_seconds=probe_interval_seconds,
        )
        await limiter.probe()
        return limiter

    @property
    def degraded(self) -> bool:
        """Whether this process limits on its own because Redis does not answer."""
        return self._degraded

    async def take(self, buckets: Sequence[Bucket], cost: int = 1) -> RateLimitState:
        """See RateLimiter."""
        if self._degraded:
            self._probe_when_due()
            return self._take_share(buckets, cost)
        if len(self._waiting) >= WAITING_MAXIMUM:
            return self._take_share(buckets, cost)
        check = _Check(buckets, cost, asyncio.get_running_loop().create_future())
        self._waiting.append(check)
        if self._pump is None:
            self._pump = asyncio.create_task(self._send_waiting())
        return await check.answer

    async def probe(self) -> None:
        """Ask Redis whether it can decide; leaves or enters the degraded state. Takes a second at most."""
        self._probe_after = self._clock() + self._probe_interval_seconds
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                self._script_sha = await self._redis.script_load(SCRIPT)
                await self._evaluate([], [])
        except Exception as error:  # whatever it is, calls go on without Redis
            self._enter_degraded(error)
            return
        if self._degraded:
            self._degraded = False
            self._restore_until = self._clock() + RESTORE_SECONDS
            self._log.info("rate_limit_redis_back")
        self._failures = 0

    async def aclose(self) -> None:
        """Let waiting checks finish, then close the connections."""
        for task in (self._pump, self._probe):
            if task is not None:
                await asyncio.wait([task])
        await self._redis.aclose()

    async def _send_waiting(self) -> None:
        """Decide everything that waits, batch after batch; ends when nothing does."""
        try:
            while self._waiting:
                batch = [check for check in self._waiting[:BATCH_MAXIMUM] if not check.answer.done()]
                del self._waiting[:BATCH_MAXIMUM]
                await self._decide(batch)
        finally:
            self._pump = None

    async def _decide(self, batch: Sequence[_Check]) -> None:
        states: list[RateLimitState] | None = None
        if not self._degraded:
            try:
                async with asyncio.timeout(self._command_timeout_seconds):
                    states = await self._ask(batch)
                self._failures = 0
            except Exception as error:  # whatever it is, those who wait need an answer
                self._failures += 1
                if self._failures >= FAILURES_TO_OPEN:
                    self._enter_degraded(error)
        for index, check in enumerate(batch):
            if states is None:
                state = self._take_share(check.buckets, check.cost)
            else:
                state = states[index]
                if state.allowed:
                    self._share.record(self._shares(check.buckets), check.cost)
            if not check.answer.done():
                check.answer.set_result(state)

    async def _ask(self, batch: Sequence[_Check]) -> list[RateLimitState]:
        """One script call for the whole batch."""
        restoring = self._clock() < self._restore_until
        distinct = {bucket.name: bucket for check in batch for bucket in check.buckets}
        positions = {name: position for position, name in enumerate(distinct, start=1)}
        arguments: list[int] = []
        for bucket, share in zip(distinct.values(), self._shares(list(distinct.values())), strict=True):
            arguments += (bucket.requests_per_minute, self._share.level(share) if restoring else 0)
        for check in batch:
            arguments += (check.cost, len(check.buckets))
            arguments += (positions[bucket.name] for bucket in check.buckets)
        numbers = iter(await self._evaluate(list(distinct), arguments))
        states = []
        for check in batch:
            allowed = next(numbers) == 1
            levels = [next(numbers) for _ in check.buckets]
            states.append(describe(check.buckets, levels, check.cost, allowed=allowed))
        return states

    async def _evaluate(self, keys: list[str], arguments: list[int]) -> list[int]:
        if not self._script_sha:
            self._script_sha = await self._redis.script_load(SCRIPT)
        parameters: list[Any] = [*keys, *arguments]
        try:
            answer = await self._redis.evalsha(self._script_sha, len(keys), *parameters)
        except NoScriptError:
            answer = await self._redis.eval(SCRIPT, len(keys), *parameters)
        return cast("list[int]", answer)

    def _take_share(self, buckets: Sequence[Bucket], cost: int) -> RateLimitState:
        return self._share.take_now(self._shares(buckets), cost)

    def _shares(self, buckets: Sequence[Bucket]) -> list[Bucket]:
        return [
            replace(bucket, requests_per_minute=max(1, bucket.requests_per_minute // self._processes))
            for bucket in buckets
        ]

    def _enter_degraded(self, error: Exception) -> None:
        self._probe_after = self._clock() + self._probe_interval_seconds
        if not self._degraded:
            self._degraded = True
            self._log.warning("rate_limit_redis_out", error=type(error).__name__, processes=self._processes)

    def _probe_when_due(self) -> None:
        if self._probe is None and self._clock() >= self._probe_after:
            self._probe = asyncio.create_task(self.probe())
            self._probe.add_done_callback(self._end_probe)

    def _end_probe(self, _: asyncio.Task[None]) -> None:
        self._probe = None
