"""Dollars in and out of micros, exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import AmountInvalid
from billing.money import MICROS_MAX, format_usd, format_usd_short, parse_usd


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("5", 5_000_000),
        ("$0.005", 5_000),
        ("0.000001", 1),
        ("+$1.5", 1_500_000),
        ("+1.50", 1_500_000),
        (" 10.00 ", 10_000_000),
        ("1.2345670000", 1_234_567),
        ("0", 0),
    ],
)
def test_reads_plain_dollar_amounts(text: str, micros: int) -> None:
    assert parse_usd(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        *["", "$", "five", "nan", "inf", "1e3", "1,000", "0x10", "1.", ".5", "1_000", "٣", "--1", "-$-1", "$-1"],
        *["0.0000001", "999999999999", "1" * 50, "$$1", "1 000", "+$+1", "$+1"],
    ],
)
def test_refuses_what_is_not_exactly_an_amount(text: str) -> None:
    with pytest.raises(AmountInvalid):
        parse_usd(text, negative_allowed=True)


def test_negative_amounts_only_where_asked_for() -> None:
    assert parse_usd("-1.25", negative_allowed=True) == -1_250_000
    assert parse_usd("-$1.25", negative_allowed=True) == -1_250_000
    with pytest.raises(AmountInvalid, match="negative"):
        parse_usd("-1.25")


@given(st.integers(min_value=-MICROS_MAX, max_value=MICROS_MAX))
def test_every_amount_survives_the_round_trip(micros: int) -> None:
    assert parse_usd(format_usd(micros), negative_allowed=True) == micros
    assert parse_usd(format_usd_short(micros).replace(",", ""), negative_allowed=True) == micros


@pytest.mark.parametrize(
    ("micros", "exact", "short"),
    [
        (5_000, "0.005000", "$0.005"),
        (10_000_000, "10.000000", "$10.00"),
        (1_234_500_000, "1234.500000", "$1,234.50"),
        (-1_234_500_000, "-1234.500000", "-$1,234.50"),
        (-1, "-0.000001", "-$0.000001"),
        (0, "0.000000", "$0.00"),
    ],
)
def test_writes_amounts_for_machines_and_for_people(micros: int, exact: str, short: str) -> None:
    assert format_usd(micros) == exact
    assert format_usd_short(micros) == short
