"""Real PostgreSQL for the gateway's tests; each test that asks for `database` has one of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.database import Database
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole run."""
    server = PostgresServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
async def database(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """A fresh database with the newest schema."""
    database = await Database.connect(await postgres_server.migrated_database(), pool_size=5)
    try:
        yield database
    finally:
        await database.aclose()
