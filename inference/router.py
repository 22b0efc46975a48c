"""Walk a model's deployments, in order, inside one deadline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.errors import (
    AllDeploymentsFailed,
    AllDeploymentsSaturated,
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderSaturated,
)
from inference.provider import Deployment
from inference.task import SegmentResult, SegmentTask


@dataclass(frozen=True, slots=True)
class Routed:
    """A result and the name of the deployment that gave it."""

    result: SegmentResult
    deployment: str


class Router:
    """Knows which deployments serve which model, first choice first."""

    def __init__(self, deployments: Mapping[str, Sequence[Deployment]]) -> None:
        self._deployments = {model: tuple(chain) for model, chain in deployments.items()}

    async def segment(self, task: SegmentTask, *, deadline: float) -> Routed:
        """Return the first deployment's answer.

        A deployment that certainly did not start (saturated, or without the model) is passed over; one that tried and
        failed ends the walk, because repeating work that may have been done would be paid for twice upstream.

        Raises InputRejected; ModelUnavailable without any deployment; the only cause if there was just one;
        else AllDeploymentsSaturated if none had room, or AllDeploymentsFailed.
        """
        chain = self._deployments.get(task.model, ())
        if not chain:
            raise ModelUnavailable(f"No deployment serves the model '{task.model}' on this installation.")
        causes: dict[str, InferenceError] = {}
        for deployment in chain:
            try:
                return Routed(await deployment.provider.segment(task, deadline=deadline), deployment.name)
            except InputRejected:
                raise
            except (ProviderSaturated, ModelUnavailable) as refusal:
                causes[deployment.name] = refusal
            except InferenceError as failure:
                causes[deployment.name] = failure
                break
        if len(causes) == 1:
            raise next(iter(causes.values()))
        waits = [cause.retry_after_seconds for cause in causes.values() if isinstance(cause, ProviderSaturated)]
        if len(waits) == len(causes):
            raise AllDeploymentsSaturated(causes, retry_after_seconds=min(waits))
        raise AllDeploymentsFailed(causes)

    async def aclose(self) -> None:
        """Close every provider once."""
        providers = {id(d.provider): d.provider for chain in self._deployments.values() for d in chain}
        for provider in providers.values():
            await provider.aclose()
