"""Why a segmentation could not be delivered.

InferenceError
├── InputRejected          the caller has to change the picture or the prompt
├── ModelUnavailable       no deployment offers the model (now, or at all on this installation)
├── ProviderFailed         it was tried and went wrong
│   └── ProviderTimedOut
├── ProviderSaturated      refused before any work began; try again later
│   └── AllDeploymentsSaturated
└── AllDeploymentsFailed   every deployment of the model was tried; carries each cause
"""

from collections.abc import Mapping


class InferenceError(Exception):
    """Base of everything this room raises on purpose; `message` is fit for the customer's eyes."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InputRejected(InferenceError):
    """The picture or prompt cannot be processed. `field` names the part of the task at fault, e.g. "picture"."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ModelUnavailable(InferenceError):
    """No deployment offers this model at present; `retry_after_seconds` is None where waiting will not help."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ProviderFailed(InferenceError):
    """The provider tried and failed, or answered something unusable."""


class ProviderTimedOut(ProviderFailed):
    """No answer inside the deadline; the work may or may not have been done."""


class ProviderSaturated(InferenceError):
    """The provider refused for lack of capacity; the work certainly did not start."""

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class AllDeploymentsSaturated(ProviderSaturated):
    """No deployment had room; `causes` maps its name to what it answered."""

    def __init__(self, causes: Mapping[str, InferenceError], *, retry_after_seconds: float) -> None:
        super().__init__("Every deployment of this model is busy.", retry_after_seconds=retry_after_seconds)
        self.causes = dict(causes)


class AllDeploymentsFailed(InferenceError):
    """Each deployment was tried in vain; `causes` maps its name to what it answered."""

    def __init__(self, causes: Mapping[str, InferenceError]) -> None:
        super().__init__("Every deployment of this model failed.")
        self.causes = dict(causes)
