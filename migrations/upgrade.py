"""Bring a database to the newest schema; safe when several programs start at once."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from migrations.connecting import engine_for

APPLICATION_ROLE: Final = "gateway_app"
"""The role to work as (`server_settings={"role": APPLICATION_ROLE}`): it cannot write the tables of the books."""

_ADVISORY_LOCK: Final = 6_402_117_001
_ADVISORY_LOCK_TIMEOUT: Final = "60s"
_log = logging.getLogger(__name__)

T = TypeVar("T")


def upgrade(dsn: str, *, revision: str = "head") -> None:
    """Migrate the database at `dsn` up to `revision`, all or nothing.

    A second process waits (at most a minute) for the first and then finds nothing to do. Blocks; in an asyncio
    program call it with `asyncio.to_thread`. Logs a warning where the application role could not be set up.
    """
    _run(dsn, lambda connection: command.upgrade(_locked_config(connection), revision))
    if application_role(dsn) is None:
        _log.warning(
            "the role %s is missing or not granted to this login, so the program works as the owner of its tables "
            "and only the functions' own checks guard the books; create and grant the role to change this",
            APPLICATION_ROLE,
        )


def downgrade(dsn: str, *, revision: str) -> None:
    """Migrate down to `revision`. Raises RuntimeError where that would drop money."""
    _run(dsn, lambda connection: command.downgrade(_locked_config(connection), revision))


def current(dsn: str) -> str | None:
    """The revision that the database at `dsn` is at; None if it was never migrated. Blocks."""
    return _run(dsn, lambda connection: MigrationContext.configure(connection).get_current_revision())


def application_role(dsn: str) -> str | None:
    """APPLICATION_ROLE if the login of `dsn` may work as it, else None. Blocks."""
    try:
        _run(dsn, lambda connection: connection.execute(text(f"SET ROLE {APPLICATION_ROLE}")))
    except DBAPIError:
        return None
    return APPLICATION_ROLE


def _locked_config(connection: Connection) -> Config:
    """Alembic's configuration, once this transaction is the only one that migrates."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{_ADVISORY_LOCK_TIMEOUT}'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def _run(dsn: str, work: Callable[[Connection], T]) -> T:
    """`work` in one transaction on a connection of its own."""

    async def run() -> T:
        engine = engine_for(dsn)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())
