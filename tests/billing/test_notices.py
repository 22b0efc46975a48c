"""An owner hears once that the money runs low, and again only after money came in."""

import asyncio
from uuid import UUID, uuid4

import pytest

from billing.errors import AmountInvalid, WalletUnknown
from billing.notices import Notice, list_notices, set_low_balance, take_notices
from tests.billing.books import Books, capture, place, release


async def _notices(books: Books, owner: UUID) -> list[Notice]:
    async with books.pool.acquire() as connection:
        return list(await list_notices(connection, owner))


async def _threshold(books: Books, owner: UUID, micros: int) -> None:
    async with books.pool.acquire() as connection:
        await set_low_balance(connection, owner, micros)


async def test_one_notice_for_each_crossing(books: Books) -> None:
    owner = await books.wallet(1_000)
    await _threshold(books, owner, 500)
    await books.apply([place(owner, 500)])
    assert await _notices(books, owner) == []
    crossing = place(owner, 1)
    await books.apply([crossing])
    [notice] = await _notices(books, owner)
    assert (notice.kind, notice.details) == ("low_balance", {"available_micros": 499, "threshold_micros": 500})
    await books.apply([release(crossing)])
    await books.apply([place(owner, 1), place(owner, 1)])
    assert len(await _notices(books, owner)) == 1
    await books.credit(owner, 1)  # still below
    await books.apply([place(owner, 1)])
    assert len(await _notices(books, owner)) == 1
    await books.top_up(owner, 500)
    await books.apply([place(owner, 5_000_000)])
    assert len(await _notices(books, owner)) == 2


async def test_however_many_calls_cross_it_together(own_books: Books) -> None:
    owner = await own_books.wallet(100_000)
    await _threshold(own_books, owner, 50_000)
    await asyncio.gather(*(own_books.apply([place(owner, 1_000) for _ in range(10)]) for _ in range(9)))
    assert len(await _notices(own_books, owner)) == 1


async def test_a_capture_may_cross_it_and_a_refused_hold_does_not(books: Books) -> None:
    owner = await books.wallet(1_000)
    await _threshold(books, owner, 500)
    await books.apply([place(owner, 2_000)])
    assert await _notices(books, owner) == []
    hold = place(owner, 600)
    await books.apply([hold])
    await books.apply([capture(hold)])
    assert len(await _notices(books, owner)) == 1


async def test_zero_is_never_and_a_new_threshold_counts_from_now(books: Books) -> None:
    owner = await books.wallet(1_000)
    await _threshold(books, owner, 0)
    await books.apply([place(owner, 900)])
    assert await _notices(books, owner) == []
    await _threshold(books, owner, 500)
    await books.apply([place(owner, 50)])
    assert len(await _notices(books, owner)) == 1
    with pytest.raises(AmountInvalid):
        await _threshold(books, owner, -1)
    with pytest.raises(WalletUnknown):
        await _threshold(books, uuid4(), 1)


async def test_each_notice_is_taken_until_a_taker_commits(own_books: Books) -> None:
    for _ in range(3):
        owner = await own_books.wallet(1_000)
        await own_books.apply([place(owner, 1)])
    async with own_books.pool.acquire() as first, own_books.pool.acquire() as second:
        failing = first.transaction()
        await failing.start()
        taken = await take_notices(first, limit=2)
        async with second.transaction():
            others = await take_notices(second)
        await failing.rollback()
        async with first.transaction():
            again = await take_notices(first)
        assert [n.id for n in again] == [n.id for n in taken]
        assert len(others) == 1
        assert await take_notices(first) == []


async def test_pages_are_bounded_and_steady(books: Books) -> None:
    owner = await books.wallet(10)
    for _ in range(3):
        await _threshold(books, owner, 1_000)
        await books.apply([place(owner, 1)])
    async with books.pool.acquire() as connection:
        first = await list_notices(connection, owner, limit=2)
        rest = await list_notices(connection, owner, before=first[-1].id)
        assert [len(first), len(rest)] == [2, 1]
        with pytest.raises(ValueError, match="limit"):
            await list_notices(connection, owner, limit=0)
