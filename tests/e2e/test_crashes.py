"""`gateway serve` is stopped or killed in the middle of a call: its money ends in a charge or comes back."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from billing import wallets
from billing.ledger import reconcile
from billing.wallets import Balance
from gateway.embedded.postgres import embedded_dsn
from gateway.identifiers import ORGANIZATION, parse_id
from tests.fakes.pool import FakePool
from tests.gateway.cli.conftest import Machine, remaining
from tests.pictures import data_uri, picture
from tests.running import RunningProgram
from tests.serving import wait_until

pytestmark = pytest.mark.timeout(400)

CREDIT_MICROS = 5_000_000
PRICE_MICROS = 5_000
CLIENT_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Books:
    """The demo wallet and every call, as the database has them."""

    balance: Balance
    predictions: list[Any]

    @property
    def ends(self) -> list[tuple[str, int, str | None]]:
        """Status, charge in micros and code of the error of each call."""
        return [(row["status"], row["charged_micros"], row["code"]) for row in self.predictions]


@pytest.fixture
def pool() -> FakePool:
    return FakePool()


@pytest.fixture
def machine(pool: FakePool, tmp_path: Path) -> Iterator[Machine]:
    with RunningProgram(pool.app) as upstream:
        machine = Machine(tmp_path / "data", upstream.base_url)
        machine.start()
        try:
            yield machine
        finally:
            pool.release()
            if machine.process is not None:
                machine.signal(signal.SIGKILL)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def call(machine: Machine) -> httpx.Response:
    """One paid call with the demo's key."""
    demo = machine.demo
    return httpx.post(
        f"{demo['base_url']}/v1/images/generations",
        headers={"authorization": f"Bearer {demo['api_key']}"},
        json={"prompt": "red circle", "image": data_uri(picture())},
        timeout=CLIENT_TIMEOUT_SECONDS,
    )


def stalled(machine: Machine, pool: FakePool, threads: ThreadPoolExecutor) -> "Future[httpx.Response]":
    """A call whose work has begun and does not go on."""
    pool.behaviour = "stall"
    answer = threads.submit(call, machine)
    wait_until(lambda: len(pool.tasks) == 1)
    return answer


def no_longer_listens(machine: Machine) -> bool:
    """Whether new connections are refused."""
    host, _, port = machine.demo["base_url"].removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return True
    return False


def books(machine: Machine) -> Books:
    """What the machine's own database says; fails if the books do not agree with themselves."""
    organization_id = parse_id(ORGANIZATION, machine.demo["organization_id"])
    assert organization_id is not None

    async def read() -> Books:
        connection = await asyncpg.connect(embedded_dsn(machine.data_dir))
        try:
            assert await reconcile(connection) == []
            query = "SELECT status, charged_micros, error ->> 'code' AS code FROM gateway.predictions ORDER BY id"
            return Books(await wallets.balance(connection, organization_id), await connection.fetch(query))
        finally:
            await connection.close()

    return asyncio.run(read())


def test_stopping_waits_for_a_running_call_and_charges_it_once(
    machine: Machine, pool: FakePool, threads: ThreadPoolExecutor
) -> None:
    answer = stalled(machine, pool, threads)
    ended = threads.submit(machine.signal, signal.SIGTERM)
    wait_until(lambda: no_longer_listens(machine))
    pool.release()
    assert answer.result().status_code == 200
    assert ended.result() == 0
    machine.start()
    found = books(machine)
    assert found.ends == [("completed", PRICE_MICROS, None)]
    assert (found.balance.balance_micros, found.balance.held_micros) == (CREDIT_MICROS - PRICE_MICROS, 0)


def test_stopping_gives_up_a_stuck_call_says_so_and_frees_its_money(
    machine: Machine, pool: FakePool, threads: ThreadPoolExecutor
) -> None:
    machine.signal(signal.SIGTERM)
    machine.settings["GATEWAY_SHUTDOWN_TIMEOUT_SECONDS"] = "1"
    machine.start()
    answer = stalled(machine, pool, threads)
    family = machine.family()
    assert machine.signal(signal.SIGTERM) == 0
    refusal = answer.result()
    assert refusal.status_code == 503
    assert (refusal.json()["error"]["type"], refusal.json()["error"]["code"]) == (
        "service_unavailable",
        "shutting_down",
    )
    assert int(refusal.headers["retry-after"]) >= 1
    assert refusal.headers["x-request-id"].startswith("req_")
    assert remaining(family) == []
    machine.start()
    found = books(machine)
    assert found.ends == [("failed", 0, "shutting_down")]
    assert (found.balance.balance_micros, found.balance.held_micros) == (CREDIT_MICROS, 0)


def test_a_second_signal_gives_up_at_once_and_frees_the_money_too(
    machine: Machine, pool: FakePool, threads: ThreadPoolExecutor
) -> None:
    answer = stalled(machine, pool, threads)
    assert machine.process is not None
    machine.process.send_signal(signal.SIGTERM)
    wait_until(lambda: no_longer_listens(machine))
    assert machine.signal(signal.SIGTERM) == 0
    assert answer.exception() is not None or answer.result().status_code == 503
    machine.start()
    found = books(machine)
    assert found.ends == [("failed", 0, "shutting_down")]
    assert found.balance.held_micros == 0


def test_kill_9_in_the_middle_of_a_call_holds_its_money_for_a_while_and_charges_nothing(
    machine: Machine, pool: FakePool, threads: ThreadPoolExecutor
) -> None:
    machine.signal(signal.SIGTERM)
    machine.settings |= {
        "GATEWAY_CALL_TIMEOUT_SECONDS": "20",
        "GATEWAY_SHUTDOWN_TIMEOUT_SECONDS": "1",
        "GATEWAY_HOLD_TTL_SECONDS": "22",
    }
    machine.start()
    answer = stalled(machine, pool, threads)
    assert books(machine).balance.held_micros == PRICE_MICROS
    family = machine.family()
    machine.signal(signal.SIGKILL)
    with pytest.raises(httpx.TransportError):
        answer.result()
    assert remaining(family) == []
    pool.release()
    pool.behaviour = "succeed"
    machine.start()
    wait_until(lambda: books(machine).balance.held_micros == 0)
    found = books(machine)
    assert found.ends == [("failed", 0, "abandoned")]
    assert found.balance.balance_micros == CREDIT_MICROS
    assert call(machine).status_code == 200
    assert books(machine).balance.balance_micros == CREDIT_MICROS - PRICE_MICROS


def test_kill_9_after_an_answer_takes_back_neither_the_charge_nor_the_result(machine: Machine) -> None:
    answer = call(machine)
    machine.signal(signal.SIGKILL)
    link = answer.json()["data"][0]["url"]
    before = machine.demo["base_url"]
    machine.start()
    found = books(machine)
    assert found.ends == [("completed", PRICE_MICROS, None)]
    assert (found.balance.balance_micros, found.balance.held_micros) == (CREDIT_MICROS - PRICE_MICROS, 0)
    result = httpx.get(link.replace(before, machine.demo["base_url"]))
    assert (result.status_code, result.headers["content-type"]) == (200, "image/png")
