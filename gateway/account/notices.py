"""What a customer should hear: /v1/notices, and below which balance."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from billing.errors import AmountInvalid
from billing.money import parse_usd
from billing.notices import PAGE_MAX, Notice, list_notices, set_low_balance
from gateway.dependencies import CallerOf, ResourcesOf
from gateway.dialects.openai_shape import OpenAIRoute
from gateway.refusals import RequestInvalid
from gateway.tenants.api_keys import Scope

router = APIRouter(route_class=OpenAIRoute, tags=["account"])


class LowBalance(BaseModel):
    """`threshold_usd`: a notice once free money falls below this many dollars; "0" for never."""

    model_config = ConfigDict(extra="forbid")

    threshold_usd: str = Field(max_length=40)


@router.get("/v1/notices")
async def show_notices(
    caller: CallerOf,
    resources: ResourcesOf,
    cursor: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 20,
) -> dict[str, Any]:
    """Notices of the organization, newest first."""
    caller.require_scope(Scope.ACCOUNT_READ)
    async with resources.database.pool.acquire() as connection:
        found = await list_notices(connection, caller.organization_id, before=cursor, limit=limit)
    more = len(found) == limit
    return {
        "object": "list",
        "data": [_shown(notice) for notice in found],
        "has_more": more,
        "next_cursor": str(found[-1].id) if more else None,
    }


@router.put("/v1/notices/low-balance")
async def change_low_balance(caller: CallerOf, resources: ResourcesOf, body: LowBalance) -> dict[str, Any]:
    """Choose below which free money a notice is written: once, and again only after money came in."""
    caller.require_scope(Scope.ACCOUNT_WRITE)
    try:
        threshold_micros = parse_usd(body.threshold_usd)
    except AmountInvalid as error:
        raise RequestInvalid(f"threshold_usd: {error}.", param="threshold_usd") from error
    async with resources.database.pool.acquire() as connection:
        await set_low_balance(connection, caller.organization_id, threshold_micros)
    return {"object": "low_balance", "threshold_micros": threshold_micros}


def _shown(notice: Notice) -> dict[str, Any]:
    return {
        "id": str(notice.id),
        "kind": notice.kind,
        "created_at": notice.created_at.isoformat(),
        "details": dict(notice.details),
    }
