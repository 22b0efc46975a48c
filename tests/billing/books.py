"""Short ways to speak to the real books in tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from billing import payments, wallets
from billing.holds import Capture, Operation, Outcome, OutcomeKind, Place, Release, apply, expire
from billing.money import MICROS_PER_CENT
from billing.pricing import split_top_up
from billing.wallets import Balance, CreditKind


def in_an_hour() -> datetime:
    """An expiry that no test lives to see."""
    return datetime.now(UTC) + timedelta(hours=1)


def an_hour_ago() -> datetime:
    """An expiry that has passed."""
    return datetime.now(UTC) - timedelta(hours=1)


def place(owner_id: UUID, amount_micros: int, *, hold_id: UUID | None = None, **more: object) -> Place:
    """A placement that does not expire, unless told otherwise."""
    fields: dict[str, object] = {"expires_at": in_an_hour(), **more}
    return Place(hold_id=hold_id or uuid4(), owner_id=owner_id, amount_micros=amount_micros, **fields)  # type: ignore[arg-type]


def capture(place: Place, amount_micros: int | None = None) -> Capture:
    """A capture of a placed hold, whole unless told otherwise."""
    return Capture(hold_id=place.hold_id, owner_id=place.owner_id, amount_micros=amount_micros or place.amount_micros)


def release(place: Place) -> Release:
    """A release of a placed hold."""
    return Release(hold_id=place.hold_id, owner_id=place.owner_id, reason="test")


@dataclass(frozen=True)
class Books:
    """One database and a pool of connections that work as the application role."""

    dsn: str
    pool: asyncpg.Pool

    async def superuser(self) -> asyncpg.Connection:
        """A connection that may do anything; the caller closes it."""
        return await asyncpg.connect(self.dsn)

    async def wallet(self, amount_micros: int = 0) -> UUID:
        """The owner of a new wallet with this much promotional credit."""
        owner_id = uuid4()
        async with self.pool.acquire() as connection, connection.transaction():
            await wallets.open_wallet(connection, owner_id)
        if amount_micros:
            await self.credit(owner_id, amount_micros)
        return owner_id

    async def credit(
        self,
        owner_id: UUID,
        amount_micros: int,
        *,
        kind: CreditKind = CreditKind.PROMOTIONAL,
        reference: str | None = None,
        expires_at: datetime | None = None,
    ) -> Balance:
        """Give money."""
        async with self.pool.acquire() as connection, connection.transaction():
            return await wallets.credit(
                connection,
                owner_id,
                amount_micros,
                kind=kind,
                reference=reference or str(uuid4()),
                reason="test",
                actor="tests",
                expires_at=expires_at,
            )

    async def top_up(self, owner_id: UUID, credit_cents: int, *, intent: str | None = None) -> UUID:
        """Buy credit and pay for it; the payment."""
        price = split_top_up(credit_cents)
        payment_id = uuid4()
        async with self.pool.acquire() as connection, connection.transaction():
            await payments.start_payment(
                connection,
                payment_id,
                owner_id,
                price,
                save_card=False,
                client_reference=None,
                expires_at=in_an_hour(),
            )
            await payments.mark_paid(
                connection,
                payment_id,
                payment_intent_id=intent or f"pi_{payment_id.hex}",
                amount_micros=price.total_micros,
                currency="usd",
            )
        return payment_id

    async def refund(
        self, payment_id: UUID, cents: int, *, intent: str | None = None, refund: str | None = None
    ) -> None:
        """Hear of a refund of part of what was paid."""
        async with self.pool.acquire() as connection, connection.transaction():
            await payments.record_refund(
                connection,
                refund or f"re_{uuid4().hex}",
                payment_intent_id=intent or f"pi_{payment_id.hex}",
                amount_micros=cents * MICROS_PER_CENT,
                status="succeeded",
                request_id=None,
            )

    async def balance(self, owner_id: UUID) -> tuple[int, int]:
        """(balance, held) of the wallet."""
        async with self.pool.acquire() as connection:
            found = await wallets.balance(connection, owner_id)
        return found.balance_micros, found.held_micros

    async def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Apply and commit."""
        async with self.pool.acquire() as connection, connection.transaction():
            return await apply(connection, operations)

    async def kinds(self, *operations: Operation) -> list[OutcomeKind]:
        """Apply and commit; only the kinds of the outcomes."""
        return [outcome.kind for outcome in await self.apply(operations)]

    async def kind(self, operation: Operation) -> OutcomeKind:
        """Apply and commit one operation."""
        [kind] = await self.kinds(operation)
        return kind

    async def expire(self, limit: int = 2000) -> list[UUID]:
        """Expire and commit."""
        async with self.pool.acquire() as connection, connection.transaction():
            return await expire(connection, limit=limit)

    async def key_spend(self, key_id: UUID) -> list[tuple[int, int, int | None]]:
        """(spent, held, cap) of each of the key's periods, oldest first."""
        rows = await self.pool.fetch(
            "SELECT spent_micros, held_micros, cap_micros FROM billing.key_spend"
            " WHERE key_id = $1 ORDER BY period_start",
            key_id,
        )
        return [tuple(row) for row in rows]
