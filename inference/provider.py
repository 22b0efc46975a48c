"""What the router asks of a provider."""

from dataclasses import dataclass
from typing import Protocol

from inference.task import SegmentResult, SegmentTask


class Provider(Protocol):
    """Somebody who can segment pictures: the pool of this installation, or an upstream."""

    async def segment(self, task: SegmentTask, *, deadline: float) -> SegmentResult:
        """Do `task` before `deadline` (seconds on the event loop's monotonic clock).

        Raises InputRejected, ProviderFailed, ProviderTimedOut, ProviderSaturated or ModelUnavailable, nothing else.
        """
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


@dataclass(frozen=True, slots=True)
class Deployment:
    """One provider under the name that logs and predictions know it by, e.g. "pool"."""

    name: str
    provider: Provider
