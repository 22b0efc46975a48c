"""Why a caller is refused before any work begins.

TenantError
├── AuthenticationRefused      the key does not tell who is calling
│   ├── KeyMissing
│   ├── KeyMalformed
│   ├── KeyUnknown
│   ├── KeyExpired
│   └── KeyRevoked
├── PermissionRefused          we know who is calling, and they may not do this
│   ├── OrganizationSuspended
│   ├── ModelNotAllowed
│   ├── ScopeMissing
│   ├── AdminRequired
│   └── OrganizationKeyRequired
├── TenantNotFound
│   ├── OrganizationUnknown
│   ├── KeyNotFound
│   └── CredentialNotFound
├── SettingRejected            a name, limit, scope, cap or expiry that cannot be stored
├── CredentialRejected         a provider key that its provider does not accept, or that is attached already
├── RateLimited                too many calls this minute
└── AuthUnavailable            keys cannot be looked up at present

Messages are fit for the customer's eyes and never contain a key. None of these knows an HTTP number.
"""

from gateway.rate_limit import RateLimitState

KEYS_GUIDE = "Send it as 'Authorization: Bearer sk-aig-…'."


class TenantError(Exception):
    """Base; `param` names the field of the request at fault, if it is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class AuthenticationRefused(TenantError):
    """The key does not tell who is calling."""


class KeyMissing(AuthenticationRefused):
    """No Authorization header."""

    def __init__(self) -> None:
        super().__init__(f"This call needs an API key. {KEYS_GUIDE}")


class KeyMalformed(AuthenticationRefused):
    """The header holds no well-formed key: wrong scheme, prefix, length or checksum."""

    def __init__(self) -> None:
        super().__init__(
            "This is not one of our API keys: they begin with 'sk-aig-' and have 56 characters. "
            f"Check that the key was copied whole. {KEYS_GUIDE}"
        )


class KeyUnknown(AuthenticationRefused):
    """Well-formed, but no such key was issued."""

    def __init__(self) -> None:
        super().__init__("This API key is not known here. Check that it belongs to this gateway, or create a new one.")


class KeyExpired(AuthenticationRefused):
    """The key's time is over."""

    def __init__(self) -> None:
        super().__init__("This API key has expired. Create a new one.")


class KeyRevoked(AuthenticationRefused):
    """The key was revoked."""

    def __init__(self) -> None:
        super().__init__("This API key was revoked. Create a new one.")


class PermissionRefused(TenantError):
    """The caller is known and may not do this."""


class OrganizationSuspended(PermissionRefused):
    """The operator has suspended the organization."""

    def __init__(self) -> None:
        super().__init__("This organization is suspended. Contact support.")


class ModelNotAllowed(PermissionRefused):
    """The key is restricted to other models."""


class ScopeMissing(PermissionRefused):
    """The key lacks the scope for this action."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key lacks the scope '{scope}'. Use a key that has it.")


class AdminRequired(PermissionRefused):
    """A customer's key on a route of the operator."""

    def __init__(self) -> None:
        super().__init__("This call needs an admin key ('ak-aig-…').")


class OrganizationKeyRequired(PermissionRefused):
    """An admin key on a route of customers."""

    def __init__(self) -> None:
        super().__init__(
            "This is an admin key, which belongs to no organization. Use an API key of an organization ('sk-aig-…')."
        )


class TenantNotFound(TenantError):
    """No such record, or it is somebody else's."""


class OrganizationUnknown(TenantNotFound):
    """No such organization."""

    def __init__(self) -> None:
        super().__init__("There is no such organization.")


class KeyNotFound(TenantNotFound):
    """The organization has no key with this id."""

    def __init__(self) -> None:
        super().__init__("There is no such API key in this organization.")


class CredentialNotFound(TenantNotFound):
    """The organization has no provider credential with this id."""

    def __init__(self) -> None:
        super().__init__("There is no such provider credential in this organization.")


class CredentialRejected(TenantError):
    """A provider key that cannot be attached: the provider does not accept it, or it is attached already."""


class SettingRejected(TenantError):
    """A name, limit, scope, cap or expiry that cannot be stored; the message says what can."""


class RateLimited(TenantError):
    """Too many calls this minute; `state` has the limit that was met."""

    def __init__(self, state: RateLimitState) -> None:
        whose = "this API key" if state.scope == "key" else f"this {state.scope}"
        super().__init__(
            f"Rate limit reached: {state.limit} requests per minute for {whose}. "
            "Wait as long as the Retry-After header says, or ask for a higher limit."
        )
        self.state = state
        self.retry_after_seconds = state.retry_after_seconds or 0.0


class AuthUnavailable(TenantError):
    """Keys cannot be looked up because the database does not answer; says nothing about the key."""

    def __init__(self, retry_after_seconds: float = 1.0) -> None:
        super().__init__("API keys cannot be checked at the moment. Try again shortly.")
        self.retry_after_seconds = retry_after_seconds
