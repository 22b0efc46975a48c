"""Statements add up, and reconciliation finds what was damaged behind the functions' backs."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from billing.errors import LedgerUnavailable, WalletUnknown
from billing.ledger import PAGE_MAX, StatementPage, reconcile, require_durable, statement
from tests.billing.books import Books, capture, place, release
from tests.postgres import PostgresServer


async def _busy_wallet(books: Books) -> None:
    """Entry 1 is the credit, 2 to 5 are charges of 1,000 to 1,003 micros; a fifth hold is open."""
    owner, key = await books.wallet(100_000), uuid4()
    holds = [place(owner, 1_000 + i, key_id=key, spend_cap_micros=90_000) for i in range(5)]
    await books.apply(holds)
    await books.apply([capture(hold) for hold in holds[:-1]])


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
            usage = await statement(connection, owner, kinds=["usage"])
            past = await statement(connection, owner, until=now - timedelta(hours=1))
            recent = await statement(connection, owner, since=now - timedelta(hours=1), until=now + timedelta(hours=1))
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


async def _spend(books: Books, owner: UUID, times: int) -> None:
    holds = [place(owner, 1_000) for _ in range(times)]
    await books.apply(holds)
    await books.apply([capture(hold) for hold in holds])


DAMAGE = {
    "wallet balance = sum of its entries": "UPDATE billing.wallets SET balance_micros = balance_micros + 1",
    "wallet held = sum of its open holds": "UPDATE billing.wallets SET held_micros = held_micros - 1",
    "entry's balance = balance before it + its amount": """
        ALTER TABLE billing.ledger_entries DISABLE TRIGGER append_only;
        UPDATE billing.ledger_entries SET wallet_balance_micros = wallet_balance_micros + 1 WHERE id = 2""",
    "entry's accounts exist (account ids missing)": """
        ALTER TABLE billing.ledger_entries DISABLE TRIGGER append_only;
        UPDATE billing.ledger_entries SET debit_account_id = 77 WHERE kind = 'promotional'""",
    "key spent = sum of its entries": "UPDATE billing.key_spend SET spent_micros = spent_micros + 1",
    "key held = sum of its open holds": "UPDATE billing.key_spend SET held_micros = held_micros - 1",
    "open hold is not resolved": """
        INSERT INTO billing.hold_releases (hold_id, cause, reason, wallet_id)
        SELECT id, 'tombstone', '', wallet_id FROM billing.holds""",
    "grant = its entry": """
        ALTER TABLE billing.grants DISABLE TRIGGER append_only;
        UPDATE billing.grants SET amount_micros = amount_micros + 1""",
}


class TestReconcile:
    async def test_sound_books_have_no_difference(self, own_books: Books) -> None:
        await _busy_wallet(own_books)
        async with own_books.pool.acquire() as connection:
            assert await reconcile(connection) == []

    @pytest.mark.parametrize("check", DAMAGE)
    async def test_planted_damage_is_named(self, own_books: Books, check: str) -> None:
        await _busy_wallet(own_books)
        owner = await asyncpg.connect(own_books.dsn)
        try:
            await owner.execute(DAMAGE[check])
            found = await reconcile(owner)
        finally:
            await owner.close()
        assert check in {difference.check for difference in found}
        assert all(difference.found != difference.expected for difference in found)

    async def test_a_lost_entry_is_found(self, own_books: Books) -> None:
        await _busy_wallet(own_books)
        owner = await asyncpg.connect(own_books.dsn)
        try:
            await owner.execute("ALTER TABLE billing.ledger_entries DISABLE TRIGGER append_only")
            await owner.execute("DELETE FROM billing.ledger_entries WHERE id = 3")
            found = {difference.check: difference for difference in await reconcile(owner)}
        finally:
            await owner.close()
        wallet = found["wallet balance = sum of its entries"]
        assert wallet.expected - wallet.found == 1_001
        assert "key spent = sum of its entries" in found


class TestGuards:
    """What holds even for the owner of the tables, and what the application's role cannot do."""

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE billing.ledger_entries SET amount_micros = 1",
            "DELETE FROM billing.ledger_entries",
            "TRUNCATE billing.ledger_entries",
            "UPDATE billing.grants SET amount_micros = 1",
            "UPDATE billing.holds SET amount_micros = 1",
            "DELETE FROM billing.wallets",
            "DELETE FROM billing.accounts",
            "TRUNCATE billing.holds",
        ],
    )
    async def test_history_cannot_be_changed(self, own_books: Books, change: str) -> None:
        await _busy_wallet(own_books)
        owner = await asyncpg.connect(own_books.dsn)
        try:
            with pytest.raises(asyncpg.RestrictViolationError):
                await owner.execute(change)
        finally:
            await owner.close()

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE billing.wallets SET balance_micros = held_micros - 1",
            "UPDATE billing.wallets SET held_micros = -1",
            "INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)"
            " VALUES ('usage', gen_random_uuid(), 1, 1, 5)",
            "INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)"
            " VALUES ('usage', gen_random_uuid(), 1, 2, 0)",
        ],
    )
    async def test_impossible_books_cannot_be_written(self, own_books: Books, change: str) -> None:
        await _busy_wallet(own_books)
        owner = await asyncpg.connect(own_books.dsn)
        try:
            with pytest.raises(asyncpg.CheckViolationError):
                await owner.execute(change)
        finally:
            await owner.close()

    @pytest.mark.parametrize(
        "table", ["accounts", "wallets", "ledger_entries", "holds", "hold_releases", "key_spend", "grants"]
    )
    async def test_the_application_cannot_write_a_table(self, books: Books, table: str) -> None:
        for change in (f"DELETE FROM billing.{table}", f"INSERT INTO billing.{table} DEFAULT VALUES"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await books.pool.execute(change)
        await books.pool.fetch(f"SELECT * FROM billing.{table} LIMIT 1")


class TestDurability:
    async def test_a_server_that_may_lose_commits_is_refused(self, books: Books) -> None:
        async with books.pool.acquire() as connection:
            with pytest.raises(LedgerUnavailable, match="fsync, full_page_writes off"):
                await require_durable(connection)

    async def test_a_server_with_its_defaults_is_accepted(self) -> None:
        server = PostgresServer(durable=True)
        server.start()
        try:
            connection = await asyncpg.connect(server.dsn())
            await require_durable(connection)
            await connection.close()
        finally:
            server.stop()
