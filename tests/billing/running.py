"""Run a batcher for the length of a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from billing.group_commit import GroupCommit

Item = TypeVar("Item")
Result = TypeVar("Result")


@asynccontextmanager
async def running(commit: GroupCommit[Item, Result]) -> AsyncIterator[None]:
    """Run the batcher for a while, then drain it."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(commit.run())
        await asyncio.sleep(0)  # let it begin
        try:
            yield
        finally:
            await commit.aclose()
