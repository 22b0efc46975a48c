"""Why a segmentation could not be delivered.

InferenceError
├── InputRejected            the caller has to change the picture or the prompt
│   └── TaskUnsupported      no deployment that may be used can do what was asked
├── ModelUnavailable         no deployment offers the model (now, or at all on this installation)
├── CredentialRefused        the provider does not serve this key: unknown, locked, or without money
├── ProviderFailed           it was tried and went wrong
│   ├── JobFailed
│   └── ProviderTimedOut
├── ProviderSaturated        refused before any work began; try again later
│   ├── ProviderUnreachable  nothing answers there
│   ├── DeploymentPaused     not asked, because it failed too often lately
│   └── AllDeploymentsSaturated
└── AllDeploymentsFailed     every deployment of the model was tried; carries each cause
"""

from collections.abc import Mapping, Sequence


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


class TaskUnsupported(InputRejected):
    """Nobody was asked, because no deployment can do all of it; `lacking` maps its name to what it cannot do.

    `who` is told to the customer, what the installation calls its deployments is not.
    """

    def __init__(self, lacking: Mapping[str, Sequence[str]], *, who: str = "The providers of this model") -> None:
        listed = ", ".join(dict.fromkeys(feature for features in lacking.values() for feature in features))
        super().__init__(f"{who} cannot do this: {listed}. Leave it out, or use another model.")
        self.lacking = {name: tuple(features) for name, features in lacking.items()}


class ModelUnavailable(InferenceError):
    """No deployment offers this model at present; `retry_after_seconds` is None where waiting will not help."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class CredentialRefused(InferenceError):
    """The provider refused the key before any work began: 401, 403, or no money left. `provider` is its name."""

    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(f"{provider} refused the provider key of this call: {reason}")
        self.provider = provider
        self.reason = reason


class ProviderFailed(InferenceError):
    """The provider tried and failed, or answered something unusable."""


class JobFailed(ProviderFailed):
    """A job that a provider had taken has ended badly; asking about it again would not change that."""


class ProviderTimedOut(ProviderFailed):
    """No answer inside the deadline; the work may or may not have been done."""


class ProviderSaturated(InferenceError):
    """The provider refused for lack of capacity; the work certainly did not start."""

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ProviderUnreachable(ProviderSaturated):
    """No connection came about, so the work certainly did not start."""


class DeploymentPaused(ProviderSaturated):
    """Its circuit breaker is open; it is asked again after `retry_after_seconds`."""


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
