"""Real books for the billing tests. Tests share one database and keep apart by having owners of their own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import TypeVar

import asyncpg
import pytest

from billing.stripe_client import StripeClient
from migrations.upgrade import APPLICATION_ROLE
from tests.billing.books import Books
from tests.billing.desk import Desk
from tests.fakes.stripe import FakeStripe
from tests.postgres import PostgresServer
from tests.running import RunningProgram

T = TypeVar("T")


@asynccontextmanager
async def open_books(server: PostgresServer) -> AsyncIterator[Books]:
    """A database of its own."""
    dsn = await server.migrated_database()
    settings = {"role": APPLICATION_ROLE}
    async with asyncpg.create_pool(dsn, min_size=1, max_size=10, server_settings=settings) as pool:
        yield Books(dsn, pool)


@pytest.fixture(scope="session")
async def books(postgres: PostgresServer) -> AsyncIterator[Books]:
    """The shared books."""
    async with open_books(postgres) as books:
        yield books


@pytest.fixture
async def own_books(postgres: PostgresServer) -> AsyncIterator[Books]:
    """Books of the test's own, for what looks at all of them or damages them."""
    async with open_books(postgres) as books:
        yield books


@pytest.fixture(scope="session")
def stripe_server() -> Iterator[tuple[FakeStripe, str]]:
    """The stand-in for Stripe and its address."""
    fake = FakeStripe()
    with RunningProgram(fake.app, lifespan="on") as program:
        yield fake, program.base_url


@asynccontextmanager
async def open_desk(books: Books, server: tuple[FakeStripe, str]) -> AsyncIterator[Desk]:
    """Payments on these books; events are held back until the test hears them."""
    fake, address = server
    fake.faults.clear()
    fake.violations.clear()
    fake.webhooks.hold = True
    fake.webhooks.held = []
    client = StripeClient("sk_test_desk", api_url=address, timeout_seconds=5.0)
    try:
        yield Desk(books, fake, client, address)
    finally:
        await client.aclose()
    assert fake.violations == [], "every request is one that Stripe's own types allow"


@pytest.fixture
async def desk(books: Books, stripe_server: tuple[FakeStripe, str]) -> AsyncIterator[Desk]:
    """Payments on the shared books."""
    async with open_desk(books, stripe_server) as desk:
        yield desk


@pytest.fixture
async def own_desk(own_books: Books) -> AsyncIterator[Desk]:
    """Payments on books and a Stripe account of the test's own, for what compares all of both."""
    fake = FakeStripe()
    with RunningProgram(fake.app, lifespan="on") as program:
        async with open_desk(own_books, (fake, program.base_url)) as desk:
            yield desk


def enter(runner: asyncio.Runner, stack: ExitStack, opening: AbstractAsyncContextManager[T]) -> T:
    """Open something on a runner's loop and close it with the stack, for tests that cannot be coroutines."""
    stack.callback(lambda: runner.run(_left(opening)))
    return runner.run(_entered(opening))


async def _entered(opening: AbstractAsyncContextManager[T]) -> T:
    return await opening.__aenter__()


async def _left(opening: AbstractAsyncContextManager[T]) -> None:
    await opening.__aexit__(None, None, None)
