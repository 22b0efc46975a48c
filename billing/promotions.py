"""Promotional credit: what is left of it, and its end. It is spent before paid credit, and what ends first goes first.

Calls only know the wallet's one balance. What of it is promotional follows from the entries since each grant, so none
of this costs a call anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from billing.connection import Connection
from billing.money import Micros

ATTRIBUTION_AGE: Final = timedelta(minutes=10)
"""How much of a wallet's past a look at its lots has to read at most, if `attribute_stale` runs more often."""


@dataclass(frozen=True, slots=True)
class Lot:
    """One grant that is not used up. `expires_at` None: it never ends."""

    grant_id: UUID
    amount_micros: Micros
    remaining_micros: Micros
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Expired:
    """Credit that ended unused and has been taken out of a wallet."""

    grant_id: UUID
    owner_id: UUID
    amount_micros: Micros


async def open_lots(connection: Connection, owner_id: UUID) -> Sequence[Lot]:
    """What is left of each grant now, in the order in which it will be spent; empty without a wallet."""
    rows = await connection.fetch("SELECT * FROM billing.promotional_credit($1)", owner_id)
    return [Lot(*row) for row in rows]


async def expire_credit(connection: Connection, *, limit: int = 100) -> Sequence[Expired]:
    """Take what is left of due grants out of up to `limit` wallets. Never commits.

    Money that open holds reserve stays until they let go of it: a later call takes it then, if it was not spent.
    """
    rows = await connection.fetch("SELECT * FROM billing.expire_credit($1)", limit)
    return [Expired(*row) for row in rows]


async def attribute_stale(connection: Connection, *, limit: int = 100) -> int:
    """Note what up to `limit` wallets have left of their grants, so that the next look reads less. Never commits."""
    done: int = await connection.fetchval("SELECT billing.attribute_stale_credit($1, $2)", ATTRIBUTION_AGE, limit)
    return done
