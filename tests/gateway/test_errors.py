"""The one table of refusals: nothing that a room can raise is missing from it, and it says what was agreed."""

import inspect
import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from billing import errors as billing
from gateway import refusals
from gateway.dialects.openai_shape import render_problem
from gateway.errors import MEANINGS, Meaning, describe, http_problem, meaning_of
from gateway.media import errors as media
from gateway.rate_limit import RateLimitState
from gateway.tenants import errors as tenants
from inference import errors as inference

ROOMS = (refusals, media, tenants, billing, inference)

PERMANENT = {inference.CredentialRefused}
"""Failures on the provider's side that the customer has to do something about."""
RETRIED = {429, 500, 503}
TYPES = {
    400: {"invalid_request_error"},
    401: {"authentication_error"},
    402: {"insufficient_credits"},
    403: {"permission_error"},
    404: {"not_found"},
    413: {"invalid_request_error"},
    422: {"idempotency_error"},
    429: {"rate_limit_error"},
    500: {"server_error"},
    503: {"service_unavailable"},
}

AGREED: dict[type[Exception], int] = {
    refusals.RequestInvalid: 400,
    refusals.PictureMissing: 400,
    media.PictureTooLarge: 400,
    media.PictureUnreadable: 400,
    media.AddressBlocked: 400,
    media.DownloadFailed: 400,
    inference.InputRejected: 400,
    inference.TaskUnsupported: 400,
    tenants.CredentialRejected: 400,
    tenants.KeyMissing: 401,
    tenants.KeyMalformed: 401,
    tenants.KeyUnknown: 401,
    tenants.KeyExpired: 401,
    tenants.KeyRevoked: 401,
    billing.InsufficientCredits: 402,
    billing.SpendCapReached: 402,
    tenants.ScopeMissing: 403,
    tenants.ModelNotAllowed: 403,
    tenants.AdminRequired: 403,
    tenants.OrganizationKeyRequired: 403,
    tenants.OrganizationSuspended: 403,
    refusals.ModelUnknown: 404,
    refusals.PathUnknown: 404,
    tenants.KeyNotFound: 404,
    tenants.CredentialNotFound: 404,
    tenants.OrganizationUnknown: 404,
    media.LinkRefused: 404,
    billing.PaymentUnknown: 404,
    billing.ReferenceConflict: 422,
    billing.SavedCardMissing: 400,
    billing.WebhookRejected: 400,
    billing.PaymentsUnavailable: 503,
    refusals.PaymentsNotConfigured: 404,
    refusals.BodyTooLarge: 413,
    tenants.RateLimited: 429,
    inference.CredentialRefused: 500,
    inference.ProviderFailed: 500,
    inference.ProviderTimedOut: 500,
    inference.AllDeploymentsFailed: 500,
    inference.ProviderSaturated: 503,
    inference.AllDeploymentsSaturated: 503,
    inference.ModelUnavailable: 503,
    billing.LedgerUnavailable: 503,
    billing.PaymentsUnavailable: 503,
    tenants.AuthUnavailable: 503,
    refusals.Overloaded: 503,
    refusals.ShuttingDown: 503,
}
"""The statuses of the product pages, written down a second time."""

OURS = {
    billing.BillingError,
    billing.AmountInvalid,
    billing.WalletUnknown,
    billing.HoldError,
    billing.HoldConflict,
    billing.HoldUnknown,
    billing.HoldResolvedDifferently,
    billing.PaymentUnpaid,
    billing.RefundTooLarge,
    billing.CardRefused,
    billing.AuthenticationNeeded,
    billing.PaymentsRejected,
    inference.InferenceError,
}
"""Refusals that no customer can cause over HTTP: reaching one of them is a bug of the gateway."""


def raised_by(room: ModuleType) -> Iterator[type[Exception]]:
    """Every class of the room's file, whether or not anything derives from it."""
    for _, kind in inspect.getmembers(room, inspect.isclass):
        if issubclass(kind, Exception) and kind.__module__ == room.__name__:
            yield kind


def children(kind: type[Exception]) -> Iterator[type[Exception]]:
    """The class and all that derive from it, wherever they stand."""
    yield kind
    for child in kind.__subclasses__():
        yield from children(child)


KINDS = sorted({kind for room in ROOMS for kind in raised_by(room)}, key=lambda kind: kind.__qualname__)
ABSTRACT: set[type[Exception]] = {refusals.GatewayRefusal, tenants.TenantError}
"""Bases without a meaning of their own: whoever adds a class below them has to decide on one."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ABSTRACT], ids=lambda kind: kind.__name__)
def test_every_refusal_has_a_row_of_its_own_or_of_its_parent(kind: type[Exception]) -> None:
    meaning = meaning_of(kind)
    assert meaning is not None
    assert meaning.type in TYPES[meaning.status]
    assert meaning.retryable == (meaning.status in RETRIED and kind not in PERMANENT)
    assert meaning.code


def test_no_refusal_is_declared_outside_the_files_that_are_looked_through() -> None:
    roots = (refusals.GatewayRefusal, media.MediaError, tenants.TenantError, billing.BillingError)
    everywhere = {kind for root in (*roots, inference.InferenceError) for kind in children(root)}
    assert {kind for kind in everywhere if not kind.__module__.startswith("tests.")} == set(KINDS)


@pytest.mark.parametrize(("kind", "status"), AGREED.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_statuses_are_those_that_were_agreed(kind: type[Exception], status: int) -> None:
    meaning = meaning_of(kind)
    assert meaning is not None
    assert meaning.status == status


def test_what_only_a_bug_of_ours_can_raise_is_a_500_that_gives_nothing_away() -> None:
    bugs = {kind for kind in KINDS if (meaning := meaning_of(kind)) is not None and meaning.code == "internal_error"}
    assert bugs == OURS


def test_two_refusals_with_one_code_mean_the_same() -> None:
    by_code: dict[str, set[Meaning]] = {}
    for meaning in MEANINGS.values():
        by_code.setdefault(meaning.code, set()).add(meaning)
    assert {code: meanings for code, meanings in by_code.items() if len(meanings) > 1} == {}


MADE: dict[type[Exception], Callable[[], Exception]] = {
    tenants.ScopeMissing: lambda: tenants.ScopeMissing("segment"),
    tenants.RateLimited: lambda: tenants.RateLimited(
        RateLimitState("organization", limit=3, remaining=0, reset_seconds=40.0, retry_after_seconds=12.5)
    ),
    tenants.AuthUnavailable: tenants.AuthUnavailable,
    billing.BillingError: lambda: billing.BillingError("Change this."),
    billing.AmountInvalid: lambda: billing.AmountInvalid("Change this."),
    billing.InsufficientCredits: lambda: billing.InsufficientCredits(available_micros=4_999, needed_micros=5_000),
    billing.SpendCapReached: lambda: billing.SpendCapReached(
        cap_micros=12_000, spent_micros=10_000, needed_micros=5_000
    ),
    billing.PaymentUnknown: lambda: billing.PaymentUnknown("Change this."),
    billing.PaymentUnpaid: lambda: billing.PaymentUnpaid("Change this."),
    billing.RefundTooLarge: lambda: billing.RefundTooLarge(refundable_micros=5_000),
    billing.SavedCardMissing: lambda: billing.SavedCardMissing("Change this."),
    billing.WebhookRejected: lambda: billing.WebhookRejected("Change this."),
    billing.CardRefused: lambda: billing.CardRefused("no", code="card_declined", payment_intent_id=None),
    billing.AuthenticationNeeded: lambda: billing.AuthenticationNeeded("no", code="x", payment_intent_id=None),
    billing.PaymentsUnavailable: lambda: billing.PaymentsUnavailable("hunter2"),
    billing.PaymentsRejected: lambda: billing.PaymentsRejected("hunter2"),
    billing.WalletFrozen: lambda: billing.WalletFrozen(uuid4()),
    billing.WalletUnknown: lambda: billing.WalletUnknown(uuid4()),
    inference.TaskUnsupported: lambda: inference.TaskUnsupported({"upstream-7": ["scores"]}),
    inference.AllDeploymentsFailed: lambda: inference.AllDeploymentsFailed(
        {"upstream-7": inference.ProviderFailed("host db.internal:5432 password=hunter2")}
    ),
    inference.AllDeploymentsSaturated: lambda: inference.AllDeploymentsSaturated(
        {"upstream-7": inference.ProviderSaturated("host db.internal:5432 password=hunter2")}, retry_after_seconds=4.0
    ),
}


def made(kind: type[Exception]) -> Exception:
    """An instance as its room would raise it."""
    if kind in MADE:
        return MADE[kind]()
    arguments: list[Any] = [
        uuid4() if parameter.name == "hold_id" else "Change this."
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return kind(*arguments)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ABSTRACT], ids=lambda kind: kind.__name__)
def test_every_refusal_becomes_an_answer_that_an_sdk_understands(kind: type[Exception]) -> None:
    problem = describe(made(kind))
    answer = render_problem(problem)
    error = json.loads(bytes(answer.body))["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["message"]
    repeated = answer.status_code in RETRIED and kind not in PERMANENT
    assert answer.headers["x-should-retry"] == ("true" if repeated else "false")
    assert ("retry-after" in answer.headers) == (repeated and answer.status_code in (429, 503))
    if "retry-after" in answer.headers:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert "hunter2" not in bytes(answer.body).decode()
    assert "upstream-7" not in bytes(answer.body).decode()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("postgresql://gateway:hunter2@db.internal/books"),
        KeyError("sk-aig-hunter2"),
        TimeoutError("hunter2"),
        OSError(28, "No space left on device", "/var/lib/hunter2"),
        billing.HoldUnknown(uuid4(), "hunter2"),
        billing.PaymentsRejected("hunter2"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_in_the_table_is_a_500_that_gives_nothing_away(error: Exception) -> None:
    problem = describe(error)
    assert (problem.status, problem.type, problem.code) == (500, "server_error", "internal_error")
    assert problem.retryable
    assert problem.param is None
    assert "hunter2" not in problem.message


def test_money_is_told_in_dollars() -> None:
    assert "$0.005 and your wallet has $0.004999" in describe(made(billing.InsufficientCredits)).message
    cap = describe(made(billing.SpendCapReached)).message
    assert "$0.01 of its cap of $0.012" in cap
    assert "micros" not in cap


def test_the_part_at_fault_is_named_as_the_caller_sent_it() -> None:
    rejected = inference.InputRejected("Cut short.", field="picture")
    assert json.loads(bytes(render_problem(describe(rejected)).body))["error"]["param"] == "image"
    invalid = refusals.RequestInvalid("No.", param="box_prompts[0].x_min")
    assert describe(invalid).param == "box_prompts[0].x_min"


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 500, 503])
def test_the_framework_s_own_refusals_have_the_same_shape(status: int) -> None:
    problem = http_problem(status)
    assert problem.status == {405: 404, 503: 500}.get(status, status)
    assert problem.type in TYPES.get(problem.status, {"invalid_request_error"})
    assert problem.retryable == (problem.status in RETRIED)
