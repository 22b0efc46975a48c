"""Read the books: a wallet's statement, and the proof that every stored sum agrees with the entries behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from billing.connection import Connection
from billing.errors import LedgerUnavailable, WalletUnknown
from billing.money import Micros

PAGE_MAX: Final = 1_000
DIFFERENCES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Difference:
    """One sum of the books that is not what it should be. `subject` names the row."""

    check: str
    subject: str
    expected: int
    found: int


_CHECKS: Final[dict[str, str]] = {
    "wallet balance = sum of its entries": """
        SELECT 'wallet of ' || wallet.owner_id AS subject, coalesce(entries.total, 0) AS expected,
            wallet.balance_micros AS found
        FROM billing.wallets wallet
        LEFT JOIN (
            SELECT wallet_id,
                sum(CASE WHEN credit_account_id = wallet_id THEN amount_micros ELSE -amount_micros END) AS total
            FROM billing.ledger_entries WHERE wallet_id IS NOT NULL GROUP BY wallet_id
        ) entries ON entries.wallet_id = wallet.id
        WHERE wallet.balance_micros <> coalesce(entries.total, 0)
        ORDER BY wallet.id
    """,
    "wallet held = sum of its open holds": """
        SELECT 'wallet of ' || wallet.owner_id AS subject, coalesce(open.total, 0) AS expected,
            wallet.held_micros AS found
        FROM billing.wallets wallet
        LEFT JOIN (
            SELECT wallet_id, sum(amount_micros) AS total FROM billing.holds GROUP BY wallet_id
        ) open ON open.wallet_id = wallet.id
        WHERE wallet.held_micros <> coalesce(open.total, 0)
        ORDER BY wallet.id
    """,
    "entry's balance = balance before it + its amount": """
        SELECT 'entry ' || id AS subject, expected, wallet_balance_micros AS found
        FROM (
            SELECT id, wallet_balance_micros,
                coalesce(lag(wallet_balance_micros) OVER (PARTITION BY wallet_id ORDER BY id), 0)
                + CASE WHEN credit_account_id = wallet_id THEN amount_micros ELSE -amount_micros END AS expected
            FROM billing.ledger_entries WHERE wallet_id IS NOT NULL
        ) chain
        WHERE expected <> wallet_balance_micros
        ORDER BY id
    """,
    "entry's accounts exist (account ids missing)": """
        SELECT 'entry ' || entry.id AS subject, 0 AS expected, 1 AS found
        FROM billing.ledger_entries entry
        WHERE NOT EXISTS (SELECT FROM billing.accounts WHERE id = entry.debit_account_id)
            OR NOT EXISTS (SELECT FROM billing.accounts WHERE id = entry.credit_account_id)
        ORDER BY entry.id
    """,
    "key spent = sum of its entries": """
        SELECT 'key ' || key_id AS subject, coalesce(entries.total, 0) AS expected,
            coalesce(spend.total, 0) AS found
        FROM (SELECT key_id, sum(spent_micros) AS total FROM billing.key_spend GROUP BY key_id) spend
        FULL JOIN (
            SELECT key_id, sum(amount_micros) AS total
            FROM billing.ledger_entries WHERE key_id IS NOT NULL GROUP BY key_id
        ) entries USING (key_id)
        WHERE coalesce(spend.total, 0) <> coalesce(entries.total, 0)
        ORDER BY key_id
    """,
    "key held = sum of its open holds": """
        SELECT 'key ' || key_id || ' since ' || period_start AS subject, coalesce(open.total, 0) AS expected,
            coalesce(spend.held_micros, 0) AS found
        FROM billing.key_spend spend
        FULL JOIN (
            SELECT wallet_id, key_id, period_start, sum(amount_micros) AS total
            FROM billing.holds WHERE key_id IS NOT NULL GROUP BY wallet_id, key_id, period_start
        ) open USING (wallet_id, key_id, period_start)
        WHERE coalesce(spend.held_micros, 0) <> coalesce(open.total, 0)
        ORDER BY key_id
    """,
    "open hold is not resolved": """
        SELECT 'hold ' || hold.id AS subject, 0 AS expected, 1 AS found
        FROM billing.holds hold
        WHERE EXISTS (SELECT FROM billing.hold_releases released WHERE released.hold_id = hold.id)
            OR EXISTS (SELECT FROM billing.ledger_entries entry WHERE entry.reference = hold.id)
        ORDER BY hold.id
    """,
    "grant = its entry": """
        SELECT 'grant ' || granted.id AS subject, granted.amount_micros AS expected,
            coalesce(
                CASE WHEN entry.credit_account_id = granted.wallet_id
                    THEN entry.amount_micros ELSE -entry.amount_micros END, 0) AS found
        FROM billing.grants granted
        LEFT JOIN billing.ledger_entries entry
            ON entry.reference = granted.id AND entry.wallet_id = granted.wallet_id
        WHERE granted.amount_micros IS DISTINCT FROM
            CASE WHEN entry.credit_account_id = granted.wallet_id
                THEN entry.amount_micros ELSE -entry.amount_micros END
        ORDER BY granted.id
    """,
}


async def reconcile(connection: Connection) -> list[Difference]:
    """Every stored sum that does not agree with the rows behind it; empty when the books are right.

    Each check is one statement and so sees one moment: it may run beside live traffic and takes no lock. At most
    DIFFERENCES_MAX differences are named per check. Reads all entries.
    """
    return [
        Difference(check, row["subject"], int(row["expected"]), int(row["found"]))
        for check, query in _CHECKS.items()
        for row in await connection.fetch(f"{query} LIMIT {DIFFERENCES_MAX}")
    ]


async def require_durable(connection: Connection) -> None:
    """Raise LedgerUnavailable if this server would acknowledge money that a crash could lose."""
    rows = await connection.fetch(
        "SELECT name, setting FROM pg_settings"
        " WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'"
    )
    if rows:
        names = ", ".join(sorted(row["name"] for row in rows))
        raise LedgerUnavailable(f"PostgreSQL runs with {names} off; money needs them on")
