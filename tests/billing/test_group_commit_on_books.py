"""The batcher over real books, with connections and servers that die."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import uuid4

import asyncpg
import pytest

from billing.errors import InsufficientCredits
from billing.group_commit import GroupCommit
from billing.holds import Operation, Outcome, OutcomeKind, Release, apply
from billing.ledger import reconcile
from tests.billing.books import Books, capture, in_an_hour, place
from tests.billing.running import running
from tests.postgres import PostgresServer


class LedgerFlush:
    """One transaction per batch; `sabotage` may break the connection before or after the commit."""

    def __init__(self, pool: asyncpg.Pool, sabotage: Callable[[str, int], Awaitable[None]] | None = None) -> None:
        self._pool = pool
        self._sabotage = sabotage

    async def __call__(self, operations: Sequence[Operation]) -> list[Outcome | Exception]:
        async with self._pool.acquire() as connection:
            backend = connection.get_server_pid()
            async with connection.transaction():
                outcomes = await apply(connection, operations)
                await self._strike("before commit", backend)
            await self._strike("after commit", backend)
        return [outcome.refusal or outcome for outcome in outcomes]

    async def _strike(self, moment: str, backend: int) -> None:
        if self._sabotage is not None:
            await self._sabotage(moment, backend)


def ledger(flush: LedgerFlush, **options: object) -> GroupCommit[Operation, Outcome]:
    """A batcher over real books."""
    fields: dict[str, object] = {"retry_delay_seconds": 0.05, **options}
    return GroupCommit(flush, key=lambda operation: operation.hold_id, **fields)  # type: ignore[arg-type]


async def test_calls_over_the_real_ledger_are_exact(own_books: Books) -> None:
    owner = await own_books.wallet(1_000_000)
    commit = ledger(LedgerFlush(own_books.pool))

    async def call() -> str:
        hold = place(owner, 1_000)
        try:
            await commit.submit(hold)
        except InsufficientCredits:
            return "refused"
        await commit.submit(capture(hold))
        return "paid"

    async with running(commit):
        results = await asyncio.gather(*(call() for _ in range(2_000)))
    assert results.count("paid") == 1_000
    assert await own_books.balance(owner) == (0, 0)
    async with own_books.pool.acquire() as connection:
        assert await reconcile(connection) == []


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
async def test_a_connection_that_dies_around_the_commit_charges_once(own_books: Books, moment: str) -> None:
    owner = await own_books.wallet(1_000_000)
    strikes = iter(range(3))
    killer = await asyncpg.connect(own_books.dsn)

    async def kill(now: str, backend: int) -> None:
        if now == moment:
            for _ in strikes:
                await killer.execute("SELECT pg_terminate_backend($1, 5000)", backend)
                raise ConnectionResetError

    commit = ledger(LedgerFlush(own_books.pool, kill), flushers=1)
    holds = [place(owner, 1_000) for _ in range(50)]
    async with running(commit):
        placed = await asyncio.gather(*map(commit.submit, holds))
        captured = await asyncio.gather(*(commit.submit(capture(hold)) for hold in holds))
    await killer.close()
    replayed = OutcomeKind.REPLAYED if moment == "after commit" else OutcomeKind.PLACED
    assert {outcome.kind for outcome in placed} == {replayed}
    assert {outcome.kind for outcome in captured} == {OutcomeKind.CAPTURED}
    assert await own_books.balance(owner) == (950_000, 0)


async def test_an_item_the_database_rejects_fails_alone(own_books: Books) -> None:
    owner = await own_books.wallet(1_000_000)
    commit = ledger(LedgerFlush(own_books.pool))
    poison = Release(hold_id=uuid4(), owner_id=owner, reason="PostgreSQL takes no \0 in text")
    holds = [place(owner, 1_000) for _ in range(9)]
    operations: list[Operation] = [*holds, poison]
    async with running(commit):
        answers = await asyncio.gather(*map(commit.submit, operations), return_exceptions=True)
    assert isinstance(answers.pop(), asyncpg.PostgresError)
    assert all(isinstance(answer, Outcome) for answer in answers)
    assert await own_books.balance(owner) == (1_000_000, 9_000)


async def test_a_crash_of_the_server_loses_nothing_that_was_answered() -> None:
    server = PostgresServer(durable=True)
    server.start()
    try:
        dsn = await server.migrated_database()
        async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
            books = Books(dsn, pool)
            owner = await books.wallet(1_000_000_000)
            commit = ledger(LedgerFlush(pool), max_batch=40, attempts_max=8, max_age_seconds=90)
            acknowledged: list[Operation] = []
            enough = asyncio.Event()

            async def call() -> None:
                hold = place(owner, 1_000, expires_at=in_an_hour())
                for operation in (hold, capture(hold)):
                    await commit.submit(operation)
                    acknowledged.append(operation)
                    if len(acknowledged) > 500:
                        enough.set()

            async with running(commit), asyncio.TaskGroup() as calls:
                for _ in range(800):
                    calls.create_task(call())
                await enough.wait()
                server.kill()
                server.start()
            assert len(acknowledged) == 1_600
            assert await books.balance(owner) == (1_000_000_000 - 800_000, 0)
            async with pool.acquire() as connection:
                assert await reconcile(connection) == []
    finally:
        server.stop()
