"""Wallets: open one, read it, give or take by hand, freeze it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid4

from billing.connection import Connection
from billing.errors import AmountInvalid, InsufficientCredits, ReferenceConflict, WalletUnknown
from billing.money import MICROS_MAX, Micros

TEXT_LENGTH_MAX: Final = 500
LOW_BALANCE_MICROS: Final = 1_000_000
"""Below this a new wallet's owner is told, until the owner chooses another amount."""


class CreditKind(StrEnum):
    """Why an operator changes a wallet by hand; also the kind of the ledger entry."""

    PROMOTIONAL = "promotional"
    ADJUSTMENT = "adjustment"


@dataclass(frozen=True, slots=True)
class Balance:
    """A wallet at one moment: what it holds, what open holds reserve of it, and whether new spending is stopped.

    `owed_micros` was taken back by a refund or a dispute after it had been spent; the next top-up pays it first.
    The owner is told once when free money falls below `low_balance_micros` (0: never).
    """

    balance_micros: Micros
    held_micros: Micros
    frozen: bool = False
    owed_micros: Micros = 0
    low_balance_micros: Micros = LOW_BALANCE_MICROS

    @property
    def available_micros(self) -> Micros:
        """What new holds may still take; never negative."""
        return self.balance_micros - self.held_micros


async def open_wallet(connection: Connection, owner_id: UUID) -> None:
    """Give the owner an empty wallet; nothing happens if there is one. Never commits."""
    await connection.fetchval("SELECT billing.open_wallet($1)", owner_id)


async def balance(connection: Connection, owner_id: UUID) -> Balance:
    """The owner's wallet as of now. Raises WalletUnknown."""
    row = await connection.fetchrow(
        "SELECT balance_micros, held_micros, frozen, owed_micros, low_balance_micros"
        " FROM billing.wallets WHERE owner_id = $1",
        owner_id,
    )
    if row is None:
        raise WalletUnknown(owner_id)
    return Balance(*row)


async def credit(
    connection: Connection,
    owner_id: UUID,
    amount_micros: Micros,
    *,
    kind: CreditKind,
    reference: str,
    reason: str,
    actor: str,
    expires_at: datetime | None = None,
) -> Balance:
    """Give money by hand, once per `reference` of this wallet, and return the wallet afterwards. Never commits.

    PROMOTIONAL credit is spent before paid credit and ends at `expires_at` (None: never). An ADJUSTMENT may be
    negative and takes free money only. The same reference again changes nothing and returns the wallet as it is.
    Raises WalletUnknown, InsufficientCredits, ReferenceConflict (the reference was used for another kind, amount or
    end) and AmountInvalid.
    """
    if amount_micros == 0 or abs(amount_micros) > MICROS_MAX:
        raise AmountInvalid(f"an amount is 1 to {MICROS_MAX} micros, not {amount_micros}")
    if amount_micros < 0 and kind is not CreditKind.ADJUSTMENT:
        raise AmountInvalid(f"a {kind} credit cannot be negative")
    for name, value in (("reference", reference), ("reason", reason), ("actor", actor)):
        if not 0 < len(value) <= TEXT_LENGTH_MAX:
            raise ValueError(f"{name} needs 1 to {TEXT_LENGTH_MAX} characters")
    if expires_at is not None and (kind is not CreditKind.PROMOTIONAL or expires_at.tzinfo is None):
        raise ValueError("only promotional credit ends, at a time with a time zone")
    if kind is CreditKind.PROMOTIONAL:
        row = await connection.fetchrow(
            "SELECT * FROM billing.grant_credit($1, $2, $3, $4, $5, $6, $7)",
            uuid4(),
            owner_id,
            amount_micros,
            reference,
            reason,
            actor,
            expires_at,
        )
    else:
        row = await connection.fetchrow(
            "SELECT * FROM billing.credit_wallet($1, $2, $3, $4, $5, $6, $7)",
            uuid4(),
            owner_id,
            kind.value,
            amount_micros,
            reference,
            reason,
            actor,
        )
    assert row is not None, "both functions return exactly one row"
    match row["outcome"]:
        case "wallet_unknown":
            raise WalletUnknown(owner_id)
        case "conflict":
            raise ReferenceConflict(reference)
        case "insufficient":
            raise InsufficientCredits(
                available_micros=row["balance_micros"] - row["held_micros"], needed_micros=-amount_micros
            )
    return await balance(connection, owner_id)


async def set_frozen(connection: Connection, owner_id: UUID, *, frozen: bool) -> None:
    """Stop new holds (or allow them again); open holds can still be captured and released. Never commits.

    Raises WalletUnknown.
    """
    if not await connection.fetchval("SELECT billing.set_wallet_frozen($1, $2)", owner_id, frozen):
        raise WalletUnknown(owner_id)
