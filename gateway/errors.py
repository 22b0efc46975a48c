"""The one table that says what each refusal means on the wire. Nothing below this file knows an HTTP number.

A class without an entry of its own has that of its nearest parent; `tests/gateway/test_errors.py` demands an entry for
every class that can be raised. What is not in the table at all is our bug: 500.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

from billing import errors as billing
from billing.money import format_usd_short
from gateway import refusals
from gateway.media import errors as media
from gateway.tenants import errors as tenants
from inference import errors as inference


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a refusal means: HTTP status, `type` and `code` of the product pages, and whether to send it again."""

    status: int
    type: str
    code: str
    retryable: bool = False


def _invalid(code: str, status: int = 400) -> Meaning:
    return Meaning(status, "invalid_request_error", code)


def _key(code: str) -> Meaning:
    return Meaning(401, "authentication_error", code)


def _forbidden(code: str) -> Meaning:
    return Meaning(403, "permission_error", code)


def _failed(code: str) -> Meaning:
    return Meaning(500, "server_error", code, retryable=True)


def _busy(code: str) -> Meaning:
    return Meaning(503, "service_unavailable", code, retryable=True)


_OUR_BUG = _failed("internal_error")

MEANINGS: Mapping[type[Exception], Meaning] = MappingProxyType(
    {
        refusals.RequestInvalid: _invalid("invalid_request"),
        refusals.PictureMissing: _invalid("picture_missing"),
        refusals.BodyTooLarge: _invalid("body_too_large", 413),
        refusals.ModelUnknown: Meaning(404, "not_found", "model_not_found"),
        refusals.PathUnknown: Meaning(404, "not_found", "path_not_found"),
        refusals.PaymentsNotConfigured: Meaning(404, "not_found", "payments_not_configured"),
        refusals.Overloaded: _busy("overloaded"),
        refusals.ShuttingDown: _busy("shutting_down"),
        media.MediaError: _invalid("invalid_picture"),
        media.PictureTooLarge: _invalid("picture_too_large"),
        media.PictureUnreadable: _invalid("picture_unreadable"),
        media.AddressBlocked: _invalid("address_blocked"),
        media.DownloadFailed: _invalid("download_failed"),
        media.LinkRefused: Meaning(404, "not_found", "link_invalid"),
        tenants.AuthenticationRefused: _key("invalid_api_key"),
        tenants.KeyMissing: _key("missing_api_key"),
        tenants.KeyExpired: _key("expired_api_key"),
        tenants.KeyRevoked: _key("revoked_api_key"),
        tenants.PermissionRefused: _forbidden("permission_denied"),
        tenants.OrganizationSuspended: _forbidden("organization_suspended"),
        tenants.ModelNotAllowed: _forbidden("model_not_allowed"),
        tenants.ScopeMissing: _forbidden("scope_missing"),
        tenants.AdminRequired: _forbidden("admin_required"),
        tenants.OrganizationKeyRequired: _forbidden("organization_key_required"),
        tenants.TenantNotFound: Meaning(404, "not_found", "not_found"),
        tenants.SettingRejected: _invalid("invalid_setting"),
        tenants.CredentialRejected: _invalid("provider_credential_rejected"),
        tenants.RateLimited: Meaning(429, "rate_limit_error", "rate_limit_exceeded", retryable=True),
        tenants.AuthUnavailable: _busy("authentication_unavailable"),
        billing.InsufficientCredits: Meaning(402, "insufficient_credits", "insufficient_credits"),
        billing.SpendCapReached: Meaning(402, "insufficient_credits", "spend_cap_reached"),
        billing.WalletFrozen: Meaning(402, "insufficient_credits", "wallet_frozen"),
        billing.PaymentUnknown: Meaning(404, "not_found", "topup_not_found"),
        billing.ReferenceConflict: Meaning(422, "idempotency_error", "idempotency_key_reused"),
        billing.SavedCardMissing: _invalid("saved_card_missing"),
        billing.WebhookRejected: _invalid("signature_invalid"),
        billing.PaymentsUnavailable: _busy("payments_unavailable"),
        billing.LedgerUnavailable: _busy("ledger_unavailable"),
        billing.BillingError: _OUR_BUG,
        inference.InputRejected: _invalid("input_rejected"),
        inference.TaskUnsupported: _invalid("not_supported"),
        inference.CredentialRefused: Meaning(500, "server_error", "provider_credential_refused"),
        inference.ModelUnavailable: _busy("model_unavailable"),
        inference.ProviderSaturated: _busy("saturated"),
        inference.ProviderFailed: _failed("provider_failed"),
        inference.ProviderTimedOut: _failed("provider_timed_out"),
        inference.AllDeploymentsFailed: _failed("all_deployments_failed"),
        inference.InferenceError: _OUR_BUG,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A refusal ready to be rendered in a dialect's own shape."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    task_part: str | None = None  # the part of the task at fault, for the dialect to name its parameter
    retryable: bool = False
    retry_after_seconds: float | None = None


def describe(error: Exception) -> Problem:
    """The meaning of `error` with the words for the customer. Anything unknown is a 500 that gives nothing away."""
    meaning = meaning_of(type(error))
    known = meaning is not None and meaning is not _OUR_BUG
    meaning = meaning or _OUR_BUG
    return Problem(
        status=meaning.status,
        type=meaning.type,
        code=meaning.code,
        message=_message(error) if known else "Something went wrong on our side. You were not charged.",
        param=getattr(error, "param", None) if known else None,
        task_part=error.field if isinstance(error, inference.InputRejected) else None,
        retryable=meaning.retryable,
        retry_after_seconds=_retry_after(error, meaning),
    )


def meaning_of(kind: type[BaseException]) -> Meaning | None:
    """The entry of a class or of its nearest parent that has one."""
    return next((MEANINGS[parent] for parent in kind.__mro__ if parent in MEANINGS), None)


def http_problem(status: int, message: str | None = None) -> Problem:
    """The problem for a status that the framework itself raised."""
    words = message or HTTPStatus(status).phrase
    if status in (404, 405):
        return Problem(status=404, type="not_found", code="path_not_found", message=words)
    if status >= 500:
        return Problem(status=500, type="server_error", code="internal_error", message=words, retryable=True)
    return Problem(status=status, type="invalid_request_error", code="invalid_request", message=words)


_WORDS: Mapping[type[Exception], str] = MappingProxyType(
    {
        billing.WalletFrozen: "Spending from this wallet is stopped while a payment is in dispute.",
        billing.PaymentUnknown: "There is no such top-up.",
        billing.ReferenceConflict: "This Idempotency-Key was used for another top-up. Send a new one for a new top-up.",
        billing.SavedCardMissing: "There is no saved card. Top up once with 'save_card': true and set this again.",
        billing.WebhookRejected: "This is not a message that Stripe has signed now.",
        billing.PaymentsUnavailable: "The payment service does not answer. Send the same call again in a moment.",
        billing.LedgerUnavailable: "The wallet cannot be reached right now. Send the call again in a moment.",
    }
)
"""Of refusals whose own message is not meant for customers."""


def _message(error: Exception) -> str:
    match error:
        case billing.InsufficientCredits():
            return (
                f"This call costs {format_usd_short(error.needed_micros)} and your wallet has "
                f"{format_usd_short(error.available_micros)} available. Top up and send it again."
            )
        case billing.SpendCapReached():
            return (
                f"This call costs {format_usd_short(error.needed_micros)} and this key has used "
                f"{format_usd_short(error.spent_micros)} of its cap of {format_usd_short(error.cap_micros)}. "
                "Raise the cap or use another key."
            )
        case _:
            return _WORDS.get(type(error)) or getattr(error, "message", None) or "The request was refused."


def _retry_after(error: Exception, meaning: Meaning) -> float | None:
    seconds = getattr(error, "retry_after_seconds", None)
    if seconds is None and meaning.retryable and meaning.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return 1.0
    return None if seconds is None else float(seconds)
