"""The schema can be made by several programs at once, with few rights, and is what the code believes it is."""

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

import billing.tables
from migrations.connecting import engine_for
from migrations.upgrade import APPLICATION_ROLE, application_role, current, downgrade, upgrade
from tests.billing.books import Books, place
from tests.postgres import PostgresServer


async def _execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_several_programs_may_migrate_at_once(postgres: PostgresServer) -> None:
    dsn = await postgres.empty_database()
    assert await asyncio.to_thread(current, dsn) is None
    with ThreadPoolExecutor(4) as threads:
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(threads, upgrade, dsn) for _ in range(4)))
    assert await asyncio.to_thread(current, dsn) is not None
    assert await asyncio.to_thread(application_role, dsn) == APPLICATION_ROLE


async def test_the_declared_tables_are_the_migrated_ones(books: Books) -> None:
    def compare(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == billing.tables.SCHEMA,
                "compare_type": True,
            },
        )
        return list(compare_metadata(context, billing.tables.metadata))

    engine = engine_for(books.dsn)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(compare) == []
    finally:
        await engine.dispose()


async def test_an_empty_schema_can_be_taken_down_and_put_back(postgres: PostgresServer) -> None:
    dsn = await postgres.empty_database()
    await asyncio.to_thread(upgrade, dsn, revision="0001")
    await asyncio.to_thread(downgrade, dsn, revision="base")
    assert await asyncio.to_thread(current, dsn) is None
    await asyncio.to_thread(upgrade, dsn)


async def test_books_with_money_are_not_taken_down(own_books: Books) -> None:
    owner = await own_books.wallet(5_000)
    await own_books.apply([place(owner, 5_000)])
    with pytest.raises(RuntimeError, match="there is money in it"):
        await asyncio.to_thread(downgrade, own_books.dsn, revision="base")
    assert await own_books.balance(owner) == (5_000, 5_000)


async def test_a_plain_login_owns_working_books_on_an_older_server(caplog: pytest.LogCaptureFixture) -> None:
    server = PostgresServer(version=16)
    server.start()
    try:
        await _execute(
            server.dsn(),
            "CREATE ROLE powerless LOGIN",
            "CREATE ROLE maker LOGIN CREATEROLE",
            "CREATE DATABASE powerless OWNER powerless",
            "CREATE DATABASE maker OWNER maker",
            "CREATE DATABASE late OWNER powerless",
        )
        powerless = server.dsn("powerless").replace("postgres@", "powerless@")
        with caplog.at_level(logging.WARNING):
            await asyncio.to_thread(upgrade, powerless)
        assert APPLICATION_ROLE in caplog.text
        assert await asyncio.to_thread(application_role, powerless) is None
        async with asyncpg.create_pool(powerless, min_size=1, max_size=2) as pool:
            books = Books(powerless, pool)
            assert await books.kind(place(await books.wallet(5_000), 5_000)) == "placed"

        maker = server.dsn("maker").replace("postgres@", "maker@")
        await asyncio.to_thread(upgrade, maker)
        assert await asyncio.to_thread(application_role, maker) == APPLICATION_ROLE

        late = server.dsn("late").replace("postgres@", "powerless@")
        await asyncio.to_thread(upgrade, late)
        assert await asyncio.to_thread(application_role, late) is None
    finally:
        server.stop()


async def test_alembics_own_command_line_works(postgres: PostgresServer) -> None:
    dsn = await postgres.empty_database()
    command = [sys.executable, "-m", "alembic", "-x", f"dsn={dsn}", "upgrade", "head"]
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2])
    assert await process.wait() == 0
    assert await asyncio.to_thread(current, dsn) is not None
