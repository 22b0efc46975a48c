"""The gateway's connection to PostgreSQL: sessions for records, plain asyncpg for the paid path."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import MetaData
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

SCHEMA = "gateway"
CONNECT_TIMEOUT_SECONDS = 5.0
COMMAND_TIMEOUT_SECONDS = 20.0


class Base(DeclarativeBase):
    """Parent of every table of this room; they live in the schema `gateway`."""

    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        },
    )


def sqlalchemy_url(dsn: str) -> URL:
    """The asyncpg form of a postgresql:// address (a `host=/socket/folder` query is kept)."""
    return make_url(dsn).set(drivername="postgresql+asyncpg")


async def driver_connection(session: AsyncSession) -> asyncpg.Connection:
    """The asyncpg connection beneath a session, inside its transaction: for billing's functions."""
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, asyncpg.Connection), "the engine speaks through asyncpg"
    return driver


async def _keep(_connection: asyncpg.Connection) -> None:
    """Nothing here changes a connection's state, so giving it back needs no question to the server."""


class Database:
    """Both ways to the same database; opened by `connect`, closed by `aclose`."""

    def __init__(self, engine: AsyncEngine, pool: asyncpg.Pool) -> None:
        self.engine = engine
        self.pool = pool
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    @classmethod
    async def connect(cls, dsn: str, *, pool_size: int, role: str | None = None) -> "Database":
        """Open pools of up to `pool_size` connections each for records and for the paid path.

        They work as `role`, which may not write the tables of the books; None works as the login itself.
        """
        server_settings = {"application_name": "gateway"} | ({} if role is None else {"role": role})
        engine = create_async_engine(
            sqlalchemy_url(dsn),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=2.0,
            pool_pre_ping=True,
            connect_args={
                "timeout": CONNECT_TIMEOUT_SECONDS,
                "command_timeout": COMMAND_TIMEOUT_SECONDS,
                "server_settings": server_settings,
            },
        )
        pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=pool_size,
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=COMMAND_TIMEOUT_SECONDS,
            server_settings=server_settings,
            reset=_keep,
        )
        return cls(engine, pool)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session whose changes are thrown away."""
        async with self._sessions() as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A session that commits on leaving, before anything is answered, and rolls back on any exception."""
        async with self._sessions.begin() as session:
            yield session

    async def aclose(self) -> None:
        """Close every connection."""
        await self.pool.close()
        await self.engine.dispose()
