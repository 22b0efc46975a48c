"""Leave a deployment alone that keeps failing, and spend only so much on trying again elsewhere."""

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

WINDOW_SECONDS = 30.0
CALLS_MIN = 20
FAILURE_SHARE = 0.5
TIMEOUTS_MAX = 5
PAUSE_SECONDS = 10.0
OUTCOMES_MAX = 1_000
BREAKERS_MAX = 10_000

BUDGET_WINDOW_SECONDS = 10.0
RETRY_SHARE = 0.1
FREE_RETRIES_PER_SECOND = 10.0
BUDGET_EVENTS_MAX = 100_000

Clock = Callable[[], float]


class Outcome(StrEnum):
    """How a call to a deployment ended, as far as its health goes."""

    FINE = "fine"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    SAYS_NOTHING = "says_nothing"  # refused for reasons of the call, saturated, or given up by us


class State(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave for one call; a probe's end decides whether the breaker closes."""

    is_probe: bool


class CircuitBreaker:
    """Opens when at least half of at least 20 calls of the last 30 s failed, or 5 of them timed out.

    After ten seconds one single call may try (half-open); if it goes well the breaker closes with a clean memory, else
    it stays open for ten more. Each permit must be followed by one `record`.
    """

    def __init__(self, clock_seconds: Clock = time.monotonic) -> None:
        self._clock = clock_seconds
        self._outcomes: deque[tuple[float, Outcome]] = deque()
        self._counts: Counter[Outcome] = Counter()  # of what is in the deque, so that no call has to count it
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """Closed, open, or half-open: the pause is over and one call may try."""
        if self._opened_at is None:
            return State.CLOSED
        return State.HALF_OPEN if self._clock() >= self._opened_at + PAUSE_SECONDS else State.OPEN

    @property
    def retry_after_seconds(self) -> float:
        """How long it will certainly stay shut."""
        if self._opened_at is None:
            return 0.0
        return max(1.0, self._opened_at + PAUSE_SECONDS - self._clock())

    @property
    def failure_share(self) -> float:
        """Failed calls among those of the last 30 s; 0 without any."""
        self._forget_old()
        return self._failures() / len(self._outcomes) if self._outcomes else 0.0

    def acquire(self) -> Permit | None:
        """Leave for one call to go through now, or None."""
        match self.state:
            case State.CLOSED:
                return Permit(is_probe=False)
            case State.HALF_OPEN if not self._probing:
                self._probing = True
                return Permit(is_probe=True)
        return None

    def record(self, permit: Permit, outcome: Outcome) -> None:
        """How the call with this permit has ended."""
        if permit.is_probe:
            self._judge_probe(outcome)
            return
        if self._opened_at is not None or outcome is Outcome.SAYS_NOTHING:  # let through before it opened: too late
            return
        self._outcomes.append((self._clock(), outcome))
        self._counts[outcome] += 1
        self._forget_old()
        many_failed = len(self._outcomes) >= CALLS_MIN and self._failures() >= FAILURE_SHARE * len(self._outcomes)
        if many_failed or self._counts[Outcome.TIMED_OUT] >= TIMEOUTS_MAX:
            self._opened_at = self._clock()

    def _judge_probe(self, outcome: Outcome) -> None:
        self._probing = False
        if outcome is Outcome.FINE:
            self._opened_at = None
            self._outcomes.clear()
            self._counts.clear()
        elif outcome is not Outcome.SAYS_NOTHING:
            self._opened_at = self._clock()

    def _failures(self) -> int:
        return len(self._outcomes) - self._counts[Outcome.FINE]

    def _forget_old(self) -> None:
        oldest = self._clock() - WINDOW_SECONDS
        while self._outcomes and (self._outcomes[0][0] < oldest or len(self._outcomes) > OUTCOMES_MAX):
            self._counts[self._outcomes.popleft()[1]] -= 1


class Breakers:
    """One breaker for each deployment and credential; the 10,000 used last."""

    def __init__(self, clock_seconds: Clock = time.monotonic) -> None:
        self._clock = clock_seconds
        self._breakers: OrderedDict[str, CircuitBreaker] = OrderedDict()

    def of(self, key: str) -> CircuitBreaker:
        """The breaker under this key."""
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = CircuitBreaker(self._clock)
            if len(self._breakers) > BREAKERS_MAX:
                self._breakers.popitem(last=False)
        self._breakers.move_to_end(key)
        return breaker


class RetryBudget:
    """Second tries may be a tenth of the calls of the last ten seconds, and ten a second besides.

    The free ones keep a quiet installation alive whose first choice is down; the share keeps a busy one from doubling
    its load on what is left (after Finagle's RetryBudget).
    """

    def __init__(self, clock_seconds: Clock = time.monotonic) -> None:
        self._clock = clock_seconds
        self._calls: deque[float] = deque(maxlen=BUDGET_EVENTS_MAX)
        self._retries: deque[float] = deque(maxlen=BUDGET_EVENTS_MAX)

    def count_call(self) -> None:
        """A first try."""
        self._calls.append(self._clock())

    def take(self) -> bool:
        """Whether one more try is within the budget; if so it is spent."""
        now = self._clock()
        for events in (self._calls, self._retries):
            while events and events[0] < now - BUDGET_WINDOW_SECONDS:
                events.popleft()
        allowed = int(RETRY_SHARE * len(self._calls) + FREE_RETRIES_PER_SECOND * BUDGET_WINDOW_SECONDS)
        if len(self._retries) >= allowed:
            return False
        self._retries.append(now)
        return True
