"""What owners should hear: written in the transaction that it tells of, read here, delivered at least once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from billing.connection import Connection
from billing.errors import AmountInvalid, WalletUnknown
from billing.money import MICROS_MAX, Micros

PAGE_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Notice:
    """One message: `kind` says which.

    low_balance has the details available_micros and threshold_micros, credit_expired amount_micros and grant_id;
    `delivered_at` is when somebody took it to deliver it.
    """

    id: int
    owner_id: UUID
    kind: str
    details: Mapping[str, Any]
    created_at: datetime
    delivered_at: datetime | None


async def list_notices(
    connection: Connection, owner_id: UUID, *, before: int | None = None, limit: int = 20
) -> Sequence[Notice]:
    """Up to `limit` (1 to PAGE_MAX) notices of the owner, newest first; `before` the last id of the previous page."""
    if not 1 <= limit <= PAGE_MAX:
        raise ValueError(f"limit must be 1 to {PAGE_MAX}")
    rows = await connection.fetch(
        "SELECT id, owner_id, kind, details, created_at, delivered_at FROM billing.notices"
        " WHERE owner_id = $1 AND id < coalesce($2::bigint, 9223372036854775807) ORDER BY id DESC LIMIT $3",
        owner_id,
        before,
        limit,
    )
    return [_notice(row) for row in rows]


async def take_notices(connection: Connection, *, limit: int = 100) -> Sequence[Notice]:
    """Notices to be delivered, oldest first. Deliver them before the caller's transaction commits."""
    rows = await connection.fetch("SELECT * FROM billing.take_notices($1) ORDER BY id", limit)
    return [_notice(row) for row in rows]


async def set_low_balance(connection: Connection, owner_id: UUID, threshold_micros: Micros) -> None:
    """Tell the owner once when free money falls below this, again only after money came in; 0 never. Never commits.

    Raises WalletUnknown and AmountInvalid.
    """
    if not 0 <= threshold_micros <= MICROS_MAX:
        raise AmountInvalid(f"a threshold is 0 to {MICROS_MAX} micros, not {threshold_micros}")
    if not await connection.fetchval("SELECT billing.set_low_balance($1, $2)", owner_id, threshold_micros):
        raise WalletUnknown(owner_id)


def _notice(row: Any) -> Notice:
    return Notice(**(dict(row) | {"details": json.loads(row["details"])}))
