"""Run the SQL files that a migration is made of."""

from pathlib import Path

import asyncpg
from alembic import op

_FOLDER = Path(__file__).parent / "sql"


def run_script(name: str) -> None:
    """Run `migrations/sql/<name>.sql`, many statements, inside the migration's transaction."""
    script = (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")

    async def execute(connection: asyncpg.Connection) -> None:
        await connection.execute(script)

    # SQLAlchemy prepares what it sends and a prepared statement holds one command only, so go beneath it.
    pooled = op.get_bind().connection.dbapi_connection
    assert pooled is not None, "a migration runs on an open connection"
    pooled.run_async(execute)
