"""From Stripe's objects to facts about our payments, whether they came by webhook or were asked for.

Every function takes a connection, never commits, may be called in any order and again, and returns what became of it
in a few words for the record.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from billing import auto_topup_settings, payments
from billing.connection import Connection
from billing.payments import DisputeFacts, PaymentStatus
from billing.stripe_client import Object, micros

NOT_OURS: Final = "not ours"
CLOSED_DISPUTES: Final = frozenset({"won", "lost", "warning_closed", "prevented"})


def payment_id_of(thing: Object) -> UUID | None:
    """The id of our payment that an object carries: as reference, or in its metadata. Not proof of anything."""
    text = thing.get("client_reference_id") or (thing.get("metadata") or {}).get("payment_id")
    try:
        return UUID(text)
    except (TypeError, ValueError):
        return None


def id_of(thing: Any) -> str | None:
    """The id of something that is named or included whole."""
    found: str | None = thing["id"] if isinstance(thing, dict) else thing
    return found


async def apply_session(connection: Connection, session: Object) -> str:
    """A checkout session: paid, expired, or still waiting for a slow way of paying."""
    payment_id = payment_id_of(session)
    if payment_id is None or session["mode"] != "payment":
        return NOT_OURS
    intent_id = id_of(session["payment_intent"])
    if session["payment_status"] == "paid" and intent_id is not None:
        outcome = await payments.mark_paid(
            connection,
            payment_id,
            payment_intent_id=intent_id,
            amount_micros=micros(session["amount_total"]),
            currency=session["currency"],
        )
        return outcome.value
    if session["status"] == "expired":
        ended = await payments.end_payment(connection, payment_id, PaymentStatus.EXPIRED)
        return "expired" if ended else "over already"
    return "waiting"


async def apply_payment_intent(connection: Connection, intent: Object) -> str:
    """A payment intent: paid, refused, or given up."""
    payment_id = payment_id_of(intent)
    if payment_id is None:
        return NOT_OURS
    if intent["status"] == "succeeded":
        outcome = await payments.mark_paid(
            connection,
            payment_id,
            payment_intent_id=intent["id"],
            amount_micros=micros(intent["amount_received"]),
            currency=intent["currency"],
        )
        return outcome.value
    if intent["status"] == "canceled":
        ended = await payments.end_payment(connection, payment_id, PaymentStatus.CANCELED)
        return "canceled" if ended else "over already"
    return await apply_refusal(connection, payment_id, intent)


async def apply_refusal(connection: Connection, payment_id: UUID, intent: Object) -> str:
    """A payment intent whose card was refused or has to be confirmed by its holder."""
    failure = intent.get("last_payment_error") or {}
    needs_holder = intent["status"] == "requires_action" or failure.get("code") == "authentication_required"
    code = failure.get("decline_code") or failure.get("code") or ("authentication_required" if needs_holder else None)
    if code is None:
        return "waiting"
    if await auto_topup_settings.fail_attempt(
        connection, payment_id, code=code, message=failure.get("message"), authentication=needs_holder
    ):
        return "attempt failed"
    await payments.note_failure(connection, payment_id, code, failure.get("message"))
    return "refused"


async def apply_charge(connection: Connection, charge: Object) -> str:
    """The receipt and the card of a charge that succeeded."""
    payment_id = payment_id_of(charge)
    if payment_id is None or charge["status"] != "succeeded":
        return NOT_OURS
    card = (charge.get("payment_method_details") or {}).get("card") or {}
    known = await payments.record_charge(
        connection,
        payment_id,
        charge_id=charge["id"],
        receipt_url=charge.get("receipt_url"),
        payment_method_id=charge.get("payment_method"),
        card_brand=card.get("brand"),
        card_last4=card.get("last4"),
    )
    return "recorded" if known else NOT_OURS


async def apply_paid_charge(connection: Connection, charge: Object) -> str:
    """A charge as proof that a payment was paid: the third route, for news that was lost."""
    payment_id, intent_id = payment_id_of(charge), id_of(charge.get("payment_intent"))
    if payment_id is None or intent_id is None or charge["status"] != "succeeded":
        return NOT_OURS
    outcome = await payments.mark_paid(
        connection,
        payment_id,
        payment_intent_id=intent_id,
        amount_micros=micros(charge["amount_captured"]),
        currency=charge["currency"],
    )
    await apply_charge(connection, charge)
    return outcome.value


async def apply_refund(connection: Connection, refund: Object) -> str:
    """A refund, ours or one that was made at Stripe's dashboard."""
    intent_id = id_of(refund["payment_intent"])
    if intent_id is None:
        return NOT_OURS
    try:
        request_id = UUID((refund.get("metadata") or {}).get("request_id"))
    except (TypeError, ValueError):
        request_id = None
    return await payments.record_refund(
        connection,
        refund["id"],
        payment_intent_id=intent_id,
        amount_micros=micros(refund["amount"]),
        status=refund["status"],
        request_id=request_id,
    )


async def apply_dispute(connection: Connection, dispute: Object, *, at: datetime) -> str:
    """A dispute, as it was `at` that time."""
    intent_id = id_of(dispute["payment_intent"])
    if intent_id is None:
        return NOT_OURS
    moved = [transaction["amount"] for transaction in dispute["balance_transactions"]]
    return await payments.record_dispute(
        connection,
        DisputeFacts(
            id=dispute["id"],
            payment_intent_id=intent_id,
            charge_id=id_of(dispute["charge"]),
            amount_micros=micros(dispute["amount"]),
            withdrawn_micros=micros(-sum(amount for amount in moved if amount < 0)),
            reinstated_micros=micros(sum(amount for amount in moved if amount > 0)),
            reason=dispute["reason"],
            status=dispute["status"],
            closed=dispute["status"] in CLOSED_DISPUTES,
            status_at=at,
        ),
    )


async def apply_warning(connection: Connection, warning: Object) -> str:
    """An early fraud warning: no more charges to this customer's card without the customer."""
    intent_id = id_of(warning.get("payment_intent"))
    owner_id = await connection.fetchval(
        "SELECT owner_id FROM billing.payments WHERE payment_intent_id = $1", intent_id
    )
    if owner_id is None:
        return NOT_OURS
    return "paused" if await auto_topup_settings.pause(connection, owner_id, "fraud_warning") else "not on"


async def apply_detached_card(connection: Connection, payment_method: Object) -> str:
    """A card that was taken away at Stripe."""
    return "forgotten" if await auto_topup_settings.forget_card(connection, payment_method["id"]) else NOT_OURS


async def apply_failed_session(connection: Connection, session: Object) -> str:
    """A slow way of paying at the hosted page that came to nothing."""
    payment_id = payment_id_of(session)
    if payment_id is None:
        return NOT_OURS
    ended = await payments.end_payment(connection, payment_id, PaymentStatus.FAILED)
    return "failed" if ended else "over already"


_APPLIERS: Final[dict[str, Callable[[Connection, Object], Awaitable[str]]]] = {
    "checkout.session.completed": apply_session,
    "checkout.session.expired": apply_session,
    "checkout.session.async_payment_succeeded": apply_session,
    "checkout.session.async_payment_failed": apply_failed_session,
    "payment_intent.succeeded": apply_payment_intent,
    "payment_intent.payment_failed": apply_payment_intent,
    "payment_intent.requires_action": apply_payment_intent,
    "payment_intent.canceled": apply_payment_intent,
    "charge.succeeded": apply_charge,
    "charge.updated": apply_charge,
    "charge.refunded": apply_charge,
    "refund.created": apply_refund,
    "refund.updated": apply_refund,
    "refund.failed": apply_refund,
    "charge.refund.updated": apply_refund,
    "radar.early_fraud_warning.created": apply_warning,
    "payment_method.detached": apply_detached_card,
}

EVENT_TYPES: Final = (
    *_APPLIERS,
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
)
"""What the webhook endpoint has to be subscribed to."""


async def apply_event(connection: Connection, event: Object) -> str:
    """Whatever a webhook event tells us; types that do not concern the books are ignored."""
    kind, thing = event["type"], event["data"]["object"]
    if kind.startswith("charge.dispute."):
        return await apply_dispute(connection, thing, at=datetime.fromtimestamp(event["created"], UTC))
    applier = _APPLIERS.get(kind)
    return await applier(connection, thing) if applier is not None else "ignored"
