"""Circuit breakers and the retry budget, against a clock that the test turns."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inference.breaker import (
    BREAKERS_MAX,
    PAUSE_SECONDS,
    WINDOW_SECONDS,
    Breakers,
    CircuitBreaker,
    Outcome,
    Permit,
    RetryBudget,
    State,
)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(breaker: CircuitBreaker, outcome: Outcome, times: int = 1) -> None:
    for _ in range(times):
        permit = breaker.acquire()
        assert permit is not None
        breaker.record(permit, outcome)


def is_closed(breaker: CircuitBreaker) -> bool:
    return breaker.state is State.CLOSED


def test_half_of_twenty_opens_it_and_fewer_do_not() -> None:
    breaker = CircuitBreaker(Clock())
    record(breaker, Outcome.FINE, 10)
    record(breaker, Outcome.FAILED, 9)
    assert is_closed(breaker)
    record(breaker, Outcome.FAILED)
    assert not is_closed(breaker)
    assert breaker.acquire() is None


def test_nineteen_failures_are_too_few_to_judge_but_five_timeouts_are_not() -> None:
    breaker = CircuitBreaker(Clock())
    record(breaker, Outcome.FAILED, 19)
    assert breaker.state is State.CLOSED
    slow = CircuitBreaker(Clock())
    record(slow, Outcome.FINE, 100)
    record(slow, Outcome.TIMED_OUT, 5)
    assert slow.state is State.OPEN


def test_what_says_nothing_about_its_health_does_not_count() -> None:
    breaker = CircuitBreaker(Clock())
    record(breaker, Outcome.SAYS_NOTHING, 500)
    record(breaker, Outcome.FAILED, 19)
    assert breaker.state is State.CLOSED


def test_failures_are_forgotten_after_the_window() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    record(breaker, Outcome.FAILED, 19)
    clock.now += WINDOW_SECONDS + 1
    record(breaker, Outcome.FAILED)
    assert breaker.state is State.CLOSED


def test_one_probe_decides_and_others_wait() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    early = breaker.acquire()
    record(breaker, Outcome.TIMED_OUT, 5)
    clock.now += PAUSE_SECONDS
    probe = breaker.acquire()
    assert probe is not None
    assert breaker.acquire() is None
    assert early is not None
    breaker.record(early, Outcome.FINE)  # began before it opened: no proof that it is well again
    assert breaker.acquire() is None
    breaker.record(probe, Outcome.FAILED)
    assert not is_closed(breaker)
    clock.now += PAUSE_SECONDS
    second = breaker.acquire()
    assert second is not None
    breaker.record(second, Outcome.FINE)
    assert breaker.state is State.CLOSED
    assert breaker.failure_share == 0.0


def test_a_probe_that_was_given_up_lets_another_one_try() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    record(breaker, Outcome.TIMED_OUT, 5)
    clock.now += PAUSE_SECONDS
    probe = breaker.acquire()
    assert probe is not None
    breaker.record(probe, Outcome.SAYS_NOTHING)
    assert breaker.acquire() is not None


def test_breakers_are_bounded() -> None:
    breakers = Breakers(Clock())
    first = breakers.of("first")
    for index in range(BREAKERS_MAX):
        breakers.of(str(index))
    assert breakers.of("first") is not first


def test_the_budget_is_a_tenth_of_the_calls_and_a_floor_for_quiet_times() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    assert sum(budget.take() for _ in range(1_000)) == 100
    clock.now += 11
    for _ in range(5_000):
        budget.count_call()
    assert sum(budget.take() for _ in range(5_000)) == 600


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls, ends and time: never more than one call on probation, never shut for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(self.clock)
        self.running: list[Permit] = []

    @rule()
    def begin(self) -> None:
        state = self.breaker.state
        permit = self.breaker.acquire()
        if permit is not None:
            assert permit.is_probe == (state is State.HALF_OPEN)
            self.running.append(permit)
        else:
            assert state is not State.CLOSED

    @precondition(lambda self: bool(self.running))
    @rule(which=st.integers(0, 1_000), outcome=st.sampled_from(list(Outcome)))
    def end(self, which: int, outcome: Outcome) -> None:
        permit = self.running.pop(which % len(self.running))
        was_open = self.breaker.state is not State.CLOSED
        self.breaker.record(permit, outcome)
        if was_open and self.breaker.state is State.CLOSED:
            assert permit.is_probe
            assert outcome is Outcome.FINE

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def one_probe_at_most(self) -> None:
        assert sum(permit.is_probe for permit in self.running) <= 1

    @invariant()
    def waiting_always_ends(self) -> None:
        assert self.breaker.retry_after_seconds <= PAUSE_SECONDS
        assert 0.0 <= self.breaker.failure_share <= 1.0


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
