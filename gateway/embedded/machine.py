"""The newcomer's machine: every part that no setting names, started here and ended with the gateway."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from pydantic import SecretStr

from gateway.embedded.data_folder import DataFolder
from gateway.embedded.kept_secrets import kept_secrets
from gateway.embedded.pool import EmbeddedPool, PoolOptions
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.settings import Settings
from migrations.upgrade import upgrade

A = TypeVar("A")
B = TypeVar("B")


@asynccontextmanager
async def complete(settings: Settings) -> AsyncIterator[Settings]:
    """Settings in which nothing is missing: a migrated database, pools that are ready, secrets.

    What `settings` names is used as it is; the rest is started, side by side, and stopped on leaving. The data folder
    belongs to this process meanwhile.

    Raises:
        AlreadyRunningError: another gateway serves from the data folder; nothing was touched.
        EmbeddedError: a part cannot be used or did not start; whatever had started is stopped again.
    """
    folder = DataFolder(settings.data_dir).prepare()
    async with AsyncExitStack() as stack:
        lock = folder.lock(settings.base_url)
        stack.callback(lock.release)
        kept = _secrets(settings, folder)
        postgres = EmbeddedPostgres(folder.path)
        pool = EmbeddedPool(
            folder.path,
            PoolOptions(
                device=settings.pool_device,
                checkpoint=settings.pool_checkpoint,
                checkpoint_3_1=settings.pool_checkpoint_3_1,
            ),
        )
        stack.push_async_callback(postgres.stop)
        stack.push_async_callback(pool.stop)
        dsn, pool_urls = await _both(_database(settings, postgres), _pools(settings, pool))
        found = {"data_dir": folder.path, "database_url": dsn, "pool_urls": pool_urls}
        yield settings.model_copy(update=found | kept)


async def _database(settings: Settings, postgres: EmbeddedPostgres) -> SecretStr:
    dsn = settings.database_url or SecretStr(await postgres.start())
    await asyncio.to_thread(upgrade, dsn.get_secret_value())
    return dsn


async def _pools(settings: Settings, pool: EmbeddedPool) -> list[str]:
    return settings.pool_urls or await pool.start()


async def _both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Both results; as soon as one fails the other is cancelled, awaited, and the failure raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


def _secrets(settings: Settings, folder: DataFolder) -> dict[str, SecretStr]:
    if settings.key_pepper is not None and settings.media_signing_key is not None:
        return {}
    kept = kept_secrets(folder.secrets_file)
    return {name: getattr(settings, name) or SecretStr(value) for name, value in kept.items()}
