"""What a charge costs: group commit beside a plain transaction per operation, in the same run on the same server.

    python -m tests.benchmarks.ledger [--seconds 5] [--clients 64] [--entries 0]

A charge is one hold and one capture, each durable before it is answered. Every client does one charge after another.
CPU is that of this process (client) and of all PostgreSQL processes (server). PostgreSQL starts in a temporary folder
with its durable defaults. `--entries N` adds a second ledger that holds N older entries and charges both in turns, so
that what else the machine does weighs on both alike.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import psutil
import uvloop

from billing import wallets
from billing.group_commit import GroupCommit
from billing.holds import Capture, Operation, Outcome, Place, apply
from billing.ledger import reconcile, require_durable
from gateway.identifiers import new_id
from migrations.upgrade import APPLICATION_ROLE
from tests.postgres import PostgresServer

PRICE_MICROS = 5_000
CREDIT_MICROS = 10**15
POOL_SIZE = 16
WARM_UP_SECONDS = 1.0

DEPTH_ROUNDS = 6
FASTER_MIN = 20.0
CHEAPER_MIN = 10.0
SLOWER_MAX = 0.10

Charge = Callable[[UUID], Awaitable[None]]


@dataclass(frozen=True)
class Measured:
    """One way of charging over one set of wallets."""

    variant: str
    wallets: int
    charges_per_second: float
    p50_ms: float
    p99_ms: float
    client_cpu_seconds_per_1000: float
    server_cpu_seconds_per_1000: float
    mean_batch: float

    @property
    def cpu_seconds_per_1000(self) -> float:
        """Client and server together."""
        return self.client_cpu_seconds_per_1000 + self.server_cpu_seconds_per_1000


class Naive:
    """A transaction per operation, statement by statement: the careful way it is usually written."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def charge(self, owner_id: UUID) -> None:
        """Hold, then capture."""
        hold_id = new_id()
        async with self._pool.acquire() as connection, connection.transaction():
            wallet = await connection.fetchrow(
                "SELECT id, balance_micros, held_micros FROM billing.wallets WHERE owner_id = $1 FOR NO KEY UPDATE",
                owner_id,
            )
            assert wallet is not None
            assert wallet["balance_micros"] - wallet["held_micros"] >= PRICE_MICROS
            await connection.execute(
                "INSERT INTO billing.holds (id, wallet_id, amount_micros, expires_at) VALUES ($1, $2, $3, $4)",
                hold_id,
                wallet["id"],
                PRICE_MICROS,
                _expiry(),
            )
            await connection.execute(
                "UPDATE billing.wallets SET held_micros = held_micros + $2 WHERE id = $1", wallet["id"], PRICE_MICROS
            )
        async with self._pool.acquire() as connection, connection.transaction():
            wallet = await connection.fetchrow(
                "SELECT id, balance_micros FROM billing.wallets WHERE owner_id = $1 FOR NO KEY UPDATE", owner_id
            )
            assert wallet is not None
            amount = await connection.fetchval(
                "DELETE FROM billing.holds WHERE id = $1 RETURNING amount_micros", hold_id
            )
            await connection.execute(
                "INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id,"
                " amount_micros, wallet_id, wallet_balance_micros) VALUES ('usage', $1, $2, 1, $3, $2, $4)",
                hold_id,
                wallet["id"],
                amount,
                wallet["balance_micros"] - amount,
            )
            await connection.execute(
                "UPDATE billing.wallets SET balance_micros = balance_micros - $2, held_micros = held_micros - $2"
                " WHERE id = $1",
                wallet["id"],
                amount,
            )


class Grouped:
    """The product's own way."""

    def __init__(self, pool: asyncpg.Pool, flushers: int) -> None:
        self._pool = pool
        self.batches: list[int] = []
        self.commit: GroupCommit[Operation, Outcome] = GroupCommit(
            self._flush,
            key=lambda operation: operation.hold_id,
            flushers=flushers,
            on_flush=lambda size, _: self.batches.append(size),
        )

    async def _flush(self, operations: Sequence[Operation]) -> list[Outcome | Exception]:
        async with self._pool.acquire() as connection, connection.transaction():
            outcomes = await apply(connection, operations)
        return [outcome.refusal or outcome for outcome in outcomes]

    async def charge(self, owner_id: UUID) -> None:
        """Hold, then capture."""
        hold_id = new_id()
        await self.commit.submit(
            Place(hold_id=hold_id, owner_id=owner_id, amount_micros=PRICE_MICROS, expires_at=_expiry())
        )
        await self.commit.submit(Capture(hold_id=hold_id, owner_id=owner_id, amount_micros=PRICE_MICROS))


def _expiry() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=10)


async def _load(charge: Charge, owners: Sequence[UUID], *, clients: int, seconds: float) -> list[float]:
    """Latency in milliseconds of every charge that ended within `seconds`."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        turn = number
        while (started := time.perf_counter()) < end:
            await charge(owners[turn % len(owners)])
            turn += clients
            latencies.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*map(client, range(clients)))
    return latencies


def _server_cpu_seconds(postmaster: int) -> float:
    root = psutil.Process(postmaster)
    ended = root.cpu_times()
    total = ended.user + ended.system + ended.children_user + ended.children_system
    for child in root.children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system
    return total


async def _measure(
    variant: str, charge: Charge, owners: Sequence[UUID], options: argparse.Namespace, server: PostgresServer
) -> Measured:
    await _load(charge, owners, clients=options.clients, seconds=WARM_UP_SECONDS)
    client, back, started = time.process_time(), _server_cpu_seconds(server.pid), time.perf_counter()
    latencies = await _load(charge, owners, clients=options.clients, seconds=options.seconds)
    elapsed = time.perf_counter() - started
    client, back = time.process_time() - client, _server_cpu_seconds(server.pid) - back
    centiles = statistics.quantiles(latencies, n=100)
    return Measured(
        variant=variant,
        wallets=len(owners),
        charges_per_second=len(latencies) / elapsed,
        p50_ms=centiles[49],
        p99_ms=centiles[98],
        client_cpu_seconds_per_1000=client / len(latencies) * 1000,
        server_cpu_seconds_per_1000=back / len(latencies) * 1000,
        mean_batch=1.0,
    )


async def _measure_grouped(
    pool: asyncpg.Pool, owners: Sequence[UUID], options: argparse.Namespace, server: PostgresServer
) -> Measured:
    grouped = Grouped(pool, options.flushers)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(grouped.commit.run())
        measured = await _measure("group commit", grouped.charge, owners, options, server)
        await grouped.commit.aclose()
    return Measured(**{**asdict(measured), "mean_batch": statistics.fmean(grouped.batches)})


async def _open_wallets(dsn: str, count: int) -> list[UUID]:
    owners = [new_id() for _ in range(count)]
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            for owner_id in owners:
                await wallets.open_wallet(connection, owner_id)
                await wallets.credit(
                    connection,
                    owner_id,
                    CREDIT_MICROS,
                    kind=wallets.CreditKind.PROMOTIONAL,
                    reference="benchmark",
                    reason="benchmark",
                    actor="benchmark",
                )
    finally:
        await connection.close()
    return owners


# Indexes are made after the rows: ten million random references would otherwise be ten million random page reads.
_FILL = (
    "SET maintenance_work_mem = '1GB'",
    "SET synchronous_commit = off",
    "ALTER TABLE billing.ledger_entries DROP CONSTRAINT uq_ledger_entries_reference_kind",
    "DROP INDEX billing.ix_ledger_entries_wallet_id",
    """
    INSERT INTO billing.ledger_entries
        (kind, reference, debit_account_id, credit_account_id, amount_micros, wallet_id, wallet_balance_micros)
    SELECT 'usage', gen_random_uuid(), 2000000 + i % 5000, 1, 5000, 2000000 + i % 5000, 0
    FROM generate_series(1, {entries}) i
    """,
    "ALTER TABLE billing.ledger_entries ADD CONSTRAINT uq_ledger_entries_reference_kind UNIQUE (reference, kind)",
    "CREATE INDEX ix_ledger_entries_wallet_id ON billing.ledger_entries (wallet_id, id)",
    "VACUUM ANALYZE billing.ledger_entries",
    "CHECKPOINT",
)


async def _fill(dsn: str, entries: int) -> None:
    """Older entries of other wallets, in random order of their references."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in _FILL:
            await connection.execute(statement.format(entries=entries), timeout=3600)
    finally:
        await connection.close()


def _print(results: Sequence[Measured]) -> None:
    print(
        f"{'variant':<14}{'wallets':>8}{'charges/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU client':>12}{'server':>9}",
        end="",
    )
    print(f"{'batch':>8}   (CPU seconds per 1,000 charges)")
    for result in results:
        print(
            f"{result.variant:<14}{result.wallets:>8}{result.charges_per_second:>11,.0f}{result.p50_ms:>9.1f}"
            f"{result.p99_ms:>9.1f}{result.client_cpu_seconds_per_1000:>12.3f}"
            f"{result.server_cpu_seconds_per_1000:>9.3f}{result.mean_batch:>8.1f}"
        )
    for naive, grouped in zip(results[::2], results[1::2], strict=True):
        faster = grouped.charges_per_second / naive.charges_per_second
        cheaper = naive.cpu_seconds_per_1000 / grouped.cpu_seconds_per_1000
        print(f"{naive.wallets} wallet(s): group commit is {faster:.1f}x as fast at 1/{cheaper:.1f} of the CPU", end="")
        if naive.wallets == 1:
            held = faster >= FASTER_MIN and cheaper >= CHEAPER_MIN
            print(f" (wanted: {FASTER_MIN:.0f}x, 1/{CHEAPER_MIN:.0f}: {'held' if held else 'MISSED'})", end="")
        print()


@dataclass(frozen=True)
class Depth:
    """Group commit on one hot wallet, with and without many older entries; medians of rounds in turns."""

    entries: int
    empty_charges_per_second: float
    filled_charges_per_second: float
    empty_cpu_seconds_per_1000: float
    filled_cpu_seconds_per_1000: float

    def __str__(self) -> str:
        change = self.filled_charges_per_second / self.empty_charges_per_second - 1
        dearer = self.filled_cpu_seconds_per_1000 / self.empty_cpu_seconds_per_1000 - 1
        return (
            f"{self.entries:,} older entries: {self.empty_charges_per_second:,.0f} -> "
            f"{self.filled_charges_per_second:,.0f} charges/s ({change:+.1%}), CPU {dearer:+.1%} "
            f"(wanted: less than {SLOWER_MAX:.0%} slower: {'held' if change > -SLOWER_MAX else 'MISSED'})"
        )


async def _measure_depth(server: PostgresServer, options: argparse.Namespace) -> Depth:
    """One hot wallet in an empty and in a filled ledger, in turns."""
    ledgers: list[tuple[asyncpg.Pool, Sequence[UUID], list[Measured]]] = []
    async with AsyncExitStack() as stack:
        for entries in (0, options.entries):
            dsn = await server.migrated_database()
            if entries:
                await _fill(dsn, entries)
            settings = {"role": APPLICATION_ROLE}
            pool = await asyncpg.create_pool(dsn, min_size=2, max_size=4, server_settings=settings)
            stack.push_async_callback(pool.close)
            ledgers.append((pool, await _open_wallets(dsn, 1), []))
        for turn in range(DEPTH_ROUNDS):
            for pool, owners, measured in reversed(ledgers) if turn % 2 else ledgers:
                measured.append(await _measure_grouped(pool, owners, options, server))
    speeds = [statistics.median(each.charges_per_second for each in measured) for _, _, measured in ledgers]
    cpus = [statistics.median(each.cpu_seconds_per_1000 for each in measured) for _, _, measured in ledgers]
    return Depth(options.entries, *speeds, *cpus)


async def _run(server: PostgresServer, options: argparse.Namespace) -> tuple[list[Measured], Depth | None]:
    dsn = await server.migrated_database()
    results: list[Measured] = []
    async with (
        asyncpg.create_pool(dsn, min_size=POOL_SIZE, max_size=POOL_SIZE) as owner_pool,
        asyncpg.create_pool(dsn, min_size=2, max_size=4, server_settings={"role": APPLICATION_ROLE}) as pool,
    ):
        async with pool.acquire() as connection:
            await require_durable(connection)
        for count in (1, options.wallets):
            owners = await _open_wallets(dsn, count)
            results.append(await _measure("naive", Naive(owner_pool).charge, owners, options, server))
            results.append(await _measure_grouped(pool, owners, options, server))
        async with pool.acquire() as connection:
            assert await reconcile(connection) == [], "the books do not balance"
    return results, await _measure_depth(server, options) if options.entries else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--clients", type=int, default=64, help="charges under way at once")
    parser.add_argument("--wallets", type=int, default=1000, help="size of the second set of wallets")
    parser.add_argument("--flushers", type=int, default=2, help="batches under way at once")
    parser.add_argument("--entries", type=int, default=0, help="older entries of a second ledger, for comparison")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    server = PostgresServer(durable=True, settings={"shared_buffers": "128MB"})  # as PostgreSQL's default
    server.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results, depth = runner.run(_run(server, options))
    finally:
        server.stop()
    if options.json:
        print(json.dumps({"variants": [asdict(each) for each in results], "depth": depth and asdict(depth)}))
    else:
        _print(results)
        if depth is not None:
            print(depth)


if __name__ == "__main__":
    main()
