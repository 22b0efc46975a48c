"""The one connection that a migration runs on."""

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

CONNECT_TIMEOUT_SECONDS = 10.0


def engine_for(dsn: str) -> AsyncEngine:
    """An engine for any address that asyncpg understands, a `host=/socket/folder` query included."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_SECONDS)

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
