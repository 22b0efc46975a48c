"""Routing: who is asked, in which order, and what never happens, for any mix of deployments and failures."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.breaker import Breakers, RetryBudget
from inference.errors import (
    AllDeploymentsFailed,
    AllDeploymentsSaturated,
    CredentialRefused,
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
    ProviderUnreachable,
    TaskUnsupported,
)
from inference.provider import EVERYTHING, Capabilities, Credential, Deployment
from inference.router import Routed, Router, certainly_not_started
from inference.task import Mask, Prompt, SegmentResult, SegmentTask
from tests.inference.drawings import picture

MODEL = "m"
TASK = SegmentTask(model=MODEL, picture=picture(), prompt=Prompt(text="cat"))
RESULT = SegmentResult(masks=(Mask(rle="1 1", score=0.5, box=None),), width=10, height=10)

FAILURES: dict[str, InferenceError] = {
    "busy": ProviderSaturated("Busy.", retry_after_seconds=5.0),
    "gone": ProviderUnreachable("Gone."),
    "no model": ModelUnavailable("No model."),
    "refused": CredentialRefused("fal", "no"),
    "failed": ProviderFailed("Failed."),
    "slow": ProviderTimedOut("Slow."),
    "rejected": InputRejected("Rejected."),
}
MAY_GO_ON = {"busy", "gone", "no model", "refused"}


class Scripted:
    """A provider that always answers in the same way; `asked` counts."""

    def __init__(self, how: str, asked: list[str], name: str) -> None:
        self.how = how
        self.asked = asked
        self.name = name

    def capabilities(self, model: str) -> Capabilities | None:
        if self.how == "cannot":
            return Capabilities(
                **{name: getattr(EVERYTHING, name) for name in EVERYTHING.__slots__} | {"segments": False}
            )
        return EVERYTHING

    async def segment(
        self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        self.asked.append(self.name)
        if self.how in FAILURES:
            raise FAILURES[self.how]
        return RESULT


def chain_of(hows: Sequence[str], asked: list[str], *, own: bool = False) -> list[Deployment]:
    return [
        Deployment(
            name := f"{'own' if own else 'ours'}-{index}",
            Scripted(how, asked, name),
            Credential(name, "a secret", is_customers=own),
        )
        for index, how in enumerate(hows)
    ]


async def perform(router: Router, own: Sequence[Deployment] | None = None) -> Routed:
    deadline = asyncio.get_running_loop().time() + 10
    return await router.perform(TASK, deadline=deadline, own=own)


async def outcome_of(router: Router, own: Sequence[Deployment] | None) -> Routed | InferenceError:
    try:
        return await perform(router, own)
    except InferenceError as error:
        return error


@settings(max_examples=200, deadline=None)
@given(
    hows=st.lists(st.sampled_from(["fine", "cannot", *FAILURES]), min_size=1, max_size=6),
    is_own=st.booleans(),
)
def test_for_any_chain(hows: list[str], is_own: bool) -> None:
    asked: list[str] = []
    chain = chain_of(hows, asked, own=is_own)
    never_asked: list[str] = []
    ours = chain_of(["fine"], never_asked) if is_own else chain
    router = Router({MODEL: ours})
    able = [(f"{'own' if is_own else 'ours'}-{i}", how) for i, how in enumerate(hows) if how != "cannot"]
    expected: list[str] = []
    for name, how in able:
        expected.append(name)
        if how not in MAY_GO_ON:
            break
    outcome = asyncio.run(outcome_of(router, chain if is_own else None))
    last = dict(able)[asked[-1]] if asked else None
    assert isinstance(outcome, Routed) == (last == "fine")
    assert isinstance(outcome, TaskUnsupported) == (not able)
    if isinstance(outcome, InferenceError) and last in ("failed", "slow"):
        assert not certainly_not_started(outcome)
    assert asked == expected, "nobody twice, nobody after work that may have begun, nobody that cannot"
    assert never_asked == [], "our deployments are not part of a walk over the customer's keys"


@pytest.mark.parametrize(
    ("hows", "expected"),
    [
        (["busy", "gone"], AllDeploymentsSaturated),
        (["busy", "no model"], AllDeploymentsFailed),
        (["busy", "failed"], AllDeploymentsFailed),
        (["busy"], ProviderSaturated),
        (["slow"], ProviderTimedOut),
        (["cannot", "busy"], ProviderSaturated),
        (["cannot", "cannot"], TaskUnsupported),
        (["rejected", "fine"], InputRejected),
    ],
)
async def test_the_verdict_over_all(hows: list[str], expected: type[InferenceError]) -> None:
    with pytest.raises(expected) as raised:
        await perform(Router({MODEL: chain_of(hows, [])}))
    assert type(raised.value) is expected
    if isinstance(raised.value, AllDeploymentsFailed | AllDeploymentsSaturated):
        assert set(raised.value.causes) == {f"ours-{i}" for i in range(len(hows))}
    if isinstance(raised.value, AllDeploymentsSaturated):
        assert raised.value.retry_after_seconds == 1.0


async def test_a_customers_refused_key_is_told_unless_another_may_have_begun() -> None:
    router = Router({MODEL: []})
    with pytest.raises(CredentialRefused):
        await perform(router, chain_of(["refused", "busy"], [], own=True))
    with pytest.raises(AllDeploymentsFailed):
        await perform(router, chain_of(["refused", "slow"], [], own=True))


async def test_our_refused_key_is_no_business_of_the_customer() -> None:
    with pytest.raises(ProviderFailed) as raised:
        await perform(Router({MODEL: chain_of(["refused"], [])}))
    assert "refused" not in str(raised.value)


async def test_a_deployment_that_keeps_failing_is_left_alone_and_its_neighbour_under_another_key_is_not() -> None:
    asked: list[str] = []
    [first], fine = chain_of(["gone"], asked), Scripted("fine", asked, "second")
    second = Deployment("ours-0", fine, Credential("another", "another secret"), priority=1)
    router = Router({MODEL: [first, second]})
    for _ in range(30):
        assert (await perform(router)).result == RESULT
    assert asked.count("ours-0") == 20
    assert asked.count("second") == 30


async def test_equal_priorities_are_ordered_by_health() -> None:
    asked: list[str] = []
    breakers = Breakers()
    router = Router({MODEL: chain_of(["gone", "fine"], asked)}, breakers=breakers)
    for _ in range(3):
        await perform(router)
    assert asked == ["ours-0", "ours-1", "ours-1", "ours-1"]


async def test_what_is_switched_off_is_not_asked() -> None:
    asked: list[str] = []
    off: set[str] = {"ours-0"}
    router = Router({MODEL: chain_of(["fine", "fine"], asked)}, switched_off=lambda: off)
    await perform(router)
    off.add("ours-1")
    with pytest.raises(ModelUnavailable):
        await perform(router)
    off.clear()
    await perform(router)
    assert asked == ["ours-1", "ours-0"]
    assert [report["enabled"] for report in router.health()] == [True, True]


async def test_second_tries_end_with_the_budget() -> None:
    asked: list[str] = []
    budget = RetryBudget()
    while budget.take():
        pass
    router = Router({MODEL: chain_of(["busy", "fine"], asked)}, budget=budget)
    with pytest.raises(ProviderSaturated):
        await perform(router)
    assert asked == ["ours-0"]


async def test_a_call_that_is_given_up_leaves_the_breaker_usable() -> None:
    class Silent(Scripted):
        async def segment(
            self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
        ) -> SegmentResult:
            await asyncio.Event().wait()
            raise AssertionError

    router = Router({MODEL: [Deployment("silent", Silent("fine", [], "silent"))]})
    calling = asyncio.create_task(perform(router))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert router.health()[0]["breaker"] == "closed"
    assert router.health()[0]["failure_share"] == 0.0
