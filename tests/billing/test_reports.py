"""A month's reports count every entry of the month, once."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import reports
from billing.statements import statement
from tests.billing.books import Books, capture, place


@pytest.mark.parametrize(
    ("text", "first", "next_"),
    [("2026-11", (2026, 11), (2026, 12)), ("2026-12", (2026, 12), (2027, 1)), ("2024-2", (2024, 2), (2024, 3))],
)
def test_months(text: str, first: tuple[int, int], next_: tuple[int, int]) -> None:
    assert reports.month_of(text) == (datetime(*first, 1, tzinfo=UTC), datetime(*next_, 1, tzinfo=UTC))


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-11-02", "9999-12", "november"])
def test_what_is_no_month(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        reports.month_of(text)


async def test_revenue_and_fees(own_books: Books) -> None:
    small, large = await own_books.wallet(1_000), await own_books.wallet()
    await own_books.top_up(large, 1_000)
    payment = await own_books.top_up(large, 2_000)
    await own_books.refund(payment, 1_050)
    holds = [place(small, 400), place(large, 5_000), place(large, 5_000)]
    await own_books.apply(holds)
    await own_books.apply([capture(hold) for hold in holds])
    month = reports.month_of(f"{datetime.now(UTC):%Y-%m}")
    async with own_books.pool.acquire() as connection:
        assert await reports.revenue(connection, month) == [
            reports.Revenue(large, 2, 10_000, 0),
            reports.Revenue(small, 1, 400, 0),
        ]
        moved = await reports.movements(connection, month)
        assert await reports.movements(connection, reports.month_of("2020-01")) == []
    assert reports.fees(moved) == reports.Fees(
        charged_micros=1_500_000, returned_micros=500_000, stripe_micros=0, disputes_micros=0
    )
    assert reports.fees(moved).net_micros == 1_000_000
    assert ("usage", 3) in [(x.kind, x.entries) for x in moved if x.credit == "usage_revenue"]


async def test_a_month_begins_with_its_first_moment_and_ends_before_the_next(own_books: Books) -> None:
    owner = await own_books.wallet(1_000)
    hold = place(owner, 400)
    await own_books.apply([hold])
    await own_books.apply([capture(hold)])
    async with own_books.pool.acquire() as connection:
        charged_at = (await statement(connection, owner, limit=1)).lines[0].created_at
        before, after = charged_at - timedelta(days=1), charged_at + timedelta(days=1)
        for month, charges in (((before, charged_at), 0), ((charged_at, after), 1)):
            assert sum(line.charges for line in await reports.revenue(connection, month)) == charges
            assert [x.entries for x in await reports.movements(connection, month) if x.kind == "usage"] == [1] * charges


def test_stripes_own_fees_are_costs() -> None:
    month = [
        reports.Movement("stripe_charge", "stripe_fees", "stripe_clearing", 2, 700),
        reports.Movement("dispute_charge", "chargeback_loss", "stripe_clearing", 1, 1_500),
        reports.Movement("dispute_charge", "stripe_clearing", "chargeback_loss", 1, 500),
        reports.Movement("topup_fee", "stripe_clearing", "platform_fee", 2, 5_000),
    ]
    fees = reports.fees(month)
    assert (fees.stripe_micros, fees.disputes_micros, fees.net_micros) == (700, 1_000, 3_300)
