"""Is the process alive, and can it serve?"""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from gateway.dependencies import ResourcesOf

router = APIRouter(tags=["health"])

DATABASE_TIMEOUT_SECONDS = 2.0


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Answers as long as the process runs."""
    return {"status": "alive"}


@router.get("/readyz")
async def ready(resources: ResourcesOf) -> Response:
    """200 if the database answers and the process takes calls, else 503; the pool's state is told beside it."""
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_SECONDS):
            await resources.database.pool.fetchval("SELECT 1")
        database = "ready"
    except Exception as error:
        database = type(error).__name__
    serving = database == "ready" and not resources.calls.draining
    body = {
        "status": "ready" if serving else "not ready",
        "database": database,
        "draining": resources.calls.draining,
        "calls_in_flight": resources.calls.in_flight,
        "deployments": resources.router.health(),
        "pools": await resources.pool.health(),
    }
    return JSONResponse(body, status_code=200 if serving else 503)
