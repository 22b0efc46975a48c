"""What every test may ask for: a real PostgreSQL, a pool, and the gateway in front of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gateway.observability import configure_logging
from tests.fakes.pool import FakePool
from tests.postgres import PostgresServer
from tests.running import RunningProgram
from tests.serving import RunningGateway

# A busy machine is no reason to fail: how long examples take is not what these tests are about.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _quiet_logs() -> None:
    configure_logging(level="error", as_json=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One cluster for the whole session; take a database of your own from it."""
    server = PostgresServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def _shared(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningGateway, FakePool]]:
    pool = FakePool()
    folder = tmp_path_factory.mktemp("gateway")
    with RunningProgram(pool.app) as upstream, RunningGateway.start(postgres, upstream.base_url, folder) as running:
        yield running, pool


@pytest.fixture
def pool(_shared: tuple[RunningGateway, FakePool]) -> FakePool:
    """The pool behind `gateway`, without a model: it answers as its `behaviour` says."""
    _shared[1].reset()
    return _shared[1]


@pytest.fixture
def gateway(_shared: tuple[RunningGateway, FakePool], pool: FakePool) -> RunningGateway:
    """The gateway on a real socket in front of `pool`, shared by tests that leave it as they found it."""
    return _shared[0]


@pytest.fixture
def own_gateway(postgres: PostgresServer, pool: FakePool, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway that the test may break."""
    with RunningProgram(pool.app) as upstream, RunningGateway.start(postgres, upstream.base_url, tmp_path) as running:
        yield running
