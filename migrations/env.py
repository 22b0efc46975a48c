"""What alembic runs: on migrations.upgrade's connection, or on `alembic -x dsn=postgresql://…` by hand."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection, MetaData, text

import billing.tables
import gateway.database
import gateway.deployments
import gateway.predictions.tables
import gateway.tenants.tables
from migrations.connecting import engine_for

SCHEMAS = frozenset({"billing", "gateway"})
METADATA: list[MetaData] = [billing.tables.metadata, gateway.database.Base.metadata]
"""Every room's tables, for `alembic check` and autogenerate."""

MIGRATION_LOCK_TIMEOUT = "5s"
"""A migration that cannot have its lock gives up instead of queueing all traffic behind itself."""


def _include_name(name: str | None, kind: str, _parents: Any) -> bool:
    return kind != "schema" or name in SCHEMAS


def _migrate(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_TIMEOUT}'"))
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        include_schemas=True,
        include_name=_include_name,
        compare_type=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _migrate_at(dsn: str) -> None:
    engine = engine_for(dsn)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


_given = context.config.attributes.get("connection")
if _given is not None:
    _migrate(_given)
else:
    asyncio.run(_migrate_at(context.get_x_argument(as_dictionary=True)["dsn"]))
