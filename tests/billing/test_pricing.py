"""What calls and top-ups cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import AmountInvalid
from billing.money import MICROS_MAX
from billing.pricing import TOP_UP_CENTS_MAX, TOP_UP_CENTS_MIN, price_call, split_top_up


def test_a_call_costs_its_pictures() -> None:
    assert price_call(5_000, 1) == 5_000
    assert price_call(10_000, 3) == 30_000
    assert price_call(0, 4) == 0


@pytest.mark.parametrize(("unit", "units"), [(5_000, 0), (5_000, -1), (-1, 1), (MICROS_MAX, 2)])
def test_a_call_that_cannot_be_priced_is_refused(unit: int, units: int) -> None:
    with pytest.raises(AmountInvalid):
        price_call(unit, units)


@pytest.mark.parametrize(
    ("credit", "fee"),
    [(500, 25), (1000, 50), (509, 25), (510, 26), (511, 26), (2525, 126), (500_000, 25_000), (10_000, 500)],
)
def test_the_fee_is_five_percent_on_top_rounded_half_up(credit: int, fee: int) -> None:
    price = split_top_up(credit)
    assert (price.credit_cents, price.fee_cents, price.total_cents) == (credit, fee, credit + fee)


def test_the_amounts_in_micros_are_those_in_cents() -> None:
    price = split_top_up(1000)
    assert (price.credit_micros, price.fee_micros, price.total_micros) == (10_000_000, 500_000, 10_500_000)


@given(st.integers(min_value=TOP_UP_CENTS_MIN, max_value=TOP_UP_CENTS_MAX))
def test_the_fee_is_never_off_by_more_than_half_a_cent(credit: int) -> None:
    assert abs(split_top_up(credit).fee_cents * 100 - credit * 5) <= 50


@pytest.mark.parametrize("credit", [TOP_UP_CENTS_MIN - 1, TOP_UP_CENTS_MAX + 1, 0, -500])
def test_amounts_outside_the_bounds_are_refused(credit: int) -> None:
    with pytest.raises(AmountInvalid):
        split_top_up(credit)
