"""Give a payment back, whole or in part: ask for it in our books, then at Stripe, then note what Stripe said."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from billing import payments
from billing.connection import Connection
from billing.errors import AmountInvalid, PaymentsRejected, PaymentUnknown, PaymentUnpaid, RefundTooLarge
from billing.money import MICROS_PER_CENT, Micros
from billing.payments import Payment
from billing.stripe_client import Object, StripeClient
from billing.stripe_facts import apply_refund

REASON_LENGTH_MAX: Final = 500


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

    async def refund(self, payment_id: UUID, amount_micros: Micros | None, *, reason: str, actor: str) -> RefundMade:
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
        """Finish what was requested and never answered: look for it at Stripe first, then send it again.

        The look matters because Stripe forgets our key after a day, and repeats its own failures until then.
        """
        rows = await self._pool.fetch(
            "SELECT id, payment_id, amount_micros FROM billing.refund_requests"
            " WHERE status = 'requested' AND created_at < $1 ORDER BY created_at LIMIT $2",
            requested_before,
            limit,
        )
        made: list[RefundMade] = []
        for request_id, payment_id, amount_micros in rows:
            async with self._pool.acquire() as connection:
                payment = await payments.get_payment(connection, payment_id)
            found = await self._stripe.find_refund(_paid_with(payment), request_id)
            made.append(await self._make(request_id, payment_id, amount_micros, found))
        return made

    async def _make(
        self, request_id: UUID, payment_id: UUID, amount_micros: Micros, refund: Object | None = None
    ) -> RefundMade:
        async with self._pool.acquire() as connection:
            payment = await payments.get_payment(connection, payment_id)
        try:
            refund = refund or await self._stripe.create_refund(
                request_id, payment_intent_id=_paid_with(payment), amount_micros=amount_micros
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


def _paid_with(payment: Payment) -> str:
    assert payment.payment_intent_id is not None, "what was paid has a payment intent"
    return payment.payment_intent_id
