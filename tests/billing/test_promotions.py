"""Promotional credit is spent before paid credit, what ends first goes first; what ends unused leaves the wallet."""

import asyncio
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from billing import wallets
from billing.errors import ReferenceConflict, WalletUnknown
from billing.ledger import reconcile
from billing.notices import list_notices
from billing.promotions import Expired, attribute_stale, expire_credit, open_lots
from billing.statements import statement
from billing.wallets import CreditKind
from tests.billing.books import Books, an_hour_ago, capture, in_an_hour, place, release


async def _spend(books: Books, owner: UUID, amount_micros: int) -> None:
    hold = place(owner, amount_micros)
    await books.apply([hold])
    await books.apply([capture(hold)])


async def _left(books: Books, owner: UUID) -> list[int]:
    """What is left of each grant, in the order of spending."""
    async with books.pool.acquire() as connection:
        return [lot.remaining_micros for lot in await open_lots(connection, owner)]


async def _expire(books: Books) -> list[Expired]:
    async with books.pool.acquire() as connection, connection.transaction():
        return list(await expire_credit(connection))


async def test_promotional_credit_goes_first_and_what_ends_first_before_the_rest(books: Books) -> None:
    owner = await books.wallet()
    await books.top_up(owner, 500)
    await books.credit(owner, 300)
    await books.credit(owner, 200, expires_at=in_an_hour() + timedelta(days=1))
    await books.credit(owner, 100, expires_at=in_an_hour())
    assert await _left(books, owner) == [100, 200, 300]
    await _spend(books, owner, 150)
    assert await _left(books, owner) == [150, 300]
    await _spend(books, owner, 400)
    assert await _left(books, owner) == [50]
    await _spend(books, owner, 60)
    assert await _left(books, owner) == []
    assert await books.balance(owner) == (5_000_000 - 10, 0)


async def test_what_was_spent_before_a_grant_is_not_charged_to_it(books: Books) -> None:
    owner = await books.wallet()
    await books.top_up(owner, 500)
    await _spend(books, owner, 1_000_000)
    await books.credit(owner, 300)
    assert await _left(books, owner) == [300]
    await _spend(books, owner, 100)
    await books.credit(owner, 50, expires_at=in_an_hour())
    assert await _left(books, owner) == [50, 200]


async def test_unused_credit_ends_once_and_the_owner_is_told(own_books: Books) -> None:
    owner = await own_books.wallet()
    await own_books.top_up(owner, 500)
    await own_books.credit(owner, 1_000, expires_at=an_hour_ago())
    await own_books.credit(owner, 70, expires_at=in_an_hour())
    await _spend(own_books, owner, 400)
    [expired] = await _expire(own_books)
    assert (expired.owner_id, expired.amount_micros) == (owner, 600)
    assert await _expire(own_books) == []
    assert await own_books.balance(owner) == (5_000_070, 0)
    async with own_books.pool.acquire() as connection:
        line = (await statement(connection, owner)).lines[0]
        assert (line.kind, line.amount_micros, line.reason) == ("breakage", -600, "test")
        [told] = await list_notices(connection, owner)
        assert (told.kind, told.details["amount_micros"]) == ("credit_expired", 600)
        assert await reconcile(connection) == []


async def test_reserved_money_is_not_taken_until_the_hold_lets_go(own_books: Books) -> None:
    owner = await own_books.wallet()
    await own_books.credit(owner, 1_000, expires_at=an_hour_ago())
    kept, dropped = place(owner, 300), place(owner, 500)
    await own_books.apply([kept, dropped])
    assert [x.amount_micros for x in await _expire(own_books)] == [200]
    assert await own_books.balance(owner) == (800, 800)
    assert await _expire(own_books) == []
    await own_books.apply([capture(kept), release(dropped)])
    assert [x.amount_micros for x in await _expire(own_books)] == [500]
    assert await own_books.balance(owner) == (0, 0)
    await own_books.top_up(owner, 500)
    assert await _expire(own_books) == []
    async with own_books.pool.acquire() as connection:
        assert await reconcile(connection) == []


async def test_money_taken_back_leaves_no_more_promotional_credit_than_there_is_money(own_books: Books) -> None:
    owner = await own_books.wallet()
    payment = await own_books.top_up(owner, 500)
    await own_books.credit(owner, 1_000_000, expires_at=an_hour_ago())
    await _spend(own_books, owner, 200_000)
    hold = place(owner, 5_500_000)
    await own_books.apply([hold])
    await own_books.refund(payment, 525)
    assert await own_books.balance(owner) == (5_500_000, 5_500_000)  # 4.7 million of the refund are owed
    await own_books.apply([capture(hold)])
    assert await _left(own_books, owner) == []
    await own_books.top_up(owner, 1_000)
    assert await _expire(own_books) == []
    assert await own_books.balance(owner) == (5_300_000, 0)
    async with own_books.pool.acquire() as connection:
        assert (await wallets.balance(connection, owner)).owed_micros == 0
        assert await reconcile(connection) == []


async def test_money_that_comes_in_after_a_low_point_is_paid_money(books: Books) -> None:
    owner = await books.wallet()
    await books.credit(owner, 100)
    await books.credit(owner, -40, kind=CreditKind.ADJUSTMENT)
    await books.top_up(owner, 500)
    assert await _left(books, owner) == [60]
    await _spend(books, owner, 10)
    assert await _left(books, owner) == [50]
    await _spend(books, owner, 1_000)
    assert await _left(books, owner) == []


async def test_the_same_grant_again_changes_nothing(books: Books) -> None:
    owner, ending = await books.wallet(), in_an_hour()
    for _ in range(2):
        found = await books.credit(owner, 100, reference="welcome", expires_at=ending)
        assert found.balance_micros == 100
    with pytest.raises(ReferenceConflict):
        await books.credit(owner, 100, reference="welcome")
    with pytest.raises(ReferenceConflict):
        await books.credit(owner, 100, reference="welcome", expires_at=ending + timedelta(seconds=1))
    with pytest.raises(WalletUnknown):
        await books.credit(uuid4(), 100, expires_at=ending)


async def test_only_promotional_credit_ends(books: Books) -> None:
    owner = await books.wallet()
    with pytest.raises(ValueError, match="promotional"):
        await books.credit(owner, 100, kind=CreditKind.ADJUSTMENT, expires_at=in_an_hour())
    with pytest.raises(ValueError, match="time zone"):
        await books.credit(owner, 100, expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - the point of the test


async def test_writing_it_down_changes_nothing_to_see(own_books: Books) -> None:
    owner = await own_books.wallet()
    await own_books.credit(owner, 100, expires_at=in_an_hour())
    await own_books.credit(owner, 100)
    await _spend(own_books, owner, 130)
    async with own_books.pool.acquire() as connection:
        assert await attribute_stale(connection) == 0  # it was looked at a moment ago
    owner_of_tables = await own_books.superuser()
    try:
        await owner_of_tables.execute("UPDATE billing.credit_attributions SET attributed_at = now() - interval '1 day'")
    finally:
        await owner_of_tables.close()
    for expected in (1, 0):
        async with own_books.pool.acquire() as connection, connection.transaction():
            assert await attribute_stale(connection) == expected
        assert await _left(own_books, owner) == [70]
    await _spend(own_books, owner, 30)
    assert await _left(own_books, owner) == [40]


async def test_expiry_beside_calls_takes_what_they_leave(own_books: Books) -> None:
    owner = await own_books.wallet()
    await own_books.top_up(owner, 500)
    for _ in range(20):
        await own_books.credit(owner, 10_000, expires_at=an_hour_ago())

    async def call() -> None:
        for _ in range(40):
            await _spend(own_books, owner, 1_000)

    async def sweep() -> int:
        return sum([x.amount_micros for _ in range(10) for x in await _expire(own_books)])

    *_, first, second = await asyncio.gather(call(), call(), sweep(), sweep())
    assert await own_books.balance(owner) == (5_200_000 - 80_000 - first - second, 0)
    assert 120_000 <= first + second <= 200_000
    async with own_books.pool.acquire() as connection:
        assert await reconcile(connection) == []
