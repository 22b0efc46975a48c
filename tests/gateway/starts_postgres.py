"""A program that starts the embedded PostgreSQL, says its pid and waits to be killed."""

import asyncio
import sys
from pathlib import Path

from gateway.embedded.postgres import EmbeddedPostgres


async def main() -> None:
    """Start on the folder named in the first argument."""
    postgres = EmbeddedPostgres(Path(sys.argv[1]))
    await postgres.start()
    print(postgres.pid, flush=True)
    await asyncio.sleep(600)


asyncio.run(main())
