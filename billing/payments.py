"""Payments by card as rows: read them, and tell them what happened.

Every function takes a connection and never commits.

Facts may come in any order and any number of times: the functions behind them keep what only moves forward and post
the difference to what it asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from billing.connection import Connection
from billing.errors import PaymentUnknown, ReferenceConflict, WalletUnknown
from billing.money import Micros
from billing.pricing import TopUpPrice

PAGE_MAX: Final = 100


class PaymentKind(StrEnum):
    """Who started it: the customer at the hosted page, or a wallet that ran low."""

    CHECKOUT = "checkout"
    AUTO = "auto"


class PaymentStatus(StrEnum):
    """How far an attempt to pay has come. A payment that ended can still be paid late; paid is final."""

    OPEN = "open"
    PAID = "paid"
    EXPIRED = "expired"
    FAILED = "failed"
    CANCELED = "canceled"


class PaidOutcome(StrEnum):
    """What became of the news that a payment was paid."""

    PAID = "paid"
    REPLAYED = "replayed"
    UNKNOWN = "unknown"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One attempt to buy credit. Refunded and disputed amounts include the fee's share; both are gross."""

    id: UUID
    owner_id: UUID
    kind: PaymentKind
    status: PaymentStatus
    credit_micros: Micros
    fee_micros: Micros
    save_card: bool
    checkout_session_id: str | None
    checkout_url: str | None
    expires_at: datetime
    payment_method_id: str | None
    payment_intent_id: str | None
    receipt_url: str | None
    failure_code: str | None
    failure_message: str | None
    mismatch: str | None
    paid_at: datetime | None
    refunded_micros: Micros
    disputed_micros: Micros
    created_at: datetime

    @property
    def total_micros(self) -> Micros:
        """What the customer pays: credit and fee."""
        return self.credit_micros + self.fee_micros


@dataclass(frozen=True, slots=True)
class StripeCustomer:
    """Stripe's name for an owner, and the card that was saved, if any."""

    customer_id: str
    payment_method_id: str | None
    card_brand: str | None
    card_last4: str | None


_PAYMENT: Final = """
SELECT id, owner_id, kind, status, credit_micros, fee_micros, save_card, checkout_session_id, checkout_url,
    expires_at, payment_method_id, payment_intent_id, receipt_url, failure_code, failure_message, mismatch, paid_at,
    refund_credit_micros + refund_fee_micros AS refunded_micros,
    dispute_credit_micros + dispute_fee_micros AS disputed_micros, created_at
FROM billing.payments
"""


def _payment(row: Any) -> Payment:
    fields = dict(row)
    return Payment(**(fields | {"kind": PaymentKind(row["kind"]), "status": PaymentStatus(row["status"])}))


async def start_payment(
    connection: Connection,
    payment_id: UUID,
    owner_id: UUID,
    price: TopUpPrice,
    *,
    save_card: bool,
    client_reference: str | None,
    expires_at: datetime,
) -> Payment:
    """Write down that the owner is about to pay at a hosted page, before anyone is asked for money.

    The same `client_reference` again returns the payment that it started. Raises WalletUnknown, and
    ReferenceConflict if that one had another amount.
    """
    row = await connection.fetchrow(
        "SELECT * FROM billing.start_payment($1, $2, $3, $4, $5, $6, $7, $8)",
        payment_id,
        owner_id,
        PaymentKind.CHECKOUT.value,
        price.credit_micros,
        price.fee_micros,
        save_card,
        client_reference,
        expires_at,
    )
    assert row is not None, "billing.start_payment returns exactly one row"
    match row["outcome"]:
        case "wallet_unknown":
            raise WalletUnknown(owner_id)
        case "conflict":
            assert client_reference is not None, "only a reference can be used twice"
            raise ReferenceConflict(client_reference)
    return await get_payment(connection, row["payment_id"])


async def get_payment(connection: Connection, payment_id: UUID, *, owner_id: UUID | None = None) -> Payment:
    """The payment, if it is this owner's (None: anyone's, for the operator). Raises PaymentUnknown."""
    row = await connection.fetchrow(
        f"{_PAYMENT} WHERE id = $1 AND ($2::uuid IS NULL OR owner_id = $2)", payment_id, owner_id
    )
    if row is None:
        raise PaymentUnknown(f"no payment {payment_id}")
    return _payment(row)


async def list_payments(
    connection: Connection, owner_id: UUID, *, before: UUID | None = None, limit: int = 20
) -> Sequence[Payment]:
    """Up to `limit` (1 to PAGE_MAX) payments of the owner, newest first; `before` the last id of the previous page."""
    if not 1 <= limit <= PAGE_MAX:
        raise ValueError(f"limit must be 1 to {PAGE_MAX}")
    rows = await connection.fetch(
        f"{_PAYMENT} WHERE owner_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        owner_id,
        before,
        limit,
    )
    return [_payment(row) for row in rows]


async def open_payments(
    connection: Connection, *, kind: PaymentKind, started_before: datetime, limit: int
) -> Sequence[Payment]:
    """Payments of this kind that are still open although they were started a while ago, oldest first."""
    rows = await connection.fetch(
        f"{_PAYMENT} WHERE status = 'open' AND kind = $1 AND created_at < $2 ORDER BY created_at LIMIT $3",
        kind.value,
        started_before,
        limit,
    )
    return [_payment(row) for row in rows]


async def attach_checkout(connection: Connection, payment_id: UUID, session_id: str, url: str) -> None:
    """Remember the hosted page of a payment."""
    await connection.execute("SELECT billing.attach_checkout($1, $2, $3)", payment_id, session_id, url)


async def stripe_customer(connection: Connection, owner_id: UUID) -> StripeCustomer | None:
    """What Stripe calls this owner; None before the first top-up."""
    row = await connection.fetchrow(
        "SELECT customer_id, payment_method_id, card_brand, card_last4 FROM billing.stripe_customers"
        " WHERE owner_id = $1",
        owner_id,
    )
    return StripeCustomer(*row) if row is not None else None


async def record_stripe_customer(connection: Connection, owner_id: UUID, customer_id: str) -> str:
    """Remember the owner's Stripe customer and return the one that counts: the first."""
    kept: str = await connection.fetchval("SELECT billing.record_stripe_customer($1, $2)", owner_id, customer_id)
    return kept


async def mark_paid(
    connection: Connection, payment_id: UUID, *, payment_intent_id: str, amount_micros: Micros, currency: str
) -> PaidOutcome:
    """Credit the wallet with the credit that our row names, once, if exactly its total was paid in its currency."""
    outcome = await connection.fetchval(
        "SELECT billing.mark_payment_paid($1, $2, $3, $4)", payment_id, payment_intent_id, amount_micros, currency
    )
    return PaidOutcome(outcome)


async def end_payment(
    connection: Connection,
    payment_id: UUID,
    status: PaymentStatus,
    *,
    code: str | None = None,
    message: str | None = None,
) -> bool:
    """The attempt is over without money; False if it was not open (any more)."""
    ended: bool = await connection.fetchval(
        "SELECT billing.end_payment($1, $2, $3, $4)", payment_id, status.value, code, message
    )
    return ended


async def note_failure(connection: Connection, payment_id: UUID, code: str | None, message: str | None) -> None:
    """A card was refused at the hosted page, where another one can be tried."""
    await connection.execute("SELECT billing.note_payment_failure($1, $2, $3)", payment_id, code, message)


async def record_charge(
    connection: Connection,
    payment_id: UUID,
    *,
    charge_id: str,
    receipt_url: str | None,
    payment_method_id: str | None,
    card_brand: str | None,
    card_last4: str | None,
) -> bool:
    """Receipt and card of the successful charge. The card is kept only if the customer asked for it."""
    known: bool = await connection.fetchval(
        "SELECT billing.record_charge($1, $2, $3, $4, $5, $6)",
        payment_id,
        charge_id,
        receipt_url,
        payment_method_id,
        card_brand,
        card_last4,
    )
    return known


async def record_refund(
    connection: Connection,
    refund_id: str,
    *,
    payment_intent_id: str,
    amount_micros: Micros,
    status: str,
    request_id: UUID | None,
) -> str:
    """A refund as Stripe tells of it: 'settled', or 'pending' while its payment is not known."""
    outcome: str = await connection.fetchval(
        "SELECT billing.record_refund($1, $2, $3, $4, $5)",
        refund_id,
        payment_intent_id,
        amount_micros,
        status,
        request_id,
    )
    return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeFacts:
    """A dispute as one of Stripe's messages describes it."""

    id: str
    payment_intent_id: str
    charge_id: str | None
    amount_micros: Micros
    withdrawn_micros: Micros
    reinstated_micros: Micros
    reason: str
    status: str
    closed: bool
    status_at: datetime


async def record_dispute(connection: Connection, facts: DisputeFacts) -> str:
    """A dispute as Stripe tells of it; the wallet is frozen while one is open. Returns as `record_refund`."""
    outcome: str = await connection.fetchval(
        "SELECT billing.record_dispute($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        facts.id,
        facts.payment_intent_id,
        facts.charge_id,
        facts.amount_micros,
        facts.withdrawn_micros,
        facts.reinstated_micros,
        facts.reason,
        facts.status,
        facts.closed,
        facts.status_at,
    )
    return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A dispute about one of our payments, for the operator."""

    id: str
    payment_id: UUID
    owner_id: UUID
    amount_micros: Micros
    withdrawn_micros: Micros
    reinstated_micros: Micros
    reason: str
    status: str
    closed: bool
    created_at: datetime


async def list_disputes(connection: Connection, *, open_only: bool = False, limit: int = 100) -> Sequence[Dispute]:
    """Disputes, newest first."""
    rows = await connection.fetch(
        """
        SELECT dispute.id, payment.id AS payment_id, payment.owner_id, dispute.amount_micros,
            dispute.withdrawn_micros, dispute.reinstated_micros, dispute.reason, dispute.status, dispute.closed,
            dispute.created_at
        FROM billing.disputes dispute
        JOIN billing.payments payment USING (payment_intent_id)
        WHERE NOT ($1 AND dispute.closed)
        ORDER BY dispute.created_at DESC, dispute.id LIMIT $2
        """,
        open_only,
        limit,
    )
    return [Dispute(**dict(row)) for row in rows]
