"""Money is a whole number of micro-dollars; this is the only place that parses or formats dollars."""

import re
from typing import Final

from billing.errors import AmountInvalid

Micros = int
"""Millionths of a US dollar: $0.005 is 5,000. An alias, so that amounts add up without casts."""

MICROS_PER_USD: Final = 1_000_000
MICROS_PER_CENT: Final = 10_000
MICROS_MAX: Final = 2**53 - 1
"""About nine billion dollars: the largest amount that every JSON reader keeps exactly."""

_DECIMALS: Final = 6
_CENT_DECIMALS: Final = 2
_AMOUNT: Final = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]{1,12})(?:\.(?P<fraction>[0-9]+))?", re.ASCII)


def parse_usd(text: str, *, negative_allowed: bool = False) -> Micros:
    """Exact micros of a plain decimal dollar amount such as `5`, `$0.005` or `-1.25`.

    Raises AmountInvalid for anything else: more than six decimals that matter, exponents, NaN, thousands
    separators, amounts beyond MICROS_MAX, and negative amounts unless `negative_allowed`.
    """
    stripped = text.strip()
    sign = ""
    if stripped.startswith(("-$", "+$")):
        sign, stripped = stripped[0], stripped[2:]
    elif stripped.startswith("$"):
        sign, stripped = "+", stripped[1:]
    match = _AMOUNT.fullmatch(stripped)
    if match is None or (sign and match["sign"]):
        raise AmountInvalid(f"not an amount of dollars: {text[:40]!r}")
    fraction = (match["fraction"] or "").rstrip("0")
    if len(fraction) > _DECIMALS:
        raise AmountInvalid(f"more than {_DECIMALS} decimals: {text[:40]!r}")
    micros = int(match["whole"]) * MICROS_PER_USD + int(fraction.ljust(_DECIMALS, "0"))
    if micros > MICROS_MAX:
        raise AmountInvalid(f"amount too large: {text[:40]!r}")
    if (sign or match["sign"]) == "-":
        micros = -micros
    if micros < 0 and not negative_allowed:
        raise AmountInvalid(f"negative amount: {text[:40]!r}")
    return micros


def format_usd(micros: Micros) -> str:
    """The exact amount with all six decimals, for machines: 5,000 becomes `0.005000`."""
    whole, fraction = divmod(abs(micros), MICROS_PER_USD)
    return f"{'-' if micros < 0 else ''}{whole}.{fraction:06d}"


def format_usd_short(micros: Micros) -> str:
    """The exact amount for people, at least cents: `$0.005`, `$10.00`, `-$1,234.50`."""
    whole, fraction = divmod(abs(micros), MICROS_PER_USD)
    digits = f"{fraction:06d}".rstrip("0").ljust(_CENT_DECIMALS, "0")
    return f"{'-' if micros < 0 else ''}${whole:,}.{digits}"
