"""Stripe, and the only file that imports its library.

Amounts cross here: cents outside, micros inside. Keys of idempotency are made from the ids of our rows, so that a
repetition after a crash is the same request. Nothing here touches the database; nobody calls it in a transaction.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import stripe

from billing.errors import (
    AuthenticationNeeded,
    CardRefused,
    PaymentsRejected,
    PaymentsUnavailable,
    WebhookRejected,
)
from billing.money import MICROS_PER_CENT, Micros
from billing.payments import Payment

CURRENCY: Final = "usd"
API_RELEASE: Final = stripe.api_version.rpartition(".")[2]
"""Name of the API release that the library speaks; webhook endpoints have to be made with the same."""

TIMEOUT_SECONDS: Final = 20.0
NETWORK_RETRIES_MAX: Final = 2
PAGE: Final = 100
ITEMS_MAX: Final = 100_000
WEBHOOK_TOLERANCE_SECONDS: Final = 300
WEBHOOK_CLOCK_SKEW_SECONDS: Final = 60

Object = dict[str, Any]
"""One of Stripe's objects as plain JSON."""

_AUTHENTICATION_CODES: Final = frozenset({"authentication_required", "authentication_not_handled"})


def cents(micros: Micros) -> int:
    """Whole cents; the amounts of payments are never anything else."""
    whole, rest = divmod(micros, MICROS_PER_CENT)
    assert rest == 0, "payments are in whole cents"
    return whole


def micros(amount_cents: int) -> Micros:
    """Micros of an amount that Stripe names."""
    return amount_cents * MICROS_PER_CENT


@dataclass(frozen=True, slots=True)
class CheckoutSession:
    """A hosted page to pay at."""

    id: str
    url: str


class StripeClient:
    """What this product asks of Stripe. Every method raises PaymentsUnavailable or PaymentsRejected as their names say.

    `api_url` stands for Stripe's own address where a test server takes its place.
    """

    def __init__(
        self, secret_key: str, *, api_url: str | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._http = stripe.HTTPXClient(timeout=timeout_seconds)
        self._client = stripe.StripeClient(
            secret_key,
            http_client=self._http,
            max_network_retries=NETWORK_RETRIES_MAX,
            base_addresses={"api": api_url} if api_url is not None else {},
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def create_customer(self, owner_id: UUID) -> str:
        """The id of a customer for this owner."""
        with _mapped():
            customer = await self._client.v1.customers.create_async(
                {"metadata": {"owner_id": str(owner_id)}}, {"idempotency_key": f"customer-{owner_id}"}
            )
        return customer.id

    async def create_checkout(
        self, payment: Payment, *, customer_id: str, success_url: str, cancel_url: str
    ) -> CheckoutSession:
        """The hosted page of a payment: credit and fee as two lines, nothing adjustable."""
        metadata = {"payment_id": str(payment.id)}
        intent: stripe.params.checkout.SessionCreateParamsPaymentIntentData = {"metadata": metadata}
        if payment.save_card:
            intent["setup_future_usage"] = "off_session"
        lines = (("Credit", payment.credit_micros), ("Service fee (5 %)", payment.fee_micros))
        with _mapped():
            session = await self._client.v1.checkout.sessions.create_async(
                {
                    "mode": "payment",
                    "customer": customer_id,
                    "client_reference_id": str(payment.id),
                    "line_items": [
                        {
                            "quantity": 1,
                            "price_data": {
                                "currency": CURRENCY,
                                "unit_amount": cents(amount_micros),
                                "product_data": {"name": name},
                            },
                        }
                        for name, amount_micros in lines
                    ],
                    "allowed_payment_method_types": ["card"],
                    "allow_promotion_codes": False,
                    "payment_intent_data": intent,
                    "metadata": metadata,
                    "success_url": success_url,
                    "cancel_url": cancel_url,
                    "expires_at": int(payment.expires_at.timestamp()),
                },
                {"idempotency_key": f"checkout-{payment.id}"},
            )
        if session.url is None:
            raise PaymentsRejected("the checkout session has no page")
        return CheckoutSession(session.id, session.url)

    async def retrieve_checkout(self, session_id: str) -> Object:
        """A checkout session as it is now."""
        with _mapped():
            return _plain(await self._client.v1.checkout.sessions.retrieve_async(session_id))

    async def charge_saved_card(self, payment: Payment, *, customer_id: str, payment_method_id: str) -> Object:
        """Charge a saved card without its holder; the payment intent. Raises CardRefused and AuthenticationNeeded."""
        with _mapped():
            intent = await self._client.v1.payment_intents.create_async(
                {
                    "amount": cents(payment.total_micros),
                    "currency": CURRENCY,
                    "customer": customer_id,
                    "payment_method": payment_method_id,
                    "off_session": True,
                    "confirm": True,
                    "metadata": {"payment_id": str(payment.id)},
                },
                {"idempotency_key": f"auto-{payment.id}"},
            )
        return _plain(intent)

    async def find_payment_intent(self, customer_id: str, payment_id: UUID) -> Object | None:
        """The payment intent that carries this payment's id, among the customer's newest; None if there is none."""
        async for intent in self._all(self._client.v1.payment_intents, {"customer": customer_id}, items_max=PAGE):
            if intent["metadata"].get("payment_id") == str(payment_id):
                return intent
        return None

    async def create_refund(self, request_id: UUID, *, payment_intent_id: str, amount_micros: Micros) -> Object:
        """Refund part of a payment; the refund, which may still be pending. The request's id makes it happen once."""
        with _mapped():
            refund = await self._client.v1.refunds.create_async(
                {
                    "payment_intent": payment_intent_id,
                    "amount": cents(amount_micros),
                    "metadata": {"request_id": str(request_id)},
                },
                {"idempotency_key": f"refund-{request_id}"},
            )
        return _plain(refund)

    async def find_refund(self, payment_intent_id: str, request_id: UUID) -> Object | None:
        """The refund of this payment intent that carries the request's id; None if there is none."""
        refunds = self._all(self._client.v1.refunds, {"payment_intent": payment_intent_id})
        async for refund in refunds:
            if (refund["metadata"] or {}).get("request_id") == str(request_id):
                return refund
        return None

    async def balance_micros(self) -> Micros:
        """What Stripe holds for us in our currency, available or not yet."""
        with _mapped():
            balance = _plain(await self._client.v1.balance.retrieve_async())
        amounts = [*balance["available"], *balance["pending"]]
        return micros(sum(each["amount"] for each in amounts if each["currency"] == CURRENCY))

    def balance_transactions(self, *, since: datetime | None) -> AsyncIterator[Object]:
        """What moved Stripe's balance since then, newest first, each with the object behind it."""
        return self._all(self._client.v1.balance_transactions, _since(since) | {"expand": ["data.source"]})

    def disputes(self, *, since: datetime | None) -> AsyncIterator[Object]:
        """Disputes opened since then, newest first."""
        return self._all(self._client.v1.disputes, _since(since))

    async def _all(
        self, service: Any, parameters: Mapping[str, Any], *, items_max: int = ITEMS_MAX
    ) -> AsyncIterator[Object]:
        """Everything that a list has, up to `items_max`, page by page."""
        after: dict[str, str] = {}
        for _ in range(0, items_max, PAGE):
            with _mapped():
                page = _plain(await service.list_async({**parameters, **after, "limit": PAGE}))
            for item in page["data"]:
                yield item
            if not page["has_more"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}


def verify_event(
    payload: bytes, signature: str | None, secrets: Sequence[str], *, now: datetime | None = None
) -> Object:
    """The event in a webhook's raw body. Raises WebhookRejected.

    The signature must have been made with one of `secrets` (two while they change), at most
    WEBHOOK_TOLERANCE_SECONDS ago and not in the future. Source: https://docs.stripe.com/webhooks#verify-manually
    """
    now_seconds = int((now or datetime.now(UTC)).timestamp())
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(payload, signature, secret)
        except (stripe.SignatureVerificationError, UnicodeDecodeError):
            continue
        assert signature is not None, "an absent signature is not valid"
        signed_at = next(int(part[2:]) for part in signature.split(",") if part.startswith("t="))
        if not now_seconds - WEBHOOK_TOLERANCE_SECONDS <= signed_at <= now_seconds + WEBHOOK_CLOCK_SKEW_SECONDS:
            raise WebhookRejected("the signature is not of the present time")
        break
    else:
        raise WebhookRejected("the signature is not Stripe's")
    try:
        event = json.loads(payload)
        _ = event["id"], event["type"], int(event["created"]), dict(event["data"]["object"])
    except (ValueError, KeyError, TypeError) as error:
        raise WebhookRejected("the body is not an event") from error
    return dict(event)


def _since(since: datetime | None) -> dict[str, Any]:
    return {} if since is None else {"created": {"gte": int(since.timestamp())}}


def _plain(found: Any) -> Object:
    plain: Object = found.to_dict(recursive=True)
    return plain


@contextmanager
def _mapped() -> Iterator[None]:
    """Stripe's errors as ours, the most exact that fits."""
    try:
        yield
    except stripe.CardError as error:
        raise _refused(error) from error
    except (stripe.APIConnectionError, stripe.RateLimitError, stripe.TemporarySessionExpiredError) as error:
        raise PaymentsUnavailable("Stripe cannot be reached") from error
    except stripe.StripeError as error:
        status = error.http_status or 500
        if status >= 500 or status == 409:
            raise PaymentsUnavailable(f"Stripe answered {status}") from error
        raise PaymentsRejected(f"Stripe refused: {error.user_message or error.code or type(error).__name__}") from error


def _refused(error: stripe.CardError) -> CardRefused:
    details = error.error
    intent = getattr(details, "payment_intent", None)
    decline_code = getattr(details, "decline_code", None)
    kind = AuthenticationNeeded if error.code in _AUTHENTICATION_CODES else CardRefused
    return kind(
        error.user_message or "The card was declined.",
        code=str(decline_code or error.code),
        payment_intent_id=getattr(intent, "id", None),
    )
