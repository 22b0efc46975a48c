"""Ask again and again how a job stands, until it ends or the deadline comes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from inference.errors import JobFailed, ProviderFailed, ProviderSaturated, ProviderTimedOut

FIRST_WAIT_SECONDS = 0.1
WAIT_SECONDS_MAX = 1.0
WAIT_GROWTH = 1.5
TROUBLES_IN_A_ROW_MAX = 5

T = TypeVar("T")


async def poll(provider: str, ask: Callable[[], Awaitable[T | None]], *, deadline: float) -> T:
    """What `ask` returns once it is not None; the job is never sent again, only asked about.

    Waits 0.1 s at first and up to 1 s later. Five troubles in a row (no connection, busy, broken) end it, because the
    job may or may not be done: ProviderFailed. Raises ProviderTimedOut at `deadline` (event loop's clock).
    """
    clock = asyncio.get_running_loop().time
    wait, troubles = FIRST_WAIT_SECONDS, 0
    while True:
        left = deadline - clock()
        if left <= 0:
            raise ProviderTimedOut(f"{provider} was not done in time.")
        await asyncio.sleep(min(wait, left))
        wait = min(wait * WAIT_GROWTH, WAIT_SECONDS_MAX)
        try:
            found = await ask()
        except (JobFailed, ProviderTimedOut):
            raise
        except (ProviderFailed, ProviderSaturated) as trouble:
            troubles += 1
            if troubles >= TROUBLES_IN_A_ROW_MAX:
                raise ProviderFailed(f"{provider} took the work and then stopped answering.") from trouble
            continue
        if found is not None:
            return found
        troubles = 0
