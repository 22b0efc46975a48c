"""Each thing that can become of a hold, on real books."""

from datetime import datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from billing import wallets
from billing.errors import (
    AmountInvalid,
    HoldConflict,
    HoldResolvedDifferently,
    HoldUnknown,
    InsufficientCredits,
    SpendCapReached,
    WalletFrozen,
    WalletUnknown,
)
from billing.holds import BATCH_MAX, NEVER_RESETS, Capture, OutcomeKind, Place, Release, apply, expire
from tests.billing.books import Books, an_hour_ago, capture, in_an_hour, place, release


async def test_a_call_is_reserved_then_charged(books: Books) -> None:
    owner = await books.wallet(20_000)
    hold = place(owner, 5_000)
    [placed] = await books.apply([hold])
    assert (placed.kind, placed.available_micros, placed.refusal) == (OutcomeKind.PLACED, 15_000, None)
    assert await books.balance(owner) == (20_000, 5_000)
    assert await books.kind(capture(hold)) is OutcomeKind.CAPTURED
    assert await books.balance(owner) == (15_000, 0)


async def test_a_smaller_capture_frees_the_rest(books: Books) -> None:
    owner = await books.wallet(10_000)
    hold = place(owner, 10_000)
    await books.apply([hold])
    [captured] = await books.apply([capture(hold, 4_000)])
    assert captured.available_micros == 6_000
    assert await books.balance(owner) == (6_000, 0)


async def test_a_release_costs_nothing(books: Books) -> None:
    owner = await books.wallet(10_000)
    hold = place(owner, 10_000)
    assert await books.kind(hold) is OutcomeKind.PLACED
    assert await books.kind(release(hold)) is OutcomeKind.RELEASED
    assert await books.balance(owner) == (10_000, 0)


async def test_a_wallet_pays_to_its_last_micro_and_not_beyond(books: Books) -> None:
    owner = await books.wallet(10_000)
    assert await books.kind(place(owner, 9_999)) is OutcomeKind.PLACED
    [refused] = await books.apply([place(owner, 2)])
    assert isinstance(refused.refusal, InsufficientCredits)
    assert (refused.refusal.available_micros, refused.refusal.needed_micros) == (1, 2)
    assert await books.kind(place(owner, 1)) is OutcomeKind.PLACED
    assert await books.balance(owner) == (10_000, 10_000)


async def test_sending_the_same_operation_again_changes_nothing(books: Books) -> None:
    owner = await books.wallet(20_000)
    kept, spent, dropped = place(owner, 3_000), place(owner, 5_000), place(owner, 7_000)
    for operation in (kept, spent, dropped, capture(spent), release(dropped)):
        assert (await books.apply([operation]))[0].refusal is None
        before = await books.balance(owner)
        assert await books.kind(operation) is OutcomeKind.REPLAYED
        assert await books.balance(owner) == before


async def test_the_same_id_with_another_amount_or_wallet_is_refused(books: Books) -> None:
    owner, other = await books.wallet(20_000), await books.wallet(20_000)
    hold = place(owner, 5_000)
    await books.apply([hold])
    for wrong in (
        place(owner, 5_001, hold_id=hold.hold_id),
        place(other, 5_000, hold_id=hold.hold_id),
        Capture(hold_id=hold.hold_id, owner_id=other, amount_micros=5_000),
        Release(hold_id=hold.hold_id, owner_id=other, reason="not mine"),
        capture(hold, 5_001),
    ):
        [outcome] = await books.apply([wrong])
        assert isinstance(outcome.refusal, HoldConflict)
    await books.apply([capture(hold)])
    assert await books.kind(Capture(hold_id=hold.hold_id, owner_id=other, amount_micros=5_000)) == "conflict"
    assert await books.balance(owner) == (15_000, 0)
    assert await books.balance(other) == (20_000, 0)


async def test_a_hold_resolves_once(books: Books) -> None:
    owner = await books.wallet(20_000)
    spent, dropped = place(owner, 5_000), place(owner, 5_000)
    await books.apply([spent, dropped])
    await books.apply([capture(spent), release(dropped)])
    for wrong in (release(spent), capture(spent, 4_000), spent, capture(dropped), dropped):
        [outcome] = await books.apply([wrong])
        assert isinstance(outcome.refusal, HoldResolvedDifferently)
    assert await books.balance(owner) == (15_000, 0)


async def test_a_release_before_its_hold_keeps_the_hold_out(books: Books) -> None:
    owner = await books.wallet(20_000)
    hold = place(owner, 5_000)
    assert await books.kind(release(hold)) is OutcomeKind.TOMBSTONED
    assert await books.kind(hold) is OutcomeKind.RESOLVED_DIFFERENTLY
    assert await books.kind(capture(hold)) is OutcomeKind.RESOLVED_DIFFERENTLY
    assert await books.kind(release(hold)) is OutcomeKind.REPLAYED
    assert await books.balance(owner) == (20_000, 0)


async def test_capturing_what_was_never_placed_is_refused(books: Books) -> None:
    owner = await books.wallet(20_000)
    [outcome] = await books.apply([capture(place(owner, 5_000))])
    assert isinstance(outcome.refusal, HoldUnknown)


async def test_an_owner_without_a_wallet_is_refused(books: Books) -> None:
    hold = place(uuid4(), 5_000)
    outcomes = [*await books.apply([hold]), *await books.apply([capture(hold)]), *await books.apply([release(hold)])]
    assert all(isinstance(outcome.refusal, WalletUnknown) for outcome in outcomes)
    assert {outcome.available_micros for outcome in outcomes} == {None}


async def test_a_frozen_wallet_finishes_what_it_began(books: Books) -> None:
    owner = await books.wallet(20_000)
    begun, dropped = place(owner, 5_000), place(owner, 5_000)
    await books.apply([begun, dropped])
    async with books.pool.acquire() as connection:
        await wallets.set_frozen(connection, owner, frozen=True)
    [outcome] = await books.apply([place(owner, 1)])
    assert isinstance(outcome.refusal, WalletFrozen)
    assert await books.kinds(capture(begun), release(dropped)) == ["captured", "released"]


async def test_one_refusal_does_not_disturb_its_neighbours(books: Books) -> None:
    rich, poor = await books.wallet(20_000), await books.wallet(1_000)
    operations = [place(rich, 5_000), place(poor, 5_000), place(uuid4(), 1), place(rich, 5_000), place(poor, 1_000)]
    assert await books.kinds(*operations) == ["placed", "insufficient", "wallet_unknown", "placed", "placed"]
    assert await books.balance(rich) == (20_000, 10_000)
    assert await books.balance(poor) == (1_000, 1_000)


async def test_money_that_is_freed_is_usable_in_the_same_batch(books: Books) -> None:
    owner = await books.wallet(5_000)
    first, second = place(owner, 5_000), place(owner, 5_000)
    await books.apply([first])
    assert await books.kinds(second, release(first)) == ["placed", "released"]


async def test_nothing_stands_when_the_callers_transaction_fails(books: Books) -> None:
    owner = await books.wallet(5_000)
    hold = place(owner, 5_000)
    async with books.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert (await apply(connection, [hold]))[0].kind is OutcomeKind.PLACED
        await transaction.rollback()
    assert await books.balance(owner) == (5_000, 0)
    assert await books.kind(hold) is OutcomeKind.PLACED


class TestExpiry:
    async def test_expired_holds_give_their_money_back(self, own_books: Books) -> None:
        owner = await own_books.wallet(20_000)
        old, live = place(owner, 5_000, expires_at=an_hour_ago()), place(owner, 5_000)
        await own_books.apply([old, live])
        assert await own_books.expire() == [old.hold_id]
        assert await own_books.expire() == []
        assert await own_books.balance(owner) == (20_000, 5_000)
        assert await own_books.kind(release(old)) is OutcomeKind.REPLAYED

    async def test_no_more_than_the_limit_at_once(self, own_books: Books) -> None:
        owner = await own_books.wallet(20_000)
        old = [place(owner, 1_000, expires_at=an_hour_ago() + timedelta(seconds=i)) for i in range(3)]
        await own_books.apply(old)
        assert set(await own_books.expire(limit=2)) == {old[0].hold_id, old[1].hold_id}
        assert await own_books.expire(limit=2) == [old[2].hold_id]

    async def test_a_late_capture_is_charged_while_there_is_money(self, own_books: Books) -> None:
        owner = await own_books.wallet(5_000)
        hold = place(owner, 5_000, expires_at=an_hour_ago())
        await own_books.apply([hold])
        await own_books.expire()
        assert await own_books.kind(capture(hold, 5_001)) is OutcomeKind.CONFLICT
        assert await own_books.kind(capture(hold)) is OutcomeKind.CAPTURED_LATE
        assert await own_books.kind(capture(hold)) is OutcomeKind.REPLAYED
        assert await own_books.kind(release(hold)) is OutcomeKind.RESOLVED_DIFFERENTLY
        assert await own_books.balance(owner) == (0, 0)

    async def test_a_late_capture_without_money_is_our_loss(self, own_books: Books) -> None:
        owner = await own_books.wallet(5_000)
        hold = place(owner, 5_000, expires_at=an_hour_ago())
        await own_books.apply([hold])
        await own_books.expire()
        await own_books.apply([place(owner, 1)])
        [outcome] = await own_books.apply([capture(hold)])
        assert (outcome.kind, outcome.refusal) == (OutcomeKind.WRITTEN_OFF, None)
        assert await own_books.kind(capture(hold)) is OutcomeKind.WRITTEN_OFF
        assert await own_books.kind(capture(hold, 4_000)) is OutcomeKind.RESOLVED_DIFFERENTLY
        assert await own_books.balance(owner) == (5_000, 1)
        losses = await own_books.pool.fetch("SELECT amount_micros FROM billing.ledger_entries WHERE kind = 'writeoff'")
        assert [row[0] for row in losses] == [5_000]

    async def test_a_late_capture_keeps_to_the_keys_cap(self, own_books: Books) -> None:
        owner, key = await own_books.wallet(50_000), uuid4()
        late = place(owner, 5_000, expires_at=an_hour_ago(), key_id=key, spend_cap_micros=9_000)
        other = place(owner, 5_000, key_id=key, spend_cap_micros=9_000)
        await own_books.apply([late])
        await own_books.expire()
        await own_books.apply([other])
        assert await own_books.kind(capture(late)) is OutcomeKind.WRITTEN_OFF
        assert await own_books.key_spend(key) == [(0, 5_000, 9_000)]

    async def test_a_late_capture_counts_for_its_key_up_to_the_cap(self, own_books: Books) -> None:
        owner, key = await own_books.wallet(50_000), uuid4()
        late = place(owner, 5_000, expires_at=an_hour_ago(), key_id=key, spend_cap_micros=5_000)
        await own_books.apply([late])
        await own_books.expire()
        assert await own_books.key_spend(key) == [(0, 0, 5_000)]
        assert await own_books.kind(capture(late)) is OutcomeKind.CAPTURED_LATE
        assert await own_books.key_spend(key) == [(5_000, 0, 5_000)]

    @pytest.mark.parametrize("limit", [0, BATCH_MAX + 1])
    async def test_the_limit_is_bounded(self, books: Books, limit: int) -> None:
        async with books.pool.acquire() as connection:
            with pytest.raises(ValueError, match="limit"):
                await expire(connection, limit=limit)


class TestKeys:
    async def test_held_and_spent_both_count_towards_the_cap(self, books: Books) -> None:
        owner, key = await books.wallet(100_000), uuid4()
        first, second, third = (place(owner, 5_000, key_id=key, spend_cap_micros=10_000) for _ in range(3))
        assert await books.kinds(first, second, third) == ["placed", "placed", "cap_reached"]
        await books.apply([capture(first, 4_000)])
        [refused] = await books.apply([third])
        assert isinstance(refused.refusal, SpendCapReached)
        assert refused.refusal.cap_micros == 10_000
        assert refused.refusal.spent_micros == 9_000
        assert refused.refusal.needed_micros == 5_000
        await books.apply([release(second)])
        assert await books.kind(third) is OutcomeKind.PLACED
        assert await books.key_spend(key) == [(4_000, 5_000, 10_000)]

    async def test_a_new_period_starts_from_zero(self, books: Books) -> None:
        owner, key = await books.wallet(100_000), uuid4()
        this_month, last_month = in_an_hour(), an_hour_ago()
        old = place(owner, 5_000, key_id=key, spend_cap_micros=5_000, period_start=last_month)
        await books.apply([old])
        new = place(owner, 5_000, key_id=key, spend_cap_micros=5_000, period_start=this_month)
        assert await books.kinds(new, capture(old)) == ["placed", "captured"]
        assert await books.key_spend(key) == [(5_000, 0, 5_000), (0, 5_000, 5_000)]

    async def test_spend_is_counted_without_a_cap_so_that_one_set_later_is_true(self, books: Books) -> None:
        owner, key = await books.wallet(100_000), uuid4()
        await books.apply([place(owner, 5_000, key_id=key)])
        assert await books.kind(place(owner, 5_000, key_id=key, spend_cap_micros=9_999)) is OutcomeKind.CAP_REACHED
        assert await books.kind(place(owner, 5_000, key_id=key, spend_cap_micros=10_000)) is OutcomeKind.PLACED

    async def test_keys_of_one_wallet_do_not_mix(self, books: Books) -> None:
        owner, one, two = await books.wallet(100_000), uuid4(), uuid4()
        holds = [place(owner, 1_000 + i, key_id=(one, two)[i % 2], spend_cap_micros=2_500) for i in range(6)]
        assert await books.kinds(*holds) == ["placed", "placed", "placed", "placed", "cap_reached", "cap_reached"]
        await books.apply([capture(holds[0]), release(holds[3])])
        assert await books.key_spend(one) == [(1_000, 1_002, 2_500)]
        assert await books.key_spend(two) == [(0, 1_001, 2_500)]

    async def test_a_period_without_a_key_is_ignored(self, books: Books) -> None:
        owner = await books.wallet(5_000)
        assert await books.kind(place(owner, 5_000, period_start=in_an_hour())) is OutcomeKind.PLACED


class TestBadInput:
    @pytest.mark.parametrize("amount", [0, -1, 2**63])
    def test_amounts_are_positive_and_bounded(self, amount: int) -> None:
        with pytest.raises(AmountInvalid):
            place(uuid4(), amount)
        with pytest.raises(AmountInvalid):
            Capture(hold_id=uuid4(), owner_id=uuid4(), amount_micros=amount)

    def test_times_have_a_zone(self) -> None:
        naive = datetime(2026, 1, 1)  # noqa: DTZ001 - the point of the test
        with pytest.raises(ValueError, match="time zone"):
            place(uuid4(), 1, expires_at=naive)
        with pytest.raises(ValueError, match="time zone"):
            place(uuid4(), 1, period_start=naive)

    def test_a_cap_belongs_to_a_key_and_is_not_negative(self) -> None:
        with pytest.raises(ValueError, match="cap"):
            place(uuid4(), 1, spend_cap_micros=5)
        with pytest.raises(ValueError, match="cap"):
            place(uuid4(), 1, key_id=uuid4(), spend_cap_micros=-1)

    def test_reasons_are_short(self) -> None:
        with pytest.raises(ValueError, match="200"):
            Release(hold_id=uuid4(), owner_id=uuid4(), reason="x" * 201)

    async def test_a_batch_is_bounded_and_names_each_hold_once(self, books: Books) -> None:
        owner = await books.wallet(5_000)
        hold = place(owner, 1)
        assert await books.apply([]) == []
        with pytest.raises(ValueError, match="once"):
            await books.apply([hold, release(hold)])
        with pytest.raises(ValueError, match="at most"):
            await books.apply([place(owner, 1) for _ in range(BATCH_MAX + 1)])

    async def test_a_transaction_that_reads_one_old_moment_is_refused(self, books: Books) -> None:
        async with books.pool.acquire() as connection:
            with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
                async with connection.transaction(isolation="repeatable_read"):
                    await apply(connection, [place(uuid4(), 1)])


def test_never_resets_is_before_every_period() -> None:
    assert (
        Place(hold_id=uuid4(), owner_id=uuid4(), amount_micros=1, expires_at=in_an_hour()).period_start == NEVER_RESETS
    )
