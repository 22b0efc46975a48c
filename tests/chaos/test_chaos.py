"""Kill the database, the gateway and workers while all of them charge one wallet: what was answered is in the books.

`GATEWAY_TEST_CHAOS_ROUNDS` says how often something is killed; ten times by default, a hundred every night.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from billing import wallets
from billing.ledger import reconcile, take_snapshots
from gateway.database import Database
from gateway.settings import CHECKOUT
from gateway.tenants.accounts import open_account
from gateway.tenants.api_keys import issue_key
from gateway.tenants.key_format import Peppers
from migrations.upgrade import APPLICATION_ROLE
from tests.chaos.worker import HOLD_SECONDS, PRICE_MICROS
from tests.fakes.pool import FakePool
from tests.pictures import data_uri, picture
from tests.postgres import PostgresServer
from tests.running import RunningProgram, listen

ROUNDS = int(os.environ.get("GATEWAY_TEST_CHAOS_ROUNDS", "10"))
SECONDS_PER_ROUND = 30
PEPPER = "a pepper for chaos, which has more than 32 characters"
CREDIT_MICROS = 10**12
WORKERS = 2
CUSTOMERS = 3


@dataclass
class Program:
    """A program that is started again after each kill; what it said stays, through all its lives."""

    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it once more."""
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "out").open("ab") as out, (self.folder / "err").open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                cwd=CHECKOUT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    @property
    def said(self) -> str:
        """All it has written to standard output; a last line that is not whole does not count."""
        return (self.folder / "out").read_text().rpartition("\n")[0]


@dataclass
class Scene:
    """The database, who charges it, and what was acknowledged."""

    server: PostgresServer
    dsn: str
    organization_id: UUID
    key: str
    gateway: Program
    gateway_url: str
    workers: list[Program]
    answered: list[str] = field(default_factory=list)  # request ids of calls that were answered 200

    async def customer(self, client: httpx.AsyncClient) -> None:
        """Call the gateway again and again, as long as the test runs."""
        body = {"model": "meta/sam-3-image", "prompt": "x", "image": data_uri(picture())}
        while True:
            try:
                answer = await client.post(
                    f"{self.gateway_url}/v1/images/generations",
                    json=body,
                    headers={"authorization": f"Bearer {self.key}"},
                )
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code == 200:
                self.answered.append(answer.headers["x-request-id"])
            else:
                assert answer.status_code in (500, 503), answer.text
                await asyncio.sleep(0.05)

    async def charges(self) -> int:
        """How many charges are in the books."""
        connection = await asyncpg.connect(self.dsn)
        try:
            found: int = await connection.fetchval("SELECT count(*) FROM billing.ledger_entries WHERE kind = 'usage'")
            return found
        finally:
            await connection.close()

    async def until_charging(self) -> None:
        """Wait for the gateway and every worker to have been answered since now."""
        lines = [worker.said.count("captured") for worker in self.workers]
        calls = len(self.answered)
        async with asyncio.timeout(SECONDS_PER_ROUND):
            while len(self.answered) == calls or any(
                worker.said.count("captured") == before for worker, before in zip(self.workers, lines, strict=True)
            ):
                await asyncio.sleep(0.05)

    async def strike(self, victim: str) -> None:
        """Kill the victim as it works, then start it again."""
        match victim:
            case "database":
                await asyncio.to_thread(self.server.crash)
                self.server.start()
            case "gateway":
                self.gateway.kill()
                self.gateway.start()
            case "worker":
                worker = random.choice(self.workers)
                worker.kill()
                worker.start()

    async def reconcile(self) -> None:
        """The books are sound, beside whatever is going on."""
        connection = await asyncpg.connect(self.dsn)
        try:
            assert await reconcile(connection) == []
            await take_snapshots(connection, entries_min=1)
        finally:
            await connection.close()


@asynccontextmanager
async def _scene(folder: Path) -> AsyncIterator[Scene]:
    server = PostgresServer(durable=True)
    server.start()
    programs: list[Program] = []
    try:
        dsn = await server.migrated_database()
        organization_id, key_id, key = await _customer(dsn)
        with RunningProgram(FakePool().app) as pool:
            with listen() as free:
                port = free.getsockname()[1]
            environment = {
                name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or "COVERAGE" in name
            }
            gateway_settings = {
                "GATEWAY_DATABASE_URL": dsn,
                "GATEWAY_POOL_URLS": pool.base_url,
                "GATEWAY_DATA_DIR": str(folder / "data"),
                "GATEWAY_PORT": str(port),
                "GATEWAY_KEY_PEPPER": PEPPER,
                "GATEWAY_MEDIA_SIGNING_KEY": "a signing key for chaos",
                "GATEWAY_REQUESTS_PER_MINUTE": "1000000",
                "GATEWAY_ORGANIZATION_REQUESTS_PER_MINUTE": "1000000",
                "GATEWAY_LOG_LEVEL": "error",
            }
            gateway = Program(["gateway.cli", "serve"], environment | gateway_settings, folder / "gateway")
            arguments = ["tests.chaos.worker", dsn, str(organization_id), str(key_id)]
            workers = [Program(arguments, environment, folder / f"worker{number}") for number in range(WORKERS)]
            programs += [gateway, *workers]
            for program in programs:
                program.start()
            url = f"http://127.0.0.1:{port}"
            yield Scene(server, dsn, organization_id, key, gateway, url, workers)
    finally:
        for program in programs:
            program.kill()
        server.stop()


async def _customer(dsn: str) -> tuple[UUID, UUID, str]:
    """An organization with plenty of credit, some of which is about to end, and its key."""
    database = await Database.connect(dsn, pool_size=1, role=APPLICATION_ROLE)
    try:
        async with database.writing() as session:
            organization = await open_account(session, "chaos")
        async with database.writing() as session:
            issued = await issue_key(session, organization.id, peppers=Peppers([PEPPER]), name="chaos")
        async with database.pool.acquire() as connection:
            for amount_micros, seconds in ((CREDIT_MICROS, None), (3_000_000, 5), (2_000_000, 10)):
                await wallets.credit(
                    connection,
                    organization.id,
                    amount_micros,
                    kind=wallets.CreditKind.PROMOTIONAL,
                    reference=str(uuid4()),
                    reason="chaos",
                    actor="tests",
                    expires_at=None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds),
                )
        return organization.id, issued.record.id, issued.key
    finally:
        await database.aclose()


async def _require_all_that_was_answered(scene: Scene) -> None:
    """Each acknowledged charge is in the books once, nothing that was released is, and nobody is charged otherwise."""
    connection = await asyncpg.connect(scene.dsn)
    try:
        rows = await connection.fetch(
            "SELECT reference, kind, amount_micros FROM billing.ledger_entries WHERE kind IN ('usage', 'writeoff')"
        )
        charged = Counter(row["reference"] for row in rows)
        assert set(charged.values()) <= {1}
        assert {row["amount_micros"] for row in rows} == {PRICE_MICROS}
        heard = [line.split() for worker in scene.workers for line in worker.said.splitlines()]
        captured = {UUID(id_) for what, id_ in heard if what in ("captured", "captured_late", "written_off")}
        released = {UUID(id_) for what, id_ in heard if what == "released"}
        assert captured <= set(charged)
        assert released.isdisjoint(charged)

        calls = await connection.fetch(
            "SELECT id, status, charged_micros, request_id FROM gateway.predictions WHERE request_id = ANY($1)",
            scene.answered,
        )
        assert len(calls) == len(set(scene.answered)) == len(scene.answered)
        assert {(call["status"], call["charged_micros"]) for call in calls} == {("completed", PRICE_MICROS)}
        assert {call["id"] for call in calls} <= set(charged)

        settled = await connection.fetch("SELECT id FROM gateway.predictions WHERE charged_micros > 0")
        assert {row["id"] for row in settled} == {row["reference"] for row in rows if row["kind"] == "usage"}
        wallet = await wallets.balance(connection, scene.organization_id)
        usage = sum(row["kind"] == "usage" for row in rows) * PRICE_MICROS
        ended = await connection.fetchval(
            "SELECT coalesce(sum(amount_micros), 0)::bigint FROM billing.ledger_entries WHERE kind = 'breakage'"
        )
        assert wallet.balance_micros == CREDIT_MICROS + 5_000_000 - usage - ended
        print(f"{len(captured)} captures and {len(calls)} calls were answered, {len(charged)} are charged")
    finally:
        await connection.close()


@pytest.mark.timeout(60 + ROUNDS * SECONDS_PER_ROUND)
async def test_what_was_answered_survives_every_kill(tmp_path: Path) -> None:
    async with _scene(tmp_path) as scene, httpx.AsyncClient(timeout=20) as client:
        customers = [asyncio.create_task(scene.customer(client)) for _ in range(CUSTOMERS)]
        victims = ["database", "gateway", "worker"]
        for number in range(ROUNDS):
            await scene.until_charging()
            await asyncio.sleep(random.uniform(0, 0.5))
            await scene.strike(victims[number % 3])
            await scene.until_charging()
            await scene.reconcile()
        for customer in customers:
            customer.cancel()
        for ended in await asyncio.gather(*customers, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended
        for program in (scene.gateway, *scene.workers):
            program.kill()
        await _require_all_that_was_answered(scene)
        await asyncio.sleep(HOLD_SECONDS)
        await scene.reconcile()
