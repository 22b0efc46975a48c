"""What a call costs, and how a top-up splits into credit and fee."""

from dataclasses import dataclass
from typing import Final

from billing.errors import AmountInvalid
from billing.money import MICROS_MAX, MICROS_PER_CENT, Micros

FEE_BASIS_POINTS: Final = 500
"""The fee on a top-up: 5 % of the credit, on top of it."""

TOP_UP_CENTS_MIN: Final = 500
TOP_UP_CENTS_MAX: Final = 500_000

_BASIS_POINTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class TopUpPrice:
    """The two lines of a top-up and their sum, in whole cents."""

    credit_cents: int
    fee_cents: int

    @property
    def total_cents(self) -> int:
        """What the customer pays."""
        return self.credit_cents + self.fee_cents

    @property
    def credit_micros(self) -> Micros:
        """What the wallet gets."""
        return self.credit_cents * MICROS_PER_CENT

    @property
    def fee_micros(self) -> Micros:
        """What the platform keeps for the top-up."""
        return self.fee_cents * MICROS_PER_CENT

    @property
    def total_micros(self) -> Micros:
        """What the customer pays, in micros."""
        return self.total_cents * MICROS_PER_CENT


def price_call(unit_price_micros: Micros, units: int) -> Micros:
    """Price of one call over `units` (>= 1) pictures at `unit_price_micros` (>= 0) each.

    Raises AmountInvalid when either is out of range.
    """
    if units < 1 or unit_price_micros < 0:
        raise AmountInvalid(f"cannot price {units} units at {unit_price_micros} micros")
    price = unit_price_micros * units
    if price > MICROS_MAX:
        raise AmountInvalid(f"{units} units at {unit_price_micros} micros are too much")
    return price


def split_top_up(credit_cents: int) -> TopUpPrice:
    """Price of buying `credit_cents` of credit: 5 % on top, the fee rounded to the nearest cent, half up.

    Raises AmountInvalid outside TOP_UP_CENTS_MIN to TOP_UP_CENTS_MAX.
    """
    if not TOP_UP_CENTS_MIN <= credit_cents <= TOP_UP_CENTS_MAX:
        raise AmountInvalid(f"a top-up is {TOP_UP_CENTS_MIN} to {TOP_UP_CENTS_MAX} cents, not {credit_cents}")
    fee_cents = (credit_cents * FEE_BASIS_POINTS + _BASIS_POINTS // 2) // _BASIS_POINTS
    return TopUpPrice(credit_cents=credit_cents, fee_cents=fee_cents)
