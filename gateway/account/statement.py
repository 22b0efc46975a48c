"""Where the money is and where it went: /v1/credits and /v1/statement."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from billing import auto_topup_settings, promotions, wallets
from billing.connection import Connection
from billing.money import format_usd
from billing.statements import PAGE_MAX, Filter, StatementLine, StatementPage, pages, statement
from gateway.account.csv_lines import Number, csv_lines
from gateway.dependencies import CallerOf, ResourcesOf
from gateway.dialects.openai_shape import OpenAIRoute
from gateway.identifiers import KEY, PAYMENT, PREDICTION, public_id
from gateway.tenants.api_keys import Scope

router = APIRouter(route_class=OpenAIRoute, tags=["account"])

COLUMNS = (
    "time", "kind", "amount_usd", "balance_usd", "prediction_id", "key_id", "payment_id", "stripe_id", "reason",
    "reference",
)  # fmt: skip

Kind = Annotated[str, Query(pattern="^[a-z_]{1,40}$")]


@router.get("/v1/credits")
async def show_credits(caller: CallerOf, resources: ResourcesOf) -> dict[str, Any]:
    """Balance, what running calls hold of it, what is free, what of it is promotional, and the automatic top-up."""
    caller.require_scope(Scope.ACCOUNT_READ)
    owner_id = caller.organization_id
    async with (
        resources.database.pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):  # one moment, so that the amounts fit each other
        wallet = await wallets.balance(connection, owner_id)
        lots = await promotions.open_lots(connection, owner_id)
        top_up = await _automatic_top_up(connection, owner_id)
    promotional_micros = min(sum(lot.remaining_micros for lot in lots), wallet.balance_micros)
    return {
        "object": "credits",
        **_amount("balance", wallet.balance_micros),
        **_amount("held", wallet.held_micros),
        **_amount("available", wallet.available_micros),
        **_amount("owed", wallet.owed_micros),
        "frozen": wallet.frozen,
        **_amount("low_balance", wallet.low_balance_micros),
        "promotional": {
            **_amount("remaining", promotional_micros),
            "grants": [
                {
                    **_amount("granted", lot.amount_micros),
                    **_amount("remaining", lot.remaining_micros),
                    "expires_at": _time(lot.expires_at),
                }
                for lot in lots
            ],
        },
        "auto_top_up": top_up,
    }


@router.get("/v1/statement", response_model=None)
async def show_statement(
    *,
    caller: CallerOf,
    resources: ResourcesOf,
    kind: Annotated[list[Kind] | None, Query(max_length=20)] = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    format: Annotated[str, Query(pattern="^(json|csv)$")] = "json",  # noqa: A002 - the parameter's name
) -> Response | dict[str, Any]:
    """The wallet's entries, newest first, each with the balance after it. `format=csv` streams all that match."""
    caller.require_scope(Scope.ACCOUNT_READ)
    only = Filter(since=_aware(since), until=_aware(until), kinds=kind)
    size = PAGE_MAX if format == "csv" else limit
    async with resources.database.pool.acquire() as connection:
        page = await statement(connection, caller.organization_id, before=cursor, only=only, limit=size)
    if format == "csv":
        following = pages(resources.database.pool, caller.organization_id, only=only, first=page)
        headers = {"content-disposition": 'attachment; filename="statement.csv"', "cache-control": "no-store"}
        return StreamingResponse(_as_csv(following), media_type="text/csv; charset=utf-8", headers=headers)
    return {
        "object": "list",
        "data": [_shown(line) for line in page.lines],
        "has_more": page.next_before is not None,
        "next_cursor": None if page.next_before is None else str(page.next_before),
    }


async def _as_csv(found: AsyncIterator[StatementPage]) -> AsyncIterator[str]:
    yield csv_lines([COLUMNS])
    async for page in found:
        shown = (_shown(line) for line in page.lines)
        yield csv_lines(
            [
                [Number(line[column]) if column.endswith("_usd") else line[column] for column in COLUMNS]
                for line in shown
            ]
        )


def _shown(line: StatementLine) -> dict[str, Any]:
    return {
        "time": _time(line.created_at),
        "kind": line.kind,
        **_amount("amount", line.amount_micros),
        **_amount("balance", line.balance_micros),
        "prediction_id": _id(PREDICTION, line.hold_id),
        "hold_id": _id("hold", line.hold_id),
        "key_id": _id(KEY, line.key_id),
        "payment_id": _id(PAYMENT, line.payment_id),
        "stripe_id": line.stripe_id,
        "reason": line.reason,
        "reference": str(line.reference),
    }


async def _automatic_top_up(connection: Connection, owner_id: UUID) -> dict[str, Any] | None:
    state = await auto_topup_settings.read_state(connection, owner_id)
    if state is None:
        return None
    return {
        "enabled": state.settings.enabled,
        **_amount("threshold", state.settings.threshold_micros),
        "paused_reason": state.paused_reason,
        **_amount("charged_this_month", state.charged_this_month_micros),
        **_amount("monthly_ceiling", state.settings.monthly_ceiling_micros),
    }


def _amount(name: str, micros: int) -> dict[str, Any]:
    return {f"{name}_micros": micros, f"{name}_usd": format_usd(micros)}


def _id(prefix: str, value: UUID | None) -> str | None:
    return None if value is None else public_id(prefix, value)


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _aware(value: datetime | None) -> datetime | None:
    """Times without a zone are UTC."""
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value
