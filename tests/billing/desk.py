"""Payments in tests: real books, a Stripe that stands in for Stripe, and the news between them under control."""

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from billing import payments
from billing.auto_topup import AutoTopUps
from billing.auto_topup_settings import AutoTopUp, save_settings
from billing.ledger import reconcile
from billing.payments import Payment
from billing.pricing import split_top_up
from billing.refunds import Refunds
from billing.stripe_client import Object, StripeClient
from billing.stripe_inbox import receive
from billing.stripe_reconciliation import StripeReconciliation
from billing.topups import ReturnPages, TopUps
from tests.billing.books import Books, capture, place
from tests.fakes.stripe import FakeStripe

GOOD_CARD = "4242424242424242"
USD = 1_000_000
_STRIPE_ID = re.compile(r'"((?:cs_test|pi|ch|re|du|evt|txn|pm)_[0-9a-f]{24})(?:_secret)?"')


@dataclass(frozen=True)
class Wallet:
    """What the database has of a wallet."""

    balance_micros: int
    owed_micros: int
    frozen: bool


@dataclass
class Desk:
    """Everything that deals with payments, over one database and one stand-in for Stripe."""

    books: Books
    fake: FakeStripe
    stripe: StripeClient
    address: str

    def __post_init__(self) -> None:
        pages = ReturnPages(success=lambda i: f"http://shop/{i}/ok", cancel=lambda i: f"http://shop/{i}/no")
        self.topups = TopUps(self.books.pool, self.stripe, pages)
        self.refunds = Refunds(self.books.pool, self.stripe)
        self.auto_topups = AutoTopUps(self.books.pool, self.stripe, uuid4)
        self.reconciliation = StripeReconciliation(self.books.pool, self.stripe, self.refunds)

    async def start(self, owner: UUID, usd: int = 10, **more: bool | str) -> Payment:
        """A payment waiting at the hosted page."""
        return await self.topups.start(uuid4(), owner, usd * 100, **more)  # type: ignore[arg-type]

    def pay(self, payment: Payment, card: str = GOOD_CARD, *, authenticated: bool | None = None) -> Object:
        """Pay at the hosted page, as the browser would; the payment intent."""
        assert payment.checkout_session_id is not None
        with self.fake.account.lock:
            return self.fake.account.pay(payment.checkout_session_id, card, authenticated=authenticated)

    async def hear(self, events: Iterable[Object] | None = None) -> list[str]:
        """Apply events (or all that were held back, in order), each in a transaction of its own."""
        if events is None:
            events, self.fake.webhooks.held = self.fake.webhooks.held, []
        outcomes = []
        for event in events:
            async with self.books.pool.acquire() as connection, connection.transaction():
                outcomes.append(await receive(connection, event))
        return outcomes

    async def bought(self, owner: UUID, usd: int = 10, card: str = GOOD_CARD, **more: bool | str) -> Payment:
        """A payment that was paid and credited."""
        payment = await self.start(owner, usd, **more)
        self.pay(payment, card)
        await self.hear()
        return await self.payment(payment.id)

    async def with_saved_card(self, owner: UUID, card: str = GOOD_CARD, **settings: int | bool | None) -> str:
        """Buy $10 with the card, keep it and set up auto top-up; the saved card's id at Stripe."""
        await self.bought(owner, card=card, save_card=True)
        complete = {
            "enabled": True,
            "threshold_micros": 5 * USD,
            "amount_micros": 20 * USD,
            "target_micros": None,
            "monthly_ceiling_micros": 100 * USD,
        } | settings
        async with self.books.pool.acquire() as connection:
            await save_settings(connection, owner, AutoTopUp(**complete))  # type: ignore[arg-type]
            customer = await payments.stripe_customer(connection, owner)
        assert customer is not None
        assert customer.payment_method_id is not None
        return customer.payment_method_id

    async def payment(self, payment_id: UUID) -> Payment:
        """The payment as it is now."""
        async with self.books.pool.acquire() as connection:
            return await payments.get_payment(connection, payment_id)

    async def payments(self, owner: UUID) -> Sequence[Payment]:
        """The owner's payments, newest first."""
        async with self.books.pool.acquire() as connection:
            return await payments.list_payments(connection, owner)

    async def spend(self, owner: UUID, amount_micros: int) -> None:
        """Use up credit."""
        hold = place(owner, amount_micros)
        assert await self.books.kinds(hold) == ["placed"]
        await self.books.apply([capture(hold)])

    async def wallet(self, owner: UUID) -> Wallet:
        """The wallet as it is now."""
        row = await self.books.pool.fetchrow(
            "SELECT balance_micros, owed_micros, frozen FROM billing.wallets WHERE owner_id = $1", owner
        )
        assert row is not None
        return Wallet(*row)

    async def accounts(self, owner: UUID) -> dict[str, int]:
        """What this owner's payments have put on each account (debits - credits), zeros left out."""
        rows = await self.books.pool.fetch(
            """
            SELECT account.kind, sum(side.amount)::bigint AS total
            FROM billing.payment_postings posting
            JOIN billing.payments payment ON payment.id = posting.payment_id
            JOIN billing.ledger_entries entry ON entry.reference = posting.id
            CROSS JOIN LATERAL (VALUES
                (entry.debit_account_id, entry.amount_micros), (entry.credit_account_id, -entry.amount_micros)
            ) AS side (account_id, amount)
            JOIN billing.accounts account ON account.id = side.account_id
            WHERE payment.owner_id = $1
            GROUP BY account.kind
            """,
            owner,
        )
        return {row["kind"]: row["total"] for row in rows if row["total"]}

    async def require_sound_books(self) -> None:
        """Fail unless every stored sum agrees with its rows."""
        async with self.books.pool.acquire() as connection:
            assert await reconcile(connection) == []

    async def as_owner(self) -> asyncpg.Connection:
        """A connection that may do anything to the books, for what time or damage would do."""
        return await asyncpg.connect(self.books.dsn)

    async def another(self, owner: UUID, story: Sequence[Object], template: Payment) -> tuple[Payment, list[Object]]:
        """The same story about a new payment of `owner`: its events with ids of their own."""
        async with self.books.pool.acquire() as connection:
            payment = await payments.start_payment(
                connection,
                uuid4(),
                owner,
                split_top_up(template.credit_micros // 10_000),
                save_card=False,
                client_reference=None,
                expires_at=datetime.now(UTC) + timedelta(hours=1),
            )
        text = json.dumps(story).replace(str(template.id), str(payment.id))
        for known in set(_STRIPE_ID.findall(text)):
            text = text.replace(known, f"{known.rpartition('_')[0]}_{secrets.token_hex(12)}")
        events: list[Object] = json.loads(text)
        return payment, events
