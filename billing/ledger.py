"""Prove the books: every stored sum agrees with the entries behind it, and what was acknowledged is kept."""

from dataclasses import dataclass
from typing import Final

from billing import checks
from billing.connection import Connection
from billing.errors import LedgerUnavailable

DIFFERENCES_MAX: Final = 1_000
SNAPSHOT_ENTRIES_MIN: Final = 1_000
"""A wallet gets a new snapshot after this many entries."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One sum of the books that is not what it should be. `subject` names the row."""

    check: str
    subject: str
    expected: int
    found: int


async def reconcile(connection: Connection, *, recent_only: bool = False) -> list[Difference]:
    """Every stored sum that does not agree with the rows behind it; empty when the books are right.

    Each check is one statement and so sees one moment: it may run beside live traffic and takes no lock. At most
    DIFFERENCES_MAX differences are named per check. Reads all entries, or with `recent_only` those after each
    wallet's snapshot.
    """
    chosen = checks.STATE | (checks.RECENT_ENTRIES if recent_only else checks.EVERY_ENTRY | checks.RECENT_ENTRIES)
    return [
        Difference(check, row["subject"], int(row["expected"]), int(row["found"]))
        for check, query in chosen.items()
        for row in await connection.fetch(f"{query} LIMIT {DIFFERENCES_MAX}")
    ]


async def take_snapshots(connection: Connection, *, entries_min: int = SNAPSHOT_ENTRIES_MIN, limit: int = 500) -> int:
    """New snapshots for up to `limit` wallets with `entries_min` entries since their last; how many. Never commits."""
    taken: int = await connection.fetchval("SELECT billing.take_balance_snapshots($1, $2)", entries_min, limit)
    return taken


async def require_durable(connection: Connection) -> None:
    """Raise LedgerUnavailable if this server would acknowledge money that a crash could lose."""
    rows = await connection.fetch(
        "SELECT name, setting FROM pg_settings"
        " WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'"
    )
    if rows:
        names = ", ".join(sorted(row["name"] for row in rows))
        raise LedgerUnavailable(f"PostgreSQL runs with {names} off; money needs them on")
