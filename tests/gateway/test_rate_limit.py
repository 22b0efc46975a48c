"""Limits within one process, against a clock that the test turns and a model that anyone can check."""

from dataclasses import dataclass
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rate_limit import Bucket, LocalRateLimiter, RateLimitState, rate_limit_headers
from gateway.tenants.errors import RateLimited

ORGANIZATION = UUID(int=1)


def key_bucket(limit: int, number: int = 0) -> Bucket:
    return Bucket(kind="key", id=UUID(int=number), group=ORGANIZATION, requests_per_minute=limit)


def organization_bucket(limit: int) -> Bucket:
    return Bucket(kind="organization", id=ORGANIZATION, group=ORGANIZATION, requests_per_minute=limit)


class Clock:
    """Microseconds that pass when told."""

    def __init__(self) -> None:
        self.microseconds = 5_000_000

    def __call__(self) -> int:
        return self.microseconds


class TokenBuckets:
    """The naive model: fractions of tokens that grow back, no cleverness."""

    def __init__(self) -> None:
        self._tokens: dict[int, Fraction] = {}

    def advance(self, microseconds: int, limits: dict[int, int]) -> None:
        for number, tokens in self._tokens.items():
            grown = Fraction(microseconds * limits[number], 60_000_000)
            self._tokens[number] = min(Fraction(limits[number]), tokens + grown)

    def take(self, numbers: list[int], cost: int, limits: dict[int, int]) -> bool:
        tokens = {number: self._tokens.setdefault(number, Fraction(limits[number])) for number in numbers}
        if any(left < cost for left in tokens.values()):
            return False
        for number in numbers:
            self._tokens[number] -= cost
        return True

    def whole(self, number: int) -> int:
        return int(self._tokens[number])


@dataclass(frozen=True)
class Step:
    microseconds: int
    numbers: list[int]
    cost: int


steps = st.lists(
    st.builds(
        Step,
        microseconds=st.one_of(st.just(0), st.integers(0, 2_000_000), st.integers(0, 90_000_000)),
        numbers=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
        cost=st.integers(1, 3),
    ),
    max_size=80,
)


@given(limits=st.tuples(*[st.integers(1, 50)] * 3), steps=steps)
def test_it_decides_as_the_naive_model(limits: tuple[int, int, int], steps: list[Step]) -> None:
    clock, model, limit_of = Clock(), TokenBuckets(), dict(enumerate(limits))
    limiter = LocalRateLimiter(clock_microseconds=clock)
    for step in steps:
        clock.microseconds += step.microseconds
        model.advance(step.microseconds, limit_of)
        state = limiter.take_now([key_bucket(limit_of[number], number) for number in step.numbers], step.cost)
        assert state.allowed == model.take(step.numbers, step.cost, limit_of)
        if state.allowed:
            assert state.remaining == min(model.whole(number) for number in step.numbers)


@given(limit=st.integers(1, 20_000), waits=st.lists(st.integers(0, 100_000), max_size=200))
def test_no_span_admits_more_than_the_burst_and_the_rate(limit: int, waits: list[int]) -> None:
    clock = Clock()
    limiter = LocalRateLimiter(clock_microseconds=clock)
    admitted: list[int] = []
    for wait in waits:
        clock.microseconds += wait
        if limiter.take_now([key_bucket(limit)]).allowed:
            admitted.append(clock.microseconds)
    for first in range(len(admitted)):
        span = admitted[-1] - admitted[first]
        assert len(admitted) - first <= limit + Fraction(span * limit, 60_000_000)


@given(limit=st.integers(1, 1_000_000), wait=st.integers(0, 59_000_000))
def test_a_refusal_tells_the_moment_of_the_next_admission(limit: int, wait: int) -> None:
    clock = Clock()
    limiter = LocalRateLimiter(clock_microseconds=clock)
    assert limiter.take_now([key_bucket(limit)], cost=limit).allowed
    clock.microseconds += wait
    refused = limiter.take_now([key_bucket(limit)], cost=limit)
    if refused.retry_after_seconds is None:
        return
    clock.microseconds += round(refused.retry_after_seconds * 1_000_000) - 1
    assert not limiter.take_now([key_bucket(limit)], cost=limit).allowed
    clock.microseconds += 1
    assert limiter.take_now([key_bucket(limit)], cost=limit).allowed


def test_sixty_at_once_and_then_one_each_second() -> None:
    clock = Clock()
    limiter = LocalRateLimiter(clock_microseconds=clock)
    assert [limiter.take_now([key_bucket(60)]).allowed for _ in range(200)].count(True) == 60
    for _ in range(5):
        clock.microseconds += 1_000_000
        assert [limiter.take_now([key_bucket(60)]).allowed for _ in range(10)].count(True) == 1


def test_a_full_organization_costs_the_key_nothing() -> None:
    clock = Clock()
    limiter = LocalRateLimiter(clock_microseconds=clock)
    both = [organization_bucket(2), key_bucket(10)]
    assert [limiter.take_now(both).allowed for _ in range(50)].count(True) == 2
    refused = limiter.take_now(both)
    assert (refused.scope, refused.limit, refused.remaining) == ("organization", 2, 0)
    assert limiter.take_now([key_bucket(10)]).remaining == 7


def test_the_tightest_bucket_is_told() -> None:
    limiter = LocalRateLimiter(clock_microseconds=Clock())
    state = limiter.take_now([organization_bucket(100), key_bucket(60)])
    assert (state.scope, state.limit, state.remaining) == ("key", 60, 59)


def test_a_lowered_limit_holds_and_does_not_lock_out() -> None:
    clock = Clock()
    limiter = LocalRateLimiter(clock_microseconds=clock)
    for _ in range(600):
        limiter.take_now([key_bucket(600)])
    refused = limiter.take_now([key_bucket(6)])
    assert refused.retry_after_seconds == 10
    clock.microseconds += 10_000_000
    assert limiter.take_now([key_bucket(6)]).allowed
    assert not limiter.take_now([key_bucket(6)]).allowed


def test_a_clock_that_goes_back_neither_frees_nor_freezes() -> None:
    clock = Clock()
    limiter = LocalRateLimiter(clock_microseconds=clock)
    assert limiter.take_now([key_bucket(2)]).allowed
    clock.microseconds -= 4_000_000
    assert limiter.take_now([key_bucket(2)]).allowed
    assert not limiter.take_now([key_bucket(2)]).allowed
    clock.microseconds += 30_000_000
    assert limiter.take_now([key_bucket(2)]).allowed


def test_idle_buckets_are_forgotten_and_busy_ones_bounded() -> None:
    clock = Clock()
    limiter = LocalRateLimiter(clock_microseconds=clock, buckets_maximum=100)
    for number in range(1000):
        limiter.take_now([key_bucket(5, number)])
    assert len(limiter) == 100
    clock.microseconds += 60_000_000
    for _ in range(50):
        limiter.take_now([key_bucket(60, 7)])
    assert len(limiter) == 1


@pytest.mark.parametrize("limit", [0, -1, 10_000_001])
def test_a_limit_that_cannot_be_kept_exactly_is_a_programming_error(limit: int) -> None:
    with pytest.raises(ValueError, match="requests_per_minute"):
        key_bucket(limit)


def test_headers_of_an_admitted_call() -> None:
    state = RateLimitState("key", limit=600, remaining=599, reset_seconds=0.1, retry_after_seconds=None)
    assert rate_limit_headers(state) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-reset-requests": "1s",
        "ratelimit-policy": '"key";q=600;w=60',
        "ratelimit": '"key";r=599;t=1',
    }


@pytest.mark.parametrize(("wait", "told"), [(0.001, "1"), (1.0, "1"), (1.2, "2"), (60.0, "60"), (75.0, "60")])
def test_retry_after_is_whole_seconds_from_1_to_60(wait: float, told: str) -> None:
    state = RateLimitState("organization", limit=1, remaining=0, reset_seconds=60.0, retry_after_seconds=wait)
    headers = rate_limit_headers(state)
    assert headers["retry-after"] == told
    assert headers["x-ratelimit-reset-requests"] == "1m0s"


def test_the_refusal_says_which_limit_it_was() -> None:
    state = RateLimitState("key", limit=60, remaining=0, reset_seconds=60.0, retry_after_seconds=0.9)
    refusal = RateLimited(state)
    assert "60 requests per minute for this API key" in refusal.message
    assert refusal.retry_after_seconds == 0.9
