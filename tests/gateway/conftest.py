"""Real PostgreSQL for the gateway's tests; each test that asks for `database` has one of its own."""

from collections.abc import AsyncIterator

import pytest

from gateway.database import Database
from tests.postgres import PostgresServer


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[Database]:
    """A fresh database with the newest schema."""
    database = await Database.connect(await postgres.migrated_database(), pool_size=5)
    try:
        yield database
    finally:
        await database.aclose()
