"""The whole gateway on a real socket, and customers of it."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from openai import OpenAI

from billing import wallets
from billing.ledger import reconcile
from billing.wallets import Balance, CreditKind
from gateway.app import create_app
from gateway.http_protocol import http_protocol
from gateway.resources import Resources
from gateway.settings import Settings
from gateway.tenants.accounts import open_account
from gateway.tenants.api_keys import issue_key
from gateway.tenants.key_format import Peppers
from tests.postgres import PostgresServer
from tests.running import RunningProgram, listen

PEPPER = "a pepper for tests, which has more than 32 characters"


def wait_until(happened: Callable[[], bool]) -> None:
    """Return once `happened()`; fail if it has not after twenty seconds."""
    for _ in range(400):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it never happened")


@dataclass(frozen=True, slots=True)
class Customer:
    """An organization and one of its keys."""

    organization_id: UUID
    key_id: UUID
    key: str


class RunningGateway:
    """A gateway under test and the books behind it."""

    def __init__(self, program: RunningProgram, app: Any, dsn: str) -> None:
        self._program = program
        self._app = app
        self._dsn = dsn
        self._clients: list[OpenAI] = []
        self.base_url = program.base_url

    @classmethod
    @contextmanager
    def start(
        cls, postgres: PostgresServer, pool_url: str, folder: Path, **settings: Any
    ) -> Iterator["RunningGateway"]:
        """Serve on a free port with a database of its own; `settings` override the defaults."""
        dsn = asyncio.run(postgres.migrated_database())
        listening = listen()
        complete: dict[str, Any] = {
            "port": listening.getsockname()[1],
            "data_dir": folder,
            "database_url": dsn,
            "database_may_lose_data": True,
            "pool_urls": [pool_url],
            "key_pepper": PEPPER,
            "media_signing_key": "a signing key for tests",
        }
        configured = Settings(**(complete | settings))
        app = create_app(configured)
        protocol = http_protocol(
            header_timeout_seconds=configured.header_timeout_seconds,
            body_timeout_seconds=configured.body_timeout_seconds,
        )
        with RunningProgram(app, listening=listening, http=protocol, lifespan="on") as program:
            running = cls(program, app, dsn)
            try:
                yield running
            finally:
                for client in running._clients:
                    client.close()

    @property
    def resources(self) -> Resources:
        resources: Resources = self._app.state.resources
        return resources

    def run(self, coroutine: Any) -> Any:
        """The coroutine's result, run on the gateway's own loop."""
        return self._program.run(coroutine)

    def customer(self, *, usd: float = 5.0, **key_settings: Any) -> Customer:
        """A new organization with `usd` of credit and a key."""
        return self._program.run(self._customer(int(usd * 1_000_000), key_settings))  # type: ignore[no-any-return]

    def openai(self, customer: Customer | str, **options: Any) -> OpenAI:
        """The stock client of this customer, or with this key; it does not repeat calls unless told to."""
        key = customer if isinstance(customer, str) else customer.key
        client = OpenAI(base_url=f"{self.base_url}/v1", api_key=key, **({"max_retries": 0} | options))
        self._clients.append(client)
        return client

    def balance(self, customer: Customer) -> Balance:
        """The customer's wallet as the database has it now."""
        return asyncio.run(self._on_database(lambda c: wallets.balance(c, customer.organization_id)))  # type: ignore[no-any-return]

    def predictions(self, customer: Customer) -> list[dict[str, Any]]:
        """The customer's predictions, oldest first."""
        query = "SELECT * FROM gateway.predictions WHERE organization_id = $1 ORDER BY id"
        rows = asyncio.run(self._on_database(lambda c: c.fetch(query, customer.organization_id)))
        documents = ("error", "output", "timings_ms")
        return [
            {name: json.loads(value) if value and name in documents else value for name, value in row.items()}
            for row in rows
        ]

    def rows(self, query: str, *arguments: Any) -> list[Any]:
        """What the database answers to any query."""
        return asyncio.run(self._on_database(lambda c: c.fetch(query, *arguments)))

    def execute(self, statement: str, *arguments: Any) -> None:
        """Change the database behind the gateway's back."""
        asyncio.run(self._on_database(lambda c: c.execute(statement, *arguments)))

    def require_sound_books(self) -> None:
        """Fail if wallets, entries, holds and caps do not agree."""
        differences = asyncio.run(self._on_database(reconcile))
        assert differences == []

    async def _on_database(self, work: Any) -> Any:
        connection = await asyncpg.connect(self._dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()

    async def _customer(self, credit_micros: int, key_settings: dict[str, Any]) -> Customer:
        async with self.resources.database.writing() as session:
            organization = await open_account(session, "Test customer")
        async with self.resources.database.writing() as session:
            issued = await issue_key(
                session, organization.id, peppers=Peppers([PEPPER]), **({"name": "test"} | key_settings)
            )
        if credit_micros:
            async with self.resources.database.pool.acquire() as connection:
                await wallets.credit(
                    connection,
                    organization.id,
                    credit_micros,
                    kind=CreditKind.PROMOTIONAL,
                    reference=str(uuid4()),
                    reason="tests",
                    actor="tests",
                )
        return Customer(organization.id, issued.record.id, issued.key)
