"""Start a top-up at a hosted page, and refund one.

These take a pool and not a connection, because they must commit before they ask Stripe and again after: a row first,
then Stripe outside any transaction with a key made from the row's id, then what Stripe said. Whatever is lost in
between is found again by repeating, by the webhook, or by the daily recovery.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from billing import payments
from billing.connection import Connection
from billing.errors import AmountInvalid, PaymentsRejected, PaymentUnknown, PaymentUnpaid, RefundTooLarge
from billing.money import MICROS_PER_CENT, Micros
from billing.payments import Payment, PaymentStatus
from billing.pricing import split_top_up
from billing.stripe_client import StripeClient
from billing.stripe_facts import apply_refund

CHECKOUT_LIFETIME: Final = timedelta(hours=2)
REFERENCE_LENGTH_MAX: Final = 255
REASON_LENGTH_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class ReturnPages:
    """Where the hosted page sends the customer's browser: by payment, after paying and after giving up."""

    success: Callable[[UUID], str]
    cancel: Callable[[UUID], str]


class TopUps:
    """Top-ups at Stripe's hosted page."""

    def __init__(self, pool: asyncpg.Pool, stripe: StripeClient, pages: ReturnPages) -> None:
        self._pool = pool
        self._stripe = stripe
        self._pages = pages

    async def start(
        self,
        payment_id: UUID,
        owner_id: UUID,
        credit_cents: int,
        *,
        save_card: bool = False,
        client_reference: str | None = None,
    ) -> Payment:
        """A payment with a hosted page to pay it at; nothing is credited before Stripe says that it is paid.

        The same `client_reference` again returns the same payment and page, also after a failure half-way. Raises
        AmountInvalid, WalletUnknown, ReferenceConflict, PaymentsUnavailable and PaymentsRejected.
        """
        price = split_top_up(credit_cents)
        if client_reference is not None and not 0 < len(client_reference) <= REFERENCE_LENGTH_MAX:
            raise AmountInvalid(f"a reference has 1 to {REFERENCE_LENGTH_MAX} characters")
        async with self._pool.acquire() as connection, connection.transaction():
            payment = await payments.start_payment(
                connection,
                payment_id,
                owner_id,
                price,
                save_card=save_card,
                client_reference=client_reference,
                expires_at=datetime.now(UTC) + CHECKOUT_LIFETIME,
            )
        if payment.checkout_url is not None or payment.status is not PaymentStatus.OPEN:
            return payment
        customer_id = await self._customer(owner_id)
        session = await self._stripe.create_checkout(
            payment,
            customer_id=customer_id,
            success_url=self._pages.success(payment.id),
            cancel_url=self._pages.cancel(payment.id),
        )
        async with self._pool.acquire() as connection, connection.transaction():
            await payments.attach_checkout(connection, payment.id, session.id, session.url)
            return await payments.get_payment(connection, payment.id)

    async def _customer(self, owner_id: UUID) -> str:
        """The owner's customer at Stripe, made at the first top-up."""
        async with self._pool.acquire() as connection:
            known = await payments.stripe_customer(connection, owner_id)
        if known is not None:
            return known.customer_id
        customer_id = await self._stripe.create_customer(owner_id)
        async with self._pool.acquire() as connection:
            return await payments.record_stripe_customer(connection, owner_id, customer_id)


@dataclass(frozen=True, slots=True)
class RefundMade:
    """A refund that Stripe accepted; `status` is Stripe's (pending, succeeded, …)."""

    request_id: UUID
    stripe_id: str
    amount_micros: Micros
    status: str
    payment: Payment


class Refunds:
    """Give a payment back, whole or in part. The wallet loses the credit's share when Stripe accepts the refund."""

    def __init__(self, pool: asyncpg.Pool, stripe: StripeClient) -> None:
        self._pool = pool
        self._stripe = stripe

    async def refund(
        self, payment_id: UUID, amount_micros: Micros | None, *, reason: str, actor: str
    ) -> RefundMade:
        """Refund `amount_micros` of what was paid, fee included (None: all that is left).

        Raises PaymentUnknown, PaymentUnpaid, RefundTooLarge, AmountInvalid, PaymentsRejected, and
        PaymentsUnavailable, after which `finish_requested` finds out what happened.
        """
        if amount_micros is not None and (amount_micros <= 0 or amount_micros % MICROS_PER_CENT):
            raise AmountInvalid("a refund is in whole cents, at least one")
        if not 0 < len(reason) <= REASON_LENGTH_MAX:
            raise AmountInvalid(f"a reason has 1 to {REASON_LENGTH_MAX} characters")
        request_id = uuid4()
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                "SELECT * FROM billing.request_refund($1, $2, $3, $4, $5)",
                request_id,
                payment_id,
                amount_micros,
                reason,
                actor,
            )
        assert row is not None, "billing.request_refund returns exactly one row"
        match row["outcome"]:
            case "unknown":
                raise PaymentUnknown(f"no payment {payment_id}")
            case "unpaid":
                raise PaymentUnpaid(f"payment {payment_id} was not paid")
            case "too_much":
                raise RefundTooLarge(refundable_micros=row["refundable_micros"])
        return await self._make(request_id, payment_id, row["amount_micros"])

    async def finish_requested(self, *, requested_before: datetime, limit: int = 100) -> list[RefundMade]:
        """Send again what was requested and never answered; the keys see to it that nothing is refunded twice."""
        rows = await self._pool.fetch(
            "SELECT id, payment_id, amount_micros FROM billing.refund_requests"
            " WHERE status = 'requested' AND created_at < $1 ORDER BY created_at LIMIT $2",
            requested_before,
            limit,
        )
        return [await self._make(*row) for row in rows]

    async def _make(self, request_id: UUID, payment_id: UUID, amount_micros: Micros) -> RefundMade:
        async with self._pool.acquire() as connection:
            payment = await payments.get_payment(connection, payment_id)
        assert payment.payment_intent_id is not None, "what was paid has a payment intent"
        try:
            refund = await self._stripe.create_refund(
                request_id, payment_intent_id=payment.payment_intent_id, amount_micros=amount_micros
            )
        except PaymentsRejected as error:
            async with self._pool.acquire() as connection:
                await _reject(connection, request_id, str(error))
            raise
        async with self._pool.acquire() as connection, connection.transaction():
            await apply_refund(connection, refund)
            payment = await payments.get_payment(connection, payment_id)
        return RefundMade(request_id, refund["id"], amount_micros, refund["status"], payment)


async def _reject(connection: Connection, request_id: UUID, failure: str) -> None:
    await connection.execute("SELECT billing.reject_refund_request($1, $2)", request_id, failure)
