"""Opening, reading, crediting and freezing wallets."""

import asyncio
from uuid import uuid4

import pytest

from billing import wallets
from billing.errors import AmountInvalid, InsufficientCredits, ReferenceConflict, WalletUnknown
from billing.money import MICROS_MAX
from billing.wallets import Balance, CreditKind
from tests.billing.books import Books, place


async def test_opening_twice_keeps_the_wallet(books: Books) -> None:
    owner = await books.wallet(5_000)
    async with books.pool.acquire() as connection:
        await wallets.open_wallet(connection, owner)
    assert await books.balance(owner) == (5_000, 0)


async def test_two_programs_open_the_same_wallet_at_once(books: Books) -> None:
    owner = uuid4()

    async def open_it() -> None:
        async with books.pool.acquire() as connection, connection.transaction():
            await wallets.open_wallet(connection, owner)

    await asyncio.gather(*(open_it() for _ in range(8)))
    assert await books.balance(owner) == (0, 0)


async def test_a_credit_counts_once_per_reference(books: Books) -> None:
    owner, other = await books.wallet(), await books.wallet()
    for _ in range(2):
        balance = await books.credit(owner, 5_000_000, reference="welcome")
        assert (balance.balance_micros, balance.available_micros, balance.frozen) == (5_000_000, 5_000_000, False)
    assert (await books.credit(other, 5_000_000, reference="welcome")).balance_micros == 5_000_000


async def test_parallel_credits_with_one_reference_count_once(books: Books) -> None:
    owner = await books.wallet()
    await asyncio.gather(*(books.credit(owner, 7, reference="once") for _ in range(10)))
    assert await books.balance(owner) == (7, 0)


async def test_a_reference_used_differently_is_refused(books: Books) -> None:
    owner = await books.wallet()
    await books.credit(owner, 5_000, reference="r")
    with pytest.raises(ReferenceConflict, match="'r'"):
        await books.credit(owner, 5_001, reference="r")
    with pytest.raises(ReferenceConflict):
        await books.credit(owner, 5_000, reference="r", kind=CreditKind.ADJUSTMENT)
    assert await books.balance(owner) == (5_000, 0)


async def test_an_adjustment_takes_free_money_only(books: Books) -> None:
    owner = await books.wallet(10_000)
    await books.apply([place(owner, 4_000)])
    with pytest.raises(InsufficientCredits) as refusal:
        await books.credit(owner, -6_001, kind=CreditKind.ADJUSTMENT)
    assert (refusal.value.available_micros, refusal.value.needed_micros) == (6_000, 6_001)
    assert await books.credit(owner, -6_000, kind=CreditKind.ADJUSTMENT) == Balance(4_000, 4_000)


@pytest.mark.parametrize("amount", [0, MICROS_MAX + 1, -MICROS_MAX - 1, -1])
async def test_amounts_that_cannot_be_given_are_refused(books: Books, amount: int) -> None:
    owner = await books.wallet(1)
    with pytest.raises(AmountInvalid):
        await books.credit(owner, amount)


@pytest.mark.parametrize("reference", ["", "x" * 501])
async def test_who_and_why_have_to_be_said(books: Books, reference: str) -> None:
    with pytest.raises(ValueError, match="reference"):
        await books.credit(uuid4(), 1, reference=reference) if reference else await _credit_without_reference(books)


async def _credit_without_reference(books: Books) -> None:
    async with books.pool.acquire() as connection:
        await wallets.credit(
            connection, uuid4(), 1, kind=CreditKind.PROMOTIONAL, reference="", reason="test", actor="tests"
        )


async def test_an_unknown_owner_is_refused(books: Books) -> None:
    with pytest.raises(WalletUnknown):
        await books.balance(uuid4())
    with pytest.raises(WalletUnknown):
        await books.credit(uuid4(), 1)
    async with books.pool.acquire() as connection:
        with pytest.raises(WalletUnknown):
            await wallets.set_frozen(connection, uuid4(), frozen=True)


async def test_freezing_shows_and_can_be_undone(books: Books) -> None:
    owner = await books.wallet(5_000)
    async with books.pool.acquire() as connection:
        for frozen in (True, False):
            await wallets.set_frozen(connection, owner, frozen=frozen)
            assert (await wallets.balance(connection, owner)).frozen is frozen
            assert (await books.credit(owner, 1)).frozen is frozen
    assert await books.kind(place(owner, 5_000)) == "placed"
