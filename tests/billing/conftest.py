"""Real books for the billing tests. Tests share one database and keep apart by having owners of their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from migrations.upgrade import APPLICATION_ROLE
from tests.billing.books import Books
from tests.postgres import PostgresServer


@asynccontextmanager
async def _open_books(server: PostgresServer) -> AsyncIterator[Books]:
    dsn = await server.migrated_database()
    settings = {"role": APPLICATION_ROLE}
    async with asyncpg.create_pool(dsn, min_size=1, max_size=10, server_settings=settings) as pool:
        yield Books(dsn, pool)


@pytest.fixture(scope="session")
async def books(postgres: PostgresServer) -> AsyncIterator[Books]:
    """The shared books."""
    async with _open_books(postgres) as books:
        yield books


@pytest.fixture
async def own_books(postgres: PostgresServer) -> AsyncIterator[Books]:
    """Books of the test's own, for what looks at all of them or damages them."""
    async with _open_books(postgres) as books:
        yield books
