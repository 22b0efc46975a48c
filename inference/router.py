"""Walk a model's deployments inside one deadline: who can, the customer's keys first, then by order and health."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from inference.breaker import Breakers, CircuitBreaker, Outcome, RetryBudget, State
from inference.errors import (
    AllDeploymentsFailed,
    AllDeploymentsSaturated,
    CredentialRefused,
    DeploymentPaused,
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
    ProviderUnreachable,
    TaskUnsupported,
)
from inference.provider import Deployment, PictureMaker, missing
from inference.task import GenerateTask, SegmentResult, Task


@dataclass(frozen=True, slots=True)
class Routed:
    """A result and the name of the deployment that gave it."""

    result: SegmentResult
    deployment: str


class Observer(Protocol):
    """Hears of every call that a deployment was asked to do."""

    async def ended(self, deployment: Deployment, error: InferenceError | None) -> None:
        """One call ended: well (None) or with `error`. Must not raise."""
        ...


class Silent:
    """An observer that does nothing."""

    async def ended(self, deployment: Deployment, error: InferenceError | None) -> None:
        """See Observer."""


class Router:
    """Knows which deployments serve which model and how they have been doing."""

    def __init__(
        self,
        deployments: Mapping[str, Sequence[Deployment]],
        *,
        breakers: Breakers | None = None,
        budget: RetryBudget | None = None,
        observer: Observer | None = None,
        switched_off: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """`switched_off` tells the names of deployments that are not to be used at the moment."""
        self._deployments = {model: tuple(chain) for model, chain in deployments.items()}
        self._breakers = breakers or Breakers()
        self._budget = budget or RetryBudget()
        self._observer = observer or Silent()
        self._switched_off = switched_off

    def deployments(self, model: str) -> tuple[Deployment, ...]:
        """The installation's deployments of `model` that are switched on, in the order they would be asked now."""
        off = self._switched_off()
        chain = [d for d in self._deployments.get(model, ()) if d.name not in off]
        return tuple(sorted(chain, key=lambda d: (d.priority, *self._illness(d))))

    def can_do(self, task: Task, own: Sequence[Deployment] = ()) -> bool:
        """Whether any deployment, of `own` or of the installation, declares that it does such tasks."""
        chain = (*own, *self.deployments(task.model))
        return len(missing(chain, task)) < len(chain)

    def health(self) -> list[dict[str, Any]]:
        """Each deployment of the installation with its switch and its breaker, for people."""
        off = self._switched_off()
        seen: dict[str, dict[str, Any]] = {}
        for model, chain in self._deployments.items():
            for deployment in chain:
                breaker = self._breakers.of(deployment.health_key)
                report = seen.setdefault(
                    deployment.name,
                    {
                        "name": deployment.name,
                        "enabled": deployment.name not in off,
                        "breaker": breaker.state.value,
                        "failure_share": round(breaker.failure_share, 3),
                        "models": [],
                    },
                )
                report["models"].append(model)
        return list(seen.values())

    async def perform(self, task: Task, *, deadline: float, own: Sequence[Deployment] | None = None) -> Routed:
        """The first deployment's answer; of `own` (the customer's keys) if given, else of the installation's.

        A deployment that certainly did not start is passed over: it cannot do the task, is paused, has no room, lacks
        the model, or refuses its key. One that tried and failed ends the walk, because repeating work that may have
        been done would be paid for twice. Second tries also end with the retry budget.

        Raises InputRejected; TaskUnsupported if no deployment can do the task; ModelUnavailable without any
        deployment; CredentialRefused if a customer's key was refused and nobody else served; the only cause if there
        was just one; else AllDeploymentsSaturated if none had room, or AllDeploymentsFailed.
        """
        chain = self.deployments(task.model) if own is None else tuple(own)
        if not chain:
            raise ModelUnavailable(f"No deployment serves the model '{task.model}' on this installation.")
        lacking = missing(chain, task)
        causes: dict[str, InferenceError] = {}
        tries = 0
        self._budget.count_call()
        for deployment in chain:
            if deployment.name in lacking:
                continue
            if tries and not self._budget.take():
                break
            breaker = self._breakers.of(deployment.health_key)
            permit = breaker.acquire()
            if permit is None:
                causes[deployment.name] = _paused(deployment, breaker)
                continue
            tries += 1
            outcome = Outcome.SAYS_NOTHING
            try:
                result = await _ask(deployment, task, deadline)
                outcome = Outcome.FINE
                await self._observer.ended(deployment, None)
                return Routed(result, deployment.name)
            except InferenceError as error:
                outcome = _outcome(error)
                await self._observer.ended(deployment, error)
                if isinstance(error, InputRejected):
                    raise
                causes[deployment.name] = _for_the_customer(deployment, error)
                if not certainly_not_started(error):
                    break
            finally:
                breaker.record(permit, outcome)
        if not causes:
            raise TaskUnsupported(lacking) if own is None else TaskUnsupported(lacking, who=", ".join(lacking))
        raise _verdict(causes)

    def _illness(self, deployment: Deployment) -> tuple[int, float]:
        """Sorts among equals: paused last, then by how much failed lately, in steps of a tenth."""
        breaker = self._breakers.of(deployment.health_key)
        return (0 if breaker.state is State.CLOSED else 1), round(breaker.failure_share, 1)


async def _ask(deployment: Deployment, task: Task, deadline: float) -> SegmentResult:
    """The provider's answer; whatever it raises beyond its promise is a failure of that provider."""
    if asyncio.get_running_loop().time() >= deadline:
        raise ProviderTimedOut("The deadline of the call had passed.")
    if isinstance(task, GenerateTask):
        maker = cast(PictureMaker, deployment.provider)  # its capabilities said so
        return await maker.generate(task, deadline=deadline, credential=deployment.credential)
    return await deployment.provider.segment(task, deadline=deadline, credential=deployment.credential)


def _outcome(error: InferenceError) -> Outcome:
    match error:
        case ProviderTimedOut():
            return Outcome.TIMED_OUT
        case ProviderFailed() | ProviderUnreachable() | CredentialRefused():
            return Outcome.FAILED
        case _:
            return Outcome.SAYS_NOTHING


def certainly_not_started(error: InferenceError) -> bool:
    """Whether the work may be done elsewhere without being done, and paid for, twice."""
    if isinstance(error, AllDeploymentsFailed):
        return all(certainly_not_started(cause) for cause in error.causes.values())
    return isinstance(error, ProviderSaturated | ModelUnavailable | CredentialRefused | TaskUnsupported)


def _paused(deployment: Deployment, breaker: CircuitBreaker) -> DeploymentPaused:
    return DeploymentPaused(
        f"{deployment.name} is left alone for a moment, because it failed too often.",
        retry_after_seconds=breaker.retry_after_seconds,
    )


def _for_the_customer(deployment: Deployment, error: InferenceError) -> InferenceError:
    """A refusal of the customer's key is for the customer; one of ours is our failure and none of their business."""
    if isinstance(error, CredentialRefused) and not deployment.is_customers:
        return ProviderFailed(f"{deployment.name} is not available to this installation at the moment.")
    return error


def _verdict(causes: Mapping[str, InferenceError]) -> InferenceError:
    """What the walk as a whole comes to."""
    refused = [cause for cause in causes.values() if isinstance(cause, CredentialRefused)]
    if refused and all(certainly_not_started(cause) for cause in causes.values()):
        return refused[0]
    if len(causes) == 1:
        return next(iter(causes.values()))
    waits = _waits(causes.values())
    if len(waits) == len(causes):
        return AllDeploymentsSaturated(causes, retry_after_seconds=min(waits))
    return AllDeploymentsFailed(causes)


def _waits(causes: Iterable[InferenceError]) -> list[float]:
    return [cause.retry_after_seconds for cause in causes if isinstance(cause, ProviderSaturated)]
