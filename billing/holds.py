"""Holds: money is reserved before work starts, then captured or released exactly once.

Every operation carries an id chosen by the caller before it is first sent, so sending it again after a lost
answer is always safe. A batch is one call of one database function (`billing.apply_operations`), which locks
the wallets it touches in one global order and gives each operation its own outcome.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from billing.connection import Connection
from billing.errors import (
    AmountInvalid,
    BillingError,
    HoldConflict,
    HoldError,
    HoldResolvedDifferently,
    HoldUnknown,
    InsufficientCredits,
    SpendCapReached,
    WalletFrozen,
    WalletUnknown,
)
from billing.money import MICROS_MAX, Micros

NEVER_RESETS: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Start of the period of a key whose spend is counted over its whole life."""

BATCH_MAX: Final = 2_000
REASON_LENGTH_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Reserve `amount_micros` (> 0) of the owner's wallet until captured, released or expired.

    With a `key_id` the amount also counts towards that key's spend of the period starting at `period_start`,
    and if `spend_cap_micros` is given, spent + held + amount may not pass it. A new period simply passes a new
    `period_start`; spend is counted even while there is no cap, so a cap set later is true at once.
    `expires_at` must lie beyond the longest time that the work may take.
    """

    hold_id: UUID
    owner_id: UUID
    amount_micros: Micros
    expires_at: datetime
    key_id: UUID | None = None
    period_start: datetime = NEVER_RESETS
    spend_cap_micros: Micros | None = None

    def __post_init__(self) -> None:
        _require_amount(self.amount_micros)
        if self.expires_at.tzinfo is None or self.period_start.tzinfo is None:
            raise ValueError("expires_at and period_start need a time zone")
        if self.spend_cap_micros is not None and (self.key_id is None or self.spend_cap_micros < 0):
            raise ValueError("a spend cap is not negative and belongs to a key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """Take `amount_micros` (> 0, at most what was held) for finished work; the rest is free again."""

    hold_id: UUID
    owner_id: UUID
    amount_micros: Micros

    def __post_init__(self) -> None:
        _require_amount(self.amount_micros)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give the reserved money back. Releasing an id that was never placed makes sure it never can be."""

    hold_id: UUID
    owner_id: UUID
    reason: str

    def __post_init__(self) -> None:
        if len(self.reason) > REASON_LENGTH_MAX:
            raise ValueError(f"a reason has at most {REASON_LENGTH_MAX} characters")


Operation = Place | Capture | Release


class OutcomeKind(StrEnum):
    """What became of one operation; the first group changed the books or found them already so."""

    PLACED = "placed"
    CAPTURED = "captured"
    RELEASED = "released"
    REPLAYED = "replayed"  # the same operation was applied before
    TOMBSTONED = "tombstoned"  # released before it was placed: it can never be placed now
    CAPTURED_LATE = "captured_late"  # the hold had expired; the wallet and the cap still allowed the charge
    WRITTEN_OFF = "written_off"  # the hold had expired and the money was gone: our loss, to be reported

    INSUFFICIENT = "insufficient"
    CAP_REACHED = "cap_reached"
    FROZEN = "frozen"
    WALLET_UNKNOWN = "wallet_unknown"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"
    RESOLVED_DIFFERENTLY = "resolved_differently"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one operation. `available_micros` is the wallet's free money after it (None: no wallet)."""

    operation: Operation
    kind: OutcomeKind
    available_micros: Micros | None
    key_spent_micros: Micros | None = None

    @property
    def refusal(self) -> BillingError | None:
        """The error to raise to the caller, or None when the operation holds."""
        operation = self.operation
        if self.kind in _HOLD_REFUSALS:
            refusal, explanation = _HOLD_REFUSALS[self.kind]
            return refusal(operation.hold_id, explanation)
        if self.kind is OutcomeKind.WALLET_UNKNOWN:
            return WalletUnknown(operation.owner_id)
        if self.kind is OutcomeKind.FROZEN:
            return WalletFrozen(operation.owner_id)
        return self._shortage(operation) if isinstance(operation, Place) else None

    def _shortage(self, place: Place) -> BillingError | None:
        if self.kind is OutcomeKind.INSUFFICIENT:
            return InsufficientCredits(available_micros=self.available_micros or 0, needed_micros=place.amount_micros)
        if self.kind is OutcomeKind.CAP_REACHED:
            return SpendCapReached(
                cap_micros=place.spend_cap_micros or 0,
                spent_micros=self.key_spent_micros or 0,
                needed_micros=place.amount_micros,
            )
        return None


_HOLD_REFUSALS: Final[Mapping[OutcomeKind, tuple[type[HoldError], str]]] = {
    OutcomeKind.CONFLICT: (HoldConflict, "used with another wallet or amount, or more than was held"),
    OutcomeKind.UNKNOWN: (HoldUnknown, "never placed"),
    OutcomeKind.RESOLVED_DIFFERENTLY: (HoldResolvedDifferently, "already resolved in another way"),
}

_ACTIONS: Final = {Place: "place", Capture: "capture", Release: "release"}

_APPLY: Final = """
SELECT outcomes, available_micros, key_spent_micros FROM billing.apply_operations(
    $1::text[], $2::uuid[], $3::uuid[], $4::bigint[], $5::timestamptz[],
    $6::uuid[], $7::timestamptz[], $8::bigint[], $9::text[])
"""


async def apply(connection: Connection, operations: Sequence[Operation]) -> list[Outcome]:
    """Apply up to BATCH_MAX operations in one call; outcomes are in the order of the operations.

    Runs inside the caller's READ COMMITTED transaction and never commits, so whatever else the caller writes
    stands or falls with it. Call it once per transaction, before other row locks are taken: wallets are locked
    in one global order per call, and a second call could lock them in another. Each hold id may appear once per
    call. Captures and releases are decided before placements, so money that is freed is usable at once.

    An operation that is refused changes nothing and does not disturb its neighbours. Raises ValueError for a
    batch that breaks the rules above, and asyncpg's errors when the database does.
    """
    if not operations:
        return []
    if len(operations) > BATCH_MAX:
        raise ValueError(f"at most {BATCH_MAX} operations in one call")
    if len({operation.hold_id for operation in operations}) != len(operations):
        raise ValueError("a hold id may appear only once in one call")
    row = await connection.fetchrow(_APPLY, *_columns(operations))
    assert row is not None, "billing.apply_operations returns exactly one row"
    answers = zip(operations, row["outcomes"], row["available_micros"], row["key_spent_micros"], strict=True)
    return [Outcome(operation, OutcomeKind(kind), available, spent) for operation, kind, available, spent in answers]


async def expire(connection: Connection, *, limit: int = 500) -> list[UUID]:
    """Give back the money of up to `limit` holds past their `expires_at`; ids of those that expired now.

    Same rules as `apply`: inside the caller's transaction, nothing else locked before it. A hold that is captured
    at the same moment is either captured or expired, never both.
    """
    if not 1 <= limit <= BATCH_MAX:
        raise ValueError(f"limit must be 1 to {BATCH_MAX}")
    rows = await connection.fetch("SELECT hold_id FROM billing.expire_holds($1::integer) AS hold_id", limit)
    return [row["hold_id"] for row in rows]


def _require_amount(amount_micros: Micros) -> None:
    if not 0 < amount_micros <= MICROS_MAX:
        raise AmountInvalid(f"an amount is 1 to {MICROS_MAX} micros, not {amount_micros}")


def _columns(operations: Sequence[Operation]) -> list[list[object]]:
    """The operations as one array per argument of billing.apply_operations."""
    rows = [_row(operation) for operation in operations]
    return [list(column) for column in zip(*rows, strict=True)]


def _row(operation: Operation) -> tuple[object, ...]:
    common = (_ACTIONS[type(operation)], operation.hold_id, operation.owner_id)
    if isinstance(operation, Place):
        return (
            *common,
            operation.amount_micros,
            operation.expires_at,
            operation.key_id,
            operation.period_start if operation.key_id is not None else None,
            operation.spend_cap_micros,
            None,
        )
    if isinstance(operation, Capture):
        return (*common, operation.amount_micros, None, None, None, None, None)
    return (*common, None, None, None, None, None, operation.reason)
