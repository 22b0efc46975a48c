"""What the operator's books say of one month (UTC): revenue by customer, and everything around fees."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from billing.connection import Connection
from billing.money import Micros

YEARS_MAX: Final = 9998


@dataclass(frozen=True, slots=True)
class Revenue:
    """What one customer's work brought in a month. Written off: done, and paid by nobody."""

    owner_id: UUID
    charges: int
    usage_micros: Micros
    breakage_micros: Micros


@dataclass(frozen=True, slots=True)
class Movement:
    """All entries of one kind between two kinds of account in a month."""

    kind: str
    debit: str
    credit: str
    entries: int
    amount_micros: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """Fees of a month: charged on top-ups, given back with refunds, kept by Stripe; and what is left."""

    charged_micros: Micros
    returned_micros: Micros
    stripe_micros: Micros
    disputes_micros: Micros

    @property
    def net_micros(self) -> Micros:
        """What the platform keeps; negative where Stripe took more."""
        return self.charged_micros - self.returned_micros - self.stripe_micros - self.disputes_micros


def month_of(text: str) -> tuple[datetime, datetime]:
    """First moments of the month `YYYY-MM` and of the next one, UTC. Raises ValueError."""
    first = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    if first.year > YEARS_MAX:
        raise ValueError(f"years end at {YEARS_MAX}")
    return first, first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)


async def revenue(connection: Connection, month: tuple[datetime, datetime]) -> Sequence[Revenue]:
    """Revenue of the month by customer, largest first. Reads the month's entries."""
    rows = await connection.fetch(
        """
        SELECT wallet.owner_id, count(*) FILTER (WHERE entry.kind = 'usage'),
            coalesce(sum(entry.amount_micros) FILTER (WHERE entry.kind = 'usage'), 0)::bigint AS usage_micros,
            coalesce(sum(entry.amount_micros) FILTER (WHERE entry.kind = 'breakage'), 0)::bigint AS breakage_micros
        FROM billing.ledger_entries entry JOIN billing.wallets wallet ON wallet.id = entry.wallet_id
        WHERE entry.created_at >= $1 AND entry.created_at < $2 AND entry.kind IN ('usage', 'breakage')
        GROUP BY wallet.owner_id
        ORDER BY usage_micros DESC, breakage_micros DESC, wallet.owner_id
        """,
        *month,
    )
    return [Revenue(*row) for row in rows]


async def movements(connection: Connection, month: tuple[datetime, datetime]) -> Sequence[Movement]:
    """Every kind of entry of the month with its two accounts: the whole month, so nothing is left out of a report."""
    rows = await connection.fetch(
        """
        SELECT entry.kind, debit.kind, credit.kind, count(*), sum(entry.amount_micros)::bigint
        FROM billing.ledger_entries entry
        JOIN billing.accounts debit ON debit.id = entry.debit_account_id
        JOIN billing.accounts credit ON credit.id = entry.credit_account_id
        WHERE entry.created_at >= $1 AND entry.created_at < $2
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        """,
        *month,
    )
    return [Movement(*row) for row in rows]


def fees(month: Sequence[Movement]) -> Fees:
    """The fees among a month's movements."""
    into = _net(month, "platform_fee")
    returned = sum(x.amount_micros for x in month if x.debit == "platform_fee")
    return Fees(
        charged_micros=into + returned,
        returned_micros=returned,
        stripe_micros=-_net(month, "stripe_fees"),
        disputes_micros=-_net(month, "chargeback_loss"),
    )


def _net(month: Sequence[Movement], account: str) -> Micros:
    """What was credited to the account less what was debited."""
    return sum(x.amount_micros * ((x.credit == account) - (x.debit == account)) for x in month)
