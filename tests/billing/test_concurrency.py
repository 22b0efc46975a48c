"""Many connections at once: never more than the money, nothing twice, nothing lost."""

import asyncio
import random
from collections.abc import Sequence
from uuid import UUID, uuid4

from billing.holds import Operation, Outcome, OutcomeKind, Place, apply, expire
from billing.ledger import reconcile
from tests.billing.books import Books, an_hour_ago, capture, place, release

CONNECTIONS = 8


async def _in_parallel(books: Books, operations: Sequence[Operation], batch: int) -> list[Outcome]:
    """Apply over CONNECTIONS connections, each taking every CONNECTIONS-th operation, `batch` to a transaction."""

    async def work(mine: Sequence[Operation]) -> list[Outcome]:
        found: list[Outcome] = []
        for start in range(0, len(mine), batch):
            found += await books.apply(mine[start : start + batch])
        return found

    shares = [operations[i::CONNECTIONS] for i in range(CONNECTIONS)]
    return [outcome for part in await asyncio.gather(*map(work, shares)) for outcome in part]


async def test_two_thousand_holds_on_one_dollar_take_exactly_the_dollar(own_books: Books) -> None:
    owner = await own_books.wallet(1_000_000)
    outcomes = await _in_parallel(own_books, [place(owner, 1_000) for _ in range(2_000)], batch=7)
    placed = [outcome.operation for outcome in outcomes if outcome.kind is OutcomeKind.PLACED]
    assert len(placed) == 1_000
    assert await own_books.balance(owner) == (1_000_000, 1_000_000)
    captured = await _in_parallel(own_books, [capture(hold) for hold in placed if isinstance(hold, Place)], batch=7)
    assert {outcome.kind for outcome in captured} == {OutcomeKind.CAPTURED}
    assert await own_books.balance(owner) == (0, 0)
    async with own_books.pool.acquire() as connection:
        assert await reconcile(connection) == []


async def test_mixed_sizes_never_pass_the_balance(own_books: Books) -> None:
    chance = random.Random(7)
    owner = await own_books.wallet(1_000_000)
    sizes = [chance.randrange(1, 3_000) for _ in range(2_000)]
    outcomes = await _in_parallel(own_books, [place(owner, size) for size in sizes], batch=5)
    held = sum(
        outcome.operation.amount_micros
        for outcome in outcomes
        if outcome.kind is OutcomeKind.PLACED and isinstance(outcome.operation, Place)
    )
    assert held <= 1_000_000
    assert await own_books.balance(owner) == (1_000_000, held)


async def test_the_same_ids_over_many_connections_count_once(own_books: Books) -> None:
    owner = await own_books.wallet(10_000_000)
    holds = [place(owner, 1_000) for _ in range(200)]
    runs = await asyncio.gather(*(_in_parallel(own_books, holds, batch=25) for _ in range(3)))
    kinds = [outcome.kind for run in runs for outcome in run]
    assert kinds.count(OutcomeKind.PLACED) == 200
    assert kinds.count(OutcomeKind.REPLAYED) == 400
    assert await own_books.balance(owner) == (10_000_000, 200_000)


async def test_batches_over_the_same_wallets_in_any_order_do_not_deadlock(own_books: Books) -> None:
    chance = random.Random(11)
    owners = [await own_books.wallet(1_000_000) for _ in range(20)]
    holds = [place(chance.choice(owners), 100) for _ in range(1_600)]
    outcomes = await _in_parallel(own_books, holds, batch=40)
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.PLACED}


async def test_parallel_calls_of_one_key_do_not_pass_its_cap_together(own_books: Books) -> None:
    owner, key = await own_books.wallet(1_000_000), uuid4()
    calls = [place(owner, 5_000, key_id=key, spend_cap_micros=50_000) for _ in range(200)]
    outcomes = await _in_parallel(own_books, calls, batch=1)
    assert [outcome.kind for outcome in outcomes].count(OutcomeKind.PLACED) == 10
    assert await own_books.key_spend(key) == [(0, 50_000, 50_000)]


async def test_a_release_that_overtakes_its_hold_waits_for_it(books: Books) -> None:
    owner = await books.wallet(5_000)
    hold = place(owner, 5_000)
    async with books.pool.acquire() as connection:
        async with connection.transaction():
            await apply(connection, [hold])
            releasing = asyncio.create_task(books.kind(release(hold)))
            await _until_waiting(books, connection.get_server_pid())
        assert await releasing is OutcomeKind.RELEASED
    assert await books.balance(owner) == (5_000, 0)


async def test_a_hold_that_arrives_beside_its_tombstone_stays_out(books: Books) -> None:
    owner = await books.wallet(5_000)
    hold = place(owner, 5_000)
    async with books.pool.acquire() as connection:
        async with connection.transaction():
            await apply(connection, [release(hold)])
            placing = asyncio.create_task(books.kind(hold))
            await _until_waiting(books, connection.get_server_pid())
        assert await placing is OutcomeKind.RESOLVED_DIFFERENTLY
    assert await books.balance(owner) == (5_000, 0)


async def test_captures_and_the_sweeper_take_each_hold_once(own_books: Books) -> None:
    owner = await own_books.wallet(300_000)
    holds = [place(owner, 1_000, expires_at=an_hour_ago()) for _ in range(300)]
    await own_books.apply(holds)

    async def sweep() -> list[UUID]:
        swept: list[UUID] = []
        for _ in range(20):
            async with own_books.pool.acquire() as connection, connection.transaction():
                swept += await expire(connection, limit=20)
        return swept

    outcomes, first, second = await asyncio.gather(
        _in_parallel(own_books, [capture(hold) for hold in holds], batch=3), sweep(), sweep()
    )
    swept = first + second
    late = {outcome.operation.hold_id for outcome in outcomes if outcome.kind is OutcomeKind.CAPTURED_LATE}
    in_time = {outcome.operation.hold_id for outcome in outcomes if outcome.kind is OutcomeKind.CAPTURED}
    assert len(swept) == len(set(swept))
    assert late <= set(swept)
    assert in_time.isdisjoint(swept)
    assert late | in_time == {hold.hold_id for hold in holds}
    assert await own_books.balance(owner) == (0, 0)
    async with own_books.pool.acquire() as connection:
        assert await reconcile(connection) == []


async def _until_waiting(books: Books, blocker: int) -> None:
    """Return once another session waits for a lock of the session `blocker`."""
    async with asyncio.timeout(10):
        while not await books.pool.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))", blocker
        ):
            await asyncio.sleep(0.01)
