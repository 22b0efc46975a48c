"""Prove our books against Stripe's, and recover by it what no webhook told us."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

import asyncpg

from billing import payments
from billing.connection import Connection
from billing.ledger import Difference
from billing.payments import PaymentKind, PaymentStatus
from billing.refunds import Refunds
from billing.stripe_client import Object, StripeClient, micros
from billing.stripe_facts import apply_dispute, apply_paid_charge, apply_refund, apply_session, id_of

OVERLAP: Final = timedelta(days=7)
"""How far back of the newest known balance transaction a run looks: longer than Stripe repeats a webhook."""

UNANSWERED_AFTER: Final = timedelta(minutes=10)
BALANCE_READS_MAX: Final = 3
PAYMENTS_PER_RUN_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one run found: how many movements of Stripe's are new to us, and what is not as it should be."""

    recorded: int
    differences: list[Difference]


class StripeReconciliation:
    """The daily comparison; may run at any time and beside live traffic."""

    def __init__(self, pool: asyncpg.Pool, stripe: StripeClient, refunds: Refunds) -> None:
        self._pool = pool
        self._stripe = stripe
        self._refunds = refunds

    async def run(self, *, now: datetime | None = None) -> Recovery:
        """Record what moved at Stripe, apply what we had missed, and name every difference that is left.

        Stripe's balance and ours are read until they agree, BALANCE_READS_MAX times at most, because money moves
        meanwhile. Raises PaymentsUnavailable and PaymentsRejected.
        """
        now = now or datetime.now(UTC)
        await self._refunds.finish_requested(requested_before=now - UNANSWERED_AFTER)
        await self._ask_for_open_payments(now)
        await self._record_disputes()
        recorded = 0
        for _ in range(BALANCE_READS_MAX):
            new, foreign = await self._record_movements()
            recorded += new
            difference = await self._balance_difference()
            if difference is None:
                break
        async with self._pool.acquire() as connection:
            named = await unexplained(connection)
        return Recovery(recorded, [*named, *foreign, *([difference] if difference is not None else [])])

    async def _ask_for_open_payments(self, now: datetime) -> None:
        """How payments ended whose hosted page has closed without our hearing of it."""
        async with self._pool.acquire() as connection:
            left = await payments.open_payments(
                connection, kind=PaymentKind.CHECKOUT, started_before=now - UNANSWERED_AFTER, limit=PAYMENTS_PER_RUN_MAX
            )
        for payment in left:
            if payment.checkout_session_id is not None:
                session = await self._stripe.retrieve_checkout(payment.checkout_session_id)
                async with self._pool.acquire() as connection, connection.transaction():
                    await apply_session(connection, session)
            elif payment.expires_at + OVERLAP < now:
                async with self._pool.acquire() as connection:
                    await payments.end_payment(connection, payment.id, PaymentStatus.EXPIRED)

    async def _record_disputes(self) -> None:
        since = await self._since()
        async for dispute in self._stripe.disputes(since=since):
            async with self._pool.acquire() as connection, connection.transaction():
                await apply_dispute(connection, dispute, at=datetime.now(UTC))

    async def _record_movements(self) -> tuple[int, list[Difference]]:
        """Every balance transaction since the last run, oldest first: how many were new, and which are not ours."""
        found = [item async for item in self._stripe.balance_transactions(since=await self._since())]
        recorded, foreign = 0, []
        for item in reversed(found):
            async with self._pool.acquire() as connection, connection.transaction():
                outcome = await _record(connection, item)
            recorded += outcome in ("posted", "unposted")
            if outcome == "not_ours":
                subject = f"balance transaction {item['id']} of type {item['type']}"
                foreign.append(
                    Difference("movement at Stripe is of one of our payments", subject, 0, micros(item["amount"]))
                )
        return recorded, foreign

    async def _since(self) -> datetime | None:
        newest: datetime | None = await self._pool.fetchval(
            "SELECT max(stripe_created_at) FROM billing.stripe_balance_transactions"
        )
        return None if newest is None else newest - OVERLAP

    async def _balance_difference(self) -> Difference | None:
        """Stripe's balance against stripe_clearing, as far as Stripe has booked it."""
        at_stripe = await self._stripe.balance_micros()
        in_books = await self._pool.fetchval(_CLEARING)
        if at_stripe == in_books:
            return None
        return Difference("Stripe's balance = stripe_clearing", "account stripe_clearing", at_stripe, int(in_books))


_CLEARING: Final = """
SELECT coalesce(sum(CASE WHEN debit_account_id = 20 THEN amount_micros ELSE -amount_micros END), 0)::bigint
FROM billing.ledger_entries WHERE 20 IN (debit_account_id, credit_account_id)
"""

_UNEXPLAINED: Final[dict[str, str]] = {
    "Stripe's charge = the payment it paid": """
        SELECT 'payment ' || payment.id AS subject, payment.credit_micros + payment.fee_micros AS expected,
            moved.amount_micros AS found
        FROM billing.stripe_balance_transactions moved
        JOIN billing.payments payment USING (payment_intent_id)
        WHERE moved.type IN ('charge', 'payment') AND moved.amount_micros <> payment.credit_micros + payment.fee_micros
    """,
    "credited payment has a charge at Stripe": """
        SELECT 'payment ' || payment.id AS subject, payment.credit_micros + payment.fee_micros AS expected, 0 AS found
        FROM billing.payments payment
        WHERE payment.credited_micros > 0
            AND payment.paid_at < (SELECT max(created_at) FROM billing.stripe_balance_transactions)
            AND NOT EXISTS (
                SELECT FROM billing.stripe_balance_transactions moved
                WHERE moved.payment_intent_id = payment.payment_intent_id AND moved.type IN ('charge', 'payment'))
    """,
    "movement at Stripe is one that we post": """
        SELECT 'balance transaction ' || stripe_id || ' of type ' || type AS subject, 0 AS expected,
            amount_micros AS found
        FROM billing.stripe_balance_transactions WHERE NOT posted
    """,
    "payment matches what was paid": """
        SELECT 'payment ' || id || ': ' || mismatch AS subject, credit_micros + fee_micros AS expected, 0 AS found
        FROM billing.payments WHERE mismatch IS NOT NULL
    """,
}


async def unexplained(connection: Connection) -> list[Difference]:
    """What is recorded of Stripe's movements and does not fit our payments; asks nobody."""
    return [
        Difference(check, row["subject"], int(row["expected"]), int(row["found"]))
        for check, query in _UNEXPLAINED.items()
        for row in await connection.fetch(f"{query} ORDER BY subject LIMIT 1000")
    ]


async def _record(connection: Connection, item: Object) -> str:
    """Apply what a balance transaction is about, then post it: 'posted', 'known', 'unposted' or 'not_ours'."""
    source = item["source"]
    intent_id: str | None = None
    if isinstance(source, dict):
        intent_id = id_of(source.get("payment_intent"))
        match source["object"]:
            case "charge":
                await apply_paid_charge(connection, source)
            case "refund":
                await apply_refund(connection, source)
            case "dispute":
                await apply_dispute(connection, source, at=datetime.now(UTC))
    outcome: str = await connection.fetchval(
        "SELECT billing.record_balance_transaction($1, $2, $3, $4, $5, $6, $7, $8)",
        uuid4(),
        item["id"],
        item["type"],
        id_of(source),
        intent_id,
        micros(item["amount"]),
        micros(item["fee"]),
        datetime.fromtimestamp(item["created"], UTC),
    )
    return outcome
