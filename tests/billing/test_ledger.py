"""Reconciliation finds what was damaged behind the functions' backs."""

from uuid import uuid4

import asyncpg
import pytest

from billing.errors import LedgerUnavailable
from billing.ledger import reconcile, require_durable, take_snapshots
from billing.promotions import expire_credit
from tests.billing.books import Books, an_hour_ago, capture, place
from tests.postgres import PostgresServer


async def _busy_wallet(books: Books) -> None:
    """Entry 1 is the credit, 2 to 5 are charges of 1,000 to 1,003 micros; a fifth hold is open.

    Then credit that has ended, a payment that was refunded after it was spent, and a snapshot of all this.
    """
    owner, key = await books.wallet(100_000), uuid4()
    holds = [place(owner, 1_000 + i, key_id=key, spend_cap_micros=90_000) for i in range(5)]
    await books.apply(holds)
    await books.apply([capture(hold) for hold in holds[:-1]])
    await books.credit(owner, 500, expires_at=an_hour_ago())
    async with books.pool.acquire() as connection, connection.transaction():
        await expire_credit(connection)
    debtor = await books.wallet()
    payment = await books.top_up(debtor, 500)
    all_of_it = place(debtor, 5_000_000)
    await books.apply([all_of_it])
    await books.apply([capture(all_of_it)])
    await books.refund(payment, 525)
    async with books.pool.acquire() as connection, connection.transaction():
        assert await take_snapshots(connection, entries_min=1) == 2


DAMAGE = {
    "wallet balance = sum of its entries": "UPDATE billing.wallets SET balance_micros = balance_micros + 1",
    "wallet held = sum of its open holds": """
        UPDATE billing.wallets SET held_micros = held_micros - 1 WHERE held_micros > 0""",
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
    "wallet balance = its snapshot + its entries since": """
        UPDATE billing.wallets SET balance_micros = balance_micros + 1""",
    "snapshot = balance after its entry": "UPDATE billing.balance_snapshots SET balance_micros = balance_micros + 1",
    "wallet owed = balance of its receivable": "UPDATE billing.wallets SET owed_micros = owed_micros + 1",
    "payment's posted amounts = its entries": "UPDATE billing.payments SET refund_fee_micros = refund_fee_micros - 1",
    "credit lots <= wallet balance when attributed": """
        ALTER TABLE billing.credit_lots DISABLE TRIGGER lot_fixed;
        UPDATE billing.credit_lots SET amount_micros = 1000000, remaining_micros = 1000000""",
    "ended credit = its entry": """
        ALTER TABLE billing.credit_expiries DISABLE TRIGGER append_only;
        UPDATE billing.credit_expiries SET amount_micros = amount_micros + 1""",
    "promotional grant has its lot": """
        ALTER TABLE billing.credit_lots DISABLE TRIGGER lot_fixed;
        UPDATE billing.credit_lots SET amount_micros = amount_micros + 1""",
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

    async def test_recent_entries_are_enough_to_find_recent_damage(self, own_books: Books) -> None:
        await _busy_wallet(own_books)
        owner = await asyncpg.connect(own_books.dsn)
        try:
            assert await reconcile(owner, recent_only=True) == []
            await owner.execute("UPDATE billing.wallets SET balance_micros = balance_micros + 1")
            found = await reconcile(owner, recent_only=True)
            assert await take_snapshots(owner, entries_min=1) == 0
        finally:
            await owner.close()
        assert {difference.check for difference in found} == {"wallet balance = its snapshot + its entries since"}

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
