"""Start a top-up at a hosted page.

This, `refunds` and `auto_topup` take a pool and not a connection, because they must commit before they ask Stripe and
again after: a row first, then Stripe outside any transaction with a key made from the row's id, then what Stripe said.
Whatever is lost in between is found again by repeating, by the webhook, or by the daily recovery.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from billing import payments
from billing.errors import AmountInvalid
from billing.payments import Payment, PaymentStatus
from billing.pricing import split_top_up
from billing.stripe_client import StripeClient

CHECKOUT_LIFETIME: Final = timedelta(hours=2)
REFERENCE_LENGTH_MAX: Final = 255


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
