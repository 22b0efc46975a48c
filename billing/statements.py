"""What happened to a wallet, entry by entry, each with the balance after it and what stands behind it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from billing.connection import Connection
from billing.errors import WalletUnknown
from billing.money import Micros

PAGE_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One entry as the wallet's owner sees it: `amount_micros` is negative for money that left the wallet.

    `reference` is the id of the hold (kind `usage`), else of the grant, payment or posting behind the entry.
    `payment_id` and `stripe_id` are there where a payment is behind it, `reason` where somebody gave one.
    """

    entry_id: int
    created_at: datetime
    kind: str
    reference: UUID
    key_id: UUID | None
    amount_micros: Micros
    balance_micros: Micros
    payment_id: UUID | None = None
    stripe_id: str | None = None
    reason: str | None = None

    @property
    def hold_id(self) -> UUID | None:
        """The hold that was captured; the work it paid for has the same id."""
        return self.reference if self.kind == "usage" else None


@dataclass(frozen=True, slots=True)
class StatementPage:
    """Lines newest first. `next_before` fetches the page after it; None when this is the last."""

    lines: Sequence[StatementLine]
    next_before: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries: `since` is inclusive, `until` exclusive; None does not filter."""

    since: datetime | None = None
    until: datetime | None = None
    kinds: Sequence[str] | None = None


EVERYTHING: Final = Filter()

# The entries are chosen first, in the order of the index; only what is shown is looked up.
_STATEMENT: Final = """
SELECT entry.id, entry.created_at, entry.kind, entry.reference, entry.key_id,
    CASE WHEN entry.credit_account_id = wallet.id THEN entry.amount_micros ELSE -entry.amount_micros END AS amount,
    entry.wallet_balance_micros, posting.payment_id, coalesce(posting.stripe_id, payment.payment_intent_id),
    coalesce(granted.reason, ended.reason)
FROM billing.wallets wallet
LEFT JOIN LATERAL (
    SELECT * FROM billing.ledger_entries x
    WHERE x.wallet_id = wallet.id
        AND x.id < coalesce($2::bigint, 9223372036854775807)
        AND ($3::timestamptz IS NULL OR x.created_at >= $3)
        AND ($4::timestamptz IS NULL OR x.created_at < $4)
        AND ($5::text[] IS NULL OR x.kind = ANY ($5))
    ORDER BY x.id DESC LIMIT $6
) entry ON true
LEFT JOIN LATERAL (
    SELECT * FROM billing.payment_postings x WHERE entry.kind <> 'usage' AND x.id = entry.reference LIMIT 1
) posting ON true
LEFT JOIN LATERAL (
    SELECT * FROM billing.payments x WHERE x.id = posting.payment_id LIMIT 1
) payment ON true
LEFT JOIN LATERAL (
    SELECT * FROM billing.grants x
    WHERE entry.kind IN ('promotional', 'adjustment') AND x.id = entry.reference LIMIT 1
) granted ON true
LEFT JOIN LATERAL (
    SELECT x.reason FROM billing.credit_expiries expiry JOIN billing.grants x ON x.id = expiry.grant_id
    WHERE entry.kind = 'breakage' AND expiry.id = entry.reference LIMIT 1
) ended ON true
WHERE wallet.owner_id = $1
ORDER BY entry.id DESC
"""


async def statement(
    connection: Connection,
    owner_id: UUID,
    *,
    before: int | None = None,
    only: Filter = EVERYTHING,
    limit: int = 100,
) -> StatementPage:
    """A page of up to `limit` entries of the owner's wallet, newest first, each with the balance after it.

    `before` is the `next_before` of the page read last; pages never shift while new entries arrive. The balances
    stay those of the whole wallet, whatever `only` leaves out. Raises WalletUnknown.
    """
    if not 1 <= limit <= PAGE_MAX:
        raise ValueError(f"limit must be 1 to {PAGE_MAX}")
    kinds = None if only.kinds is None else list(only.kinds)
    rows = await connection.fetch(_STATEMENT, owner_id, before, only.since, only.until, kinds, limit + 1)
    if not rows:
        raise WalletUnknown(owner_id)
    lines = [StatementLine(*row) for row in rows if row["id"] is not None]
    more = len(lines) > limit
    return StatementPage(lines[:limit], lines[limit - 1].entry_id if more else None)


async def pages(
    pool: asyncpg.Pool, owner_id: UUID, *, only: Filter = EVERYTHING, first: StatementPage
) -> AsyncIterator[StatementPage]:
    """`first` and every page after it, with a connection only while one is read.

    Ends at the wallet's first entry: what is entered meanwhile is newer than `first` and never comes.
    """
    page = first
    yield page
    while page.next_before is not None:
        async with pool.acquire() as connection:
            page = await statement(connection, owner_id, before=page.next_before, only=only, limit=PAGE_MAX)
        yield page
