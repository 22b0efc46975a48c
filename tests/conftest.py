"""What every test may ask for: a real PostgreSQL, a pool, and the gateway in front of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.pool import FakePool
from tests.postgres import PostgresServer
from tests.running import RunningProgram
from tests.serving import RunningGateway


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One cluster for the whole session; take a database of your own from it."""
    server = PostgresServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def pool() -> FakePool:
    """A pool without a model, which answers as its `behaviour` says."""
    return FakePool()


@pytest.fixture
def gateway(postgres: PostgresServer, pool: FakePool, tmp_path: Path) -> Iterator[RunningGateway]:
    """The gateway on a real socket, with a database of its own, in front of `pool`."""
    with RunningProgram(pool.app) as upstream, RunningGateway.start(postgres, upstream.base_url, tmp_path) as running:
        yield running
