"""Charge saved cards when wallets run low: one attempt per crossing, whoever notices it first."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from billing import payments
from billing.auto_topup_settings import Claim, claim, due, fail_attempt
from billing.errors import AuthenticationNeeded, CardRefused, PaymentsRejected, PaymentsUnavailable
from billing.payments import Payment, PaymentKind, PaymentStatus
from billing.stripe_client import Object, StripeClient
from billing.stripe_facts import apply_payment_intent

ATTEMPTS_PER_RUN_MAX: Final = 50
ATTEMPT_LIFETIME: Final = timedelta(hours=23)
"""Stripe remembers our key for a day at least; after this an attempt that Stripe does not know is over."""

UNANSWERED_AFTER: Final = timedelta(minutes=2)
"""Longer than a call to Stripe with its retries can take: whoever made it is gone."""

_log = logging.getLogger(__name__)


class AutoTopUps:
    """Finds wallets below their threshold and fills them. Any number of processes may run it side by side."""

    def __init__(self, pool: asyncpg.Pool, stripe: StripeClient, new_id: Callable[[], UUID]) -> None:
        self._pool = pool
        self._stripe = stripe
        self._new_id = new_id

    async def run_once(self, *, now: datetime | None = None) -> int:
        """Charge what is due and finish what was left unanswered; how many attempts were worked on.

        A failure of one attempt is logged and leaves it open for the next run.
        """
        now = now or datetime.now(UTC)
        attempts = [*await self._left_open(now), *await self._claim_due(now)]
        for payment, resumed in attempts:
            try:
                await self._charge(payment, resumed=resumed, now=now)
            except (PaymentsUnavailable, PaymentsRejected) as error:
                _log.warning("auto top-up %s is unanswered: %s", payment.id, error)
        return len(attempts)

    async def _claim_due(self, now: datetime) -> list[tuple[Payment, bool]]:
        claimed = []
        async with self._pool.acquire() as connection:
            for wallet in await due(connection, limit=ATTEMPTS_PER_RUN_MAX):
                payment_id = self._new_id()
                async with connection.transaction():
                    outcome = await claim(
                        connection, payment_id, wallet.owner_id, wallet.price, expires_at=now + ATTEMPT_LIFETIME
                    )
                if outcome is Claim.CLAIMED:
                    claimed.append((await payments.get_payment(connection, payment_id), False))
        return claimed

    async def _left_open(self, now: datetime) -> list[tuple[Payment, bool]]:
        async with self._pool.acquire() as connection:
            left = await payments.open_payments(
                connection,
                kind=PaymentKind.AUTO,
                started_before=now - UNANSWERED_AFTER,
                limit=ATTEMPTS_PER_RUN_MAX,
            )
        return [(payment, True) for payment in left]

    async def _charge(self, payment: Payment, *, resumed: bool, now: datetime) -> None:
        """Ask Stripe for the money and note the answer. A `resumed` attempt is looked for at Stripe first: its first
        call may have had its effect, and Stripe repeats a failure for the same key.
        """
        async with self._pool.acquire() as connection:
            customer = await payments.stripe_customer(connection, payment.owner_id)
        assert customer is not None, "an attempt was claimed for a saved card"
        assert payment.payment_method_id is not None, "an attempt was claimed for a saved card"
        intent: Object | None = None
        if resumed:
            intent = await self._stripe.find_payment_intent(customer.customer_id, payment.id)
            if intent is None and now > payment.expires_at:
                async with self._pool.acquire() as connection:
                    await payments.end_payment(connection, payment.id, PaymentStatus.EXPIRED)
                return
        try:
            intent = intent or await self._stripe.charge_saved_card(
                payment, customer_id=customer.customer_id, payment_method_id=payment.payment_method_id
            )
        except CardRefused as refused:
            await self._fail(payment, refused.code, str(refused), isinstance(refused, AuthenticationNeeded))
            return
        except PaymentsRejected as rejected:
            await self._fail(payment, "rejected", str(rejected), False)
            return
        async with self._pool.acquire() as connection, connection.transaction():
            await apply_payment_intent(connection, intent)

    async def _fail(self, payment: Payment, code: str, message: str, authentication: bool) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await fail_attempt(connection, payment.id, code=code, message=message, authentication=authentication)
        _log.warning("auto top-up %s was refused: %s", payment.id, code)
