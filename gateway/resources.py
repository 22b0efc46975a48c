"""Everything that lives as long as the process: opened in order, closed in reverse."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog

from billing.ledger import require_durable
from gateway import chores as books
from gateway.auth import Authenticator
from gateway.calls import Calls
from gateway.customer_keys import CustomerKeys
from gateway.database import Database
from gateway.deployments import NOTICE_INTERVAL_SECONDS, Switches
from gateway.media.downloader import Downloader
from gateway.media.intake import PICTURE_BYTES_MAX, Intake
from gateway.media.signed_links import LinkSigner
from gateway.media.store import MediaStore, open_media_store
from gateway.payments import Payments, open_payments
from gateway.predictions.journal import Journal
from gateway.rate_limit import RateLimiter, open_rate_limiter
from gateway.refusals import PaymentsNotConfigured
from gateway.secrets_at_rest import Vault
from gateway.settings import Settings
from gateway.tenants.key_directory import PostgresKeyDirectory
from gateway.tenants.key_format import Peppers
from gateway.upstreams import Upstreams, address_book
from inference.provider import Provider
from inference.providers.local import LocalPool
from inference.router import Router
from migrations.upgrade import application_role

log = structlog.get_logger(__name__)

Chore = Coroutine[Any, Any, None]

EXPIRY_INTERVAL_SECONDS = 5.0
EXPIRY_BATCH = 500
MEDIA_SWEEP_INTERVAL_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What routes work with."""

    settings: Settings
    database: Database
    authenticator: Authenticator
    limiter: RateLimiter
    intake: Intake
    links: LinkSigner
    media: MediaStore
    pool: LocalPool
    router: Router
    customer_keys: CustomerKeys
    calls: Calls
    payments: Payments | None

    def require_payments(self) -> Payments:
        """Raises PaymentsNotConfigured where no Stripe account is named."""
        if self.payments is None:
            raise PaymentsNotConfigured
        return self.payments


@asynccontextmanager
async def open_resources(settings: Settings, provider: Provider | None = None) -> AsyncIterator[Resources]:
    """Open all of it. Leaving refuses new calls, lets running ones settle, then closes.

    `settings` must be complete: database, pool addresses and secrets are there. Raises OSError or asyncpg's errors
    where the database cannot be reached.
    """
    assert settings.database_url is not None, "settings are completed before resources are opened"
    assert settings.key_pepper is not None, "settings are completed before resources are opened"
    async with AsyncExitStack() as stack:
        database = await _open_database(settings, settings.database_url.get_secret_value())
        stack.push_async_callback(database.aclose)
        limiter = await open_rate_limiter(settings)
        stack.push_async_callback(limiter.aclose)
        authenticator = Authenticator(PostgresKeyDirectory(database.pool), peppers=Peppers(settings.peppers))
        book = address_book(settings)
        downloader = Downloader(book, bytes_max=PICTURE_BYTES_MAX)
        stack.push_async_callback(downloader.aclose)
        intake = Intake(downloader)
        stack.callback(intake.close)
        links = LinkSigner(settings.media_signing_keys)
        media = open_media_store(settings, links)
        pool = LocalPool(settings.pool_urls)
        stack.push_async_callback(pool.aclose)
        upstreams = Upstreams(settings, book)
        stack.push_async_callback(upstreams.aclose)
        vault = Vault(settings.key_encryption_keys) if settings.key_encryption_keys else None
        customer_keys = CustomerKeys(database.pool, vault, upstreams)
        switches = Switches(database.pool)
        await switches.refresh()
        router = Router(upstreams.deployments(provider or pool), observer=customer_keys, switched_off=switches.off)
        journal = Journal(database.pool)
        journaling = asyncio.create_task(journal.run())
        stack.push_async_callback(_finish, journal, journaling)
        calls = Calls(
            journal=journal,
            router=router,
            media=media,
            keys=customer_keys,
            hold_ttl_seconds=settings.hold_ttl_seconds,
            maximum_in_flight=settings.maximum_calls_in_flight,
        )
        stack.push_async_callback(calls.drain, settings.shutdown_timeout_seconds)
        payments = open_payments(settings, database.pool)
        if payments is not None:
            stack.push_async_callback(payments.aclose)
        chores = [
            _every(NOTICE_INTERVAL_SECONDS, switches.refresh),
            authenticator.run(),
            *_chores_of_records(settings, journal, media),
            *_chores_of_money(database, payments),
        ]
        stack.push_async_callback(_cancel, [asyncio.create_task(chore) for chore in chores])
        yield Resources(
            settings=settings,
            database=database,
            authenticator=authenticator,
            limiter=limiter,
            intake=intake,
            links=links,
            media=media,
            pool=pool,
            router=router,
            customer_keys=customer_keys,
            calls=calls,
            payments=payments,
        )


def _chores_of_records(settings: Settings, journal: Journal, media: MediaStore) -> Iterator[Chore]:
    """End what processes that died left behind; delete results past their time."""
    abandoned = timedelta(seconds=settings.hold_ttl_seconds)
    retention = timedelta(seconds=settings.media_retention_seconds)
    yield _every(EXPIRY_INTERVAL_SECONDS, lambda: journal.expire(limit=EXPIRY_BATCH))
    yield _every(EXPIRY_INTERVAL_SECONDS, lambda: journal.abandon(older_than=abandoned, limit=EXPIRY_BATCH))
    yield _every(MEDIA_SWEEP_INTERVAL_SECONDS, lambda: media.sweep(datetime.now(UTC) - retention))


def _chores_of_money(database: Database, payments: Payments | None) -> Iterator[Chore]:
    """What falls due in the books, and, where payments are taken, at Stripe."""
    yield _every(books.CREDIT_INTERVAL_SECONDS, lambda: books.end_promotional_credit(database))
    yield _every(books.NOTICES_INTERVAL_SECONDS, lambda: books.deliver_notices(database))
    yield _every(books.SNAPSHOTS_INTERVAL_SECONDS, lambda: books.snapshot_balances(database))
    if payments is not None:
        yield _every(books.AUTO_TOPUP_INTERVAL_SECONDS, payments.auto_topups.run_once)
        yield _every(books.STRIPE_INTERVAL_SECONDS, partial(books.compare_with_stripe, payments))


async def _open_database(settings: Settings, dsn: str) -> Database:
    """The database, as the role with the fewest rights, once it is known to keep what it acknowledges."""
    role = await asyncio.to_thread(application_role, dsn)
    database = await Database.connect(dsn, pool_size=settings.database_pool_size, role=role)
    if not settings.database_may_lose_data:
        try:
            async with database.pool.acquire() as connection:
                await require_durable(connection)
        except BaseException:
            await database.aclose()
            raise
    return database


async def _every(interval_seconds: float, chore: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Do `chore` again and again; a failure is logged and does not end it."""
    while True:
        try:
            await chore()
        except Exception as error:
            log.warning("chore_failed", error=repr(error))
        await asyncio.sleep(interval_seconds)


async def _finish(journal: Journal, journaling: asyncio.Task[None]) -> None:
    await journal.aclose()
    await journaling


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
