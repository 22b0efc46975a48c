"""The paid path on a real database, with providers that are objects."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from billing import wallets
from billing.ledger import reconcile
from billing.wallets import Balance, CreditKind
from gateway.auth import Caller
from gateway.call import Call
from gateway.calls import Calls
from gateway.catalog import MODELS
from gateway.customer_keys import OwnKeys
from gateway.database import Database
from gateway.media.signed_links import LinkSigner
from gateway.media.store import LocalStore, MediaStore
from gateway.predictions.journal import Journal
from gateway.tenants.accounts import open_account
from gateway.tenants.api_keys import Scope
from inference.provider import EVERYTHING, Capabilities, Credential, Deployment
from inference.router import Router
from inference.task import Mask, Picture, Prompt, SegmentResult, SegmentTask
from tests.pictures import picture

PRICE_MICROS = 5_000
ATTEMPTS_MAX = 2_000

Work = Callable[[SegmentTask], Awaitable[None]]


async def nothing(_task: SegmentTask) -> None:
    """Work that takes no time."""


class Gate:
    """Work that says when it has begun and ends when it is let."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, _task: SegmentTask) -> None:
        self.begun.set()
        await self.opened.wait()


class Worker:
    """A provider: does its work on each task, then answers one mask with a picture."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.tasks: list[SegmentTask] = []

    def capabilities(self, model: str) -> Capabilities | None:
        """Everything."""
        return EVERYTHING

    async def segment(
        self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        """As the protocol says, except that the deadline is left to the work."""
        self.tasks.append(task)
        await self._work(task)
        mask = Mask(rle="1 1", score=0.5, box=(0.0, 0.0, 1.0, 1.0), picture=picture(mode="L"))
        return SegmentResult(
            masks=(mask,),
            width=task.picture.width,
            height=task.picture.height,
            timings_ms={"inference": float(task.picture.width)},
        )


class NoKeys:
    """The wallet pays for every call."""

    async def for_call(self, caller: Caller, model: str) -> OwnKeys | None:
        """None."""
        return None


@dataclass(frozen=True)
class Account:
    """An organization with money."""

    database: Database
    caller: Caller

    @classmethod
    async def open(
        cls, database: Database, *, micros: int = 1_000_000, spend_cap_micros: int | None = None
    ) -> "Account":
        """A new one whose wallet holds so much."""
        async with database.writing() as session:
            organization = await open_account(session, "Test customer")
        key_id = uuid4()
        account = cls(
            database,
            Caller(
                key_id=key_id,
                lineage_id=key_id,
                organization_id=organization.id,
                key_hint="…test",
                scopes=frozenset(Scope),
                allowed_models=None,
                requests_per_minute=None,
                organization_requests_per_minute=None,
                spend_cap_micros=spend_cap_micros,
                spend_cap_period="never",
            ),
        )
        if micros:
            await account.give(micros)
        return account

    async def give(self, micros: int) -> None:
        """Put money into the wallet, or take free money out of it."""
        async with self.database.pool.acquire() as connection:
            await wallets.credit(
                connection,
                self.caller.organization_id,
                micros,
                kind=CreditKind.ADJUSTMENT,
                reference=str(uuid4()),
                reason="tests",
                actor="tests",
            )

    def call(self, *pictures: Picture, **fields: Any) -> Call:
        """A call for these pictures (by default one)."""
        tasks = [
            SegmentTask(model=MODELS[0].id, picture=each, prompt=Prompt(text="red circle"))
            for each in pictures or (a_picture(),)
        ]
        defaults: dict[str, Any] = {
            "store_pictures": False,
            "timeout_seconds": 60.0,
            "request_id": f"req_{uuid4().hex}",
        }
        return Call(caller=self.caller, model=MODELS[0], tasks=tasks, dialect="openai", **(defaults | fields))

    async def balance(self) -> Balance:
        """The wallet; fails if the books do not agree with themselves."""
        async with self.database.pool.acquire() as connection:
            assert await reconcile(connection) == []
            return await wallets.balance(connection, self.caller.organization_id)

    async def charges(self) -> int:
        """How many charges the ledger has of this wallet."""
        query = """
            SELECT count(*) FROM billing.ledger_entries entry JOIN billing.wallets wallet ON wallet.id = entry.wallet_id
            WHERE wallet.owner_id = $1 AND entry.kind = 'usage'
        """
        found: int = await self.database.pool.fetchval(query, self.caller.organization_id)
        return found

    async def prediction(self, prediction_id: UUID) -> dict[str, Any]:
        """What is remembered of a call; its error as the code alone."""
        row = await self.database.pool.fetchrow(
            "SELECT *, error ->> 'code' AS code FROM gateway.predictions WHERE id = $1", prediction_id
        )
        assert row is not None, "it was admitted"
        return dict(row)

    async def predictions(self) -> int:
        """How many calls are remembered."""
        query = "SELECT count(*) FROM gateway.predictions WHERE organization_id = $1"
        found: int = await self.database.pool.fetchval(query, self.caller.organization_id)
        return found


def a_picture(width: int = 64, height: int = 48) -> Picture:
    """One that could be segmented."""
    return Picture(data=picture(width, height), media_type="image/png", width=width, height=height)


@asynccontextmanager
async def journal_of(database: Database) -> AsyncIterator[Journal]:
    """A journal that commits."""
    journal = Journal(database.pool)
    running = asyncio.create_task(journal.run())
    try:
        yield journal
    finally:
        await journal.aclose()
        await running


def calls_of(journal: Journal, work: Work, folder: Path, *, media: MediaStore | None = None, **options: Any) -> Calls:
    """The paid path with one provider that does `work`."""
    deployment = Deployment("worker", Worker(work))
    defaults: dict[str, Any] = {"keys": NoKeys(), "hold_ttl_seconds": 600.0, "maximum_in_flight": 16}
    return Calls(
        journal=journal,
        router=Router({model.id: [deployment] for model in MODELS}),
        media=media or LocalStore(folder, base_url="http://gateway.test", signer=LinkSigner(["a signing key"])),
        **(defaults | options),
    )


async def eventually(happened: Callable[[], Awaitable[Any]]) -> Any:
    """What `happened` gives once that is true of it."""
    for _ in range(ATTEMPTS_MAX):
        if found := await happened():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")
