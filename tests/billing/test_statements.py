"""Statements add up, page steadily, and say what stands behind each line."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from billing.errors import WalletUnknown
from billing.statements import PAGE_MAX, Filter, StatementPage, pages, statement
from tests.billing.books import Books, capture, place, release


class TestStatement:
    async def test_lines_add_up_to_the_balance(self, books: Books) -> None:
        owner = await books.wallet(100_000)
        dropped, spent = place(owner, 5_000), place(owner, 7_000)
        await books.apply([dropped, spent])
        await books.apply([capture(spent), release(dropped)])
        async with books.pool.acquire() as connection:
            page = await statement(connection, owner)
        assert [(line.kind, line.amount_micros, line.balance_micros) for line in page.lines] == [
            ("usage", -7_000, 93_000),
            ("promotional", 100_000, 100_000),
        ]
        assert page.lines[0].reference == spent.hold_id
        assert page.next_before is None

    async def test_pages_do_not_shift_while_money_moves(self, books: Books) -> None:
        owner = await books.wallet(100_000)
        await _spend(books, owner, 5)
        seen: list[int] = []
        before: int | None = None
        async with books.pool.acquire() as connection:
            for _ in range(10):
                page = await statement(connection, owner, before=before, limit=2)
                seen += [line.balance_micros for line in page.lines]
                before = page.next_before
                if before is None:
                    break
                await _spend(books, owner, 1)
        assert seen == [95_000, 96_000, 97_000, 98_000, 99_000, 100_000]

    async def test_filters_keep_the_balances_of_the_whole_wallet(self, books: Books) -> None:
        owner = await books.wallet(100_000)
        await _spend(books, owner, 2)
        await books.credit(owner, 500)
        now = datetime.now(UTC)
        async with books.pool.acquire() as connection:
            usage = await statement(connection, owner, only=Filter(kinds=["usage"]))
            past = await statement(connection, owner, only=Filter(until=now - timedelta(hours=1)))
            around = Filter(since=now - timedelta(hours=1), until=now + timedelta(hours=1))
            recent = await statement(connection, owner, only=around)
        assert [line.balance_micros for line in usage.lines] == [98_000, 99_000]
        assert past == StatementPage([], None)
        assert [line.amount_micros for line in recent.lines] == [500, -1_000, -1_000, 100_000]

    async def test_an_untouched_wallet_has_an_empty_statement(self, books: Books) -> None:
        owner = await books.wallet()
        async with books.pool.acquire() as connection:
            assert await statement(connection, owner) == StatementPage([], None)
            with pytest.raises(WalletUnknown):
                await statement(connection, uuid4())

    @pytest.mark.parametrize("limit", [0, PAGE_MAX + 1])
    async def test_pages_are_bounded(self, books: Books, limit: int) -> None:
        async with books.pool.acquire() as connection:
            with pytest.raises(ValueError, match="limit"):
                await statement(connection, uuid4(), limit=limit)

    async def test_each_line_says_what_stands_behind_it(self, books: Books) -> None:
        owner, key = await books.wallet(), uuid4()
        payment = await books.top_up(owner, 1_000, intent="pi_behind")
        await books.credit(owner, 7_000)
        hold = place(owner, 5_000, key_id=key)
        await books.apply([hold])
        await books.apply([capture(hold)])
        await books.refund(payment, 1_050, intent="pi_behind", refund="re_behind")
        async with books.pool.acquire() as connection:
            refund, usage, grant, top_up = (await statement(connection, owner)).lines
        assert (usage.hold_id, usage.key_id, usage.payment_id) == (hold.hold_id, key, None)
        assert (grant.hold_id, grant.reason, grant.stripe_id) == (None, "test", None)
        assert (top_up.kind, top_up.payment_id, top_up.stripe_id) == ("topup", payment, "pi_behind")
        assert (refund.kind, refund.payment_id, refund.stripe_id) == ("refund", payment, "re_behind")

    async def test_an_export_is_all_of_it_however_long(self, books: Books) -> None:
        owner = await books.wallet(10_000_000)
        await _spend(books, owner, PAGE_MAX + 5)
        async with books.pool.acquire() as connection:
            first = await statement(connection, owner, limit=2)
        await _spend(books, owner, 1)
        lines = [line async for page in pages(books.pool, owner, first=first) for line in page.lines]
        assert len(lines) == PAGE_MAX + 6
        assert lines[-1].balance_micros == 10_000_000
        for newer, older in pairwise(lines):
            assert newer.balance_micros == older.balance_micros + newer.amount_micros


async def _spend(books: Books, owner: UUID, times: int) -> None:
    holds = [place(owner, 1_000) for _ in range(times)]
    await books.apply(holds)
    await books.apply([capture(hold) for hold in holds])
