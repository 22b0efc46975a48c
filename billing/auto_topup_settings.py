"""Settings and attempts of auto top-up as rows. Every function takes a connection and never commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from billing.connection import Connection
from billing.errors import AmountInvalid, SavedCardMissing, WalletUnknown
from billing.money import MICROS_MAX, MICROS_PER_CENT, Micros
from billing.pricing import TOP_UP_CENTS_MAX, TOP_UP_CENTS_MIN, TopUpPrice, split_top_up

DECLINES_MAX: Final = 3
COOL_DOWN: Final = timedelta(minutes=10)
"""How long a declined card is left alone before it is tried again."""


class Claim(StrEnum):
    """What became of the wish to charge the saved card."""

    CLAIMED = "claimed"
    IDLE = "idle"
    OPEN = "open"
    CEILING = "ceiling"
    CARD_MISSING = "card_missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTopUp:
    """When to charge the saved card: below `threshold_micros` available, a fixed amount of credit or up to a target.

    `monthly_ceiling_micros` bounds what the card is charged in a calendar month (UTC), fees included.
    """

    enabled: bool
    threshold_micros: Micros
    amount_micros: Micros | None
    target_micros: Micros | None
    monthly_ceiling_micros: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTopUpState:
    """The settings and how it goes. `paused_reason`: declined, authentication_required, card_missing, fraud_warning."""

    settings: AutoTopUp
    paused_reason: str | None
    declines: int
    next_attempt_at: datetime | None
    charged_this_month_micros: Micros


def checked(settings: AutoTopUp) -> AutoTopUp:
    """The settings, if one top-up always lifts the wallet over the threshold. Raises AmountInvalid."""
    if (settings.amount_micros is None) == (settings.target_micros is None):
        raise AmountInvalid("exactly one of amount and target is needed")
    smallest, largest = TOP_UP_CENTS_MIN * MICROS_PER_CENT, TOP_UP_CENTS_MAX * MICROS_PER_CENT
    if not 0 < settings.threshold_micros <= largest:
        raise AmountInvalid(f"the threshold is 1 to {largest} micros")
    if settings.amount_micros is not None:
        split_top_up(_whole_cents(settings.amount_micros))
        if settings.amount_micros < settings.threshold_micros:
            raise AmountInvalid("the amount is at least the threshold")
    if settings.target_micros is not None and not (
        settings.threshold_micros + smallest <= settings.target_micros <= largest
    ):
        raise AmountInvalid(f"the target is at least {smallest} micros above the threshold, at most {largest}")
    if not 0 < settings.monthly_ceiling_micros <= MICROS_MAX:
        raise AmountInvalid("the monthly ceiling is positive")
    return settings


def _whole_cents(amount_micros: Micros) -> int:
    cents, rest = divmod(amount_micros, MICROS_PER_CENT)
    if rest:
        raise AmountInvalid("an amount of credit is in whole cents")
    return cents


async def save_settings(connection: Connection, owner_id: UUID, settings: AutoTopUp) -> None:
    """Set it up, and let it go on if it was paused. Raises AmountInvalid, SavedCardMissing, WalletUnknown."""
    checked(settings)
    outcome = await connection.fetchval(
        "SELECT billing.set_auto_top_up($1, $2, $3, $4, $5, $6)",
        owner_id,
        settings.enabled,
        settings.threshold_micros,
        settings.amount_micros,
        settings.target_micros,
        settings.monthly_ceiling_micros,
    )
    match outcome:
        case "wallet_unknown":
            raise WalletUnknown(owner_id)
        case "card_missing":
            raise SavedCardMissing("auto top-up needs a saved card")


async def read_state(connection: Connection, owner_id: UUID) -> AutoTopUpState | None:
    """The owner's settings and their state; None if they were never set."""
    row = await connection.fetchrow(
        """
        SELECT *, coalesce((
            SELECT sum(payment.credit_micros + payment.fee_micros) FROM billing.payments payment
            WHERE payment.wallet_id = setting.wallet_id AND payment.kind = 'auto' AND payment.status = 'paid'
                AND payment.created_at >= date_trunc('month', now(), 'UTC')
        ), 0) AS charged_micros, nullif(next_attempt_at, '-infinity') AS resumes_at
        FROM billing.auto_top_ups setting WHERE owner_id = $1
        """,
        owner_id,
    )
    if row is None:
        return None
    return AutoTopUpState(
        settings=AutoTopUp(
            enabled=row["enabled"],
            threshold_micros=row["threshold_micros"],
            amount_micros=row["amount_micros"],
            target_micros=row["target_micros"],
            monthly_ceiling_micros=row["monthly_ceiling_micros"],
        ),
        paused_reason=row["paused_reason"],
        declines=row["declines"],
        next_attempt_at=row["resumes_at"],
        charged_this_month_micros=int(row["charged_micros"]),
    )


@dataclass(frozen=True, slots=True)
class Due:
    """A wallet below its threshold, and what it takes to fill it."""

    owner_id: UUID
    price: TopUpPrice


async def due(connection: Connection, *, limit: int) -> Sequence[Due]:
    """Wallets that have fallen below their threshold and have no attempt under way."""
    rows = await connection.fetch(
        """
        SELECT setting.owner_id, setting.amount_micros, setting.target_micros,
            wallet.balance_micros - wallet.held_micros AS available_micros
        FROM billing.auto_top_ups setting
        JOIN billing.wallets wallet ON wallet.id = setting.wallet_id
        WHERE setting.enabled AND setting.paused_reason IS NULL AND setting.next_attempt_at <= now()
            AND NOT wallet.frozen AND wallet.balance_micros - wallet.held_micros < setting.threshold_micros
            AND NOT EXISTS (
                SELECT FROM billing.payments payment
                WHERE payment.wallet_id = wallet.id AND payment.kind = 'auto' AND payment.status = 'open')
        ORDER BY setting.next_attempt_at LIMIT $1
        """,
        limit,
    )
    return [
        Due(row["owner_id"], _price(row["amount_micros"], row["target_micros"], row["available_micros"]))
        for row in rows
    ]


def _price(amount_micros: Micros | None, target_micros: Micros | None, available_micros: Micros) -> TopUpPrice:
    """A fixed amount, or what is missing to the target in whole cents, rounded up."""
    if amount_micros is not None:
        return split_top_up(amount_micros // MICROS_PER_CENT)
    assert target_micros is not None, "an amount or a target is set"
    missing_cents = -((available_micros - target_micros) // MICROS_PER_CENT)
    return split_top_up(min(max(missing_cents, TOP_UP_CENTS_MIN), TOP_UP_CENTS_MAX))


async def claim(
    connection: Connection, payment_id: UUID, owner_id: UUID, price: TopUpPrice, *, expires_at: datetime
) -> Claim:
    """Start an attempt if one is still due: at most one is open per wallet, whoever asks."""
    outcome = await connection.fetchval(
        "SELECT billing.claim_auto_top_up($1, $2, $3, $4, $5)",
        payment_id,
        owner_id,
        price.credit_micros,
        price.fee_micros,
        expires_at,
    )
    return Claim(outcome)


async def fail_attempt(
    connection: Connection, payment_id: UUID, *, code: str, message: str | None, authentication: bool
) -> bool:
    """The bank refused this attempt; False if it is no open attempt, so that a refusal counts once.

    DECLINES_MAX refusals in a row, or the bank's wish to see the cardholder, pause auto top-up.
    """
    failed: bool = await connection.fetchval(
        "SELECT billing.fail_auto_top_up($1, $2, $3, $4, $5, $6)",
        payment_id,
        code,
        message,
        authentication,
        DECLINES_MAX,
        COOL_DOWN,
    )
    return failed


async def pause(connection: Connection, owner_id: UUID, reason: str) -> bool:
    """Charge nothing more until the owner sets it up again; False if it was not on."""
    paused: bool = await connection.fetchval("SELECT billing.pause_auto_top_up($1, $2)", owner_id, reason)
    return paused


async def forget_card(connection: Connection, payment_method_id: str) -> bool:
    """The card is not there any more; False if it was nobody's."""
    forgotten: bool = await connection.fetchval("SELECT billing.forget_card($1)", payment_method_id)
    return forgotten
