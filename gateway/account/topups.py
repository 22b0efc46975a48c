"""Buy credit: /v1/topups, and the page that a browser comes back to."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from billing import payments
from billing.errors import AmountInvalid, PaymentUnknown
from billing.money import MICROS_PER_CENT, format_usd, parse_usd
from billing.payments import PAGE_MAX, Payment
from billing.pricing import TOP_UP_CENTS_MAX, TOP_UP_CENTS_MIN, split_top_up
from billing.topups import REFERENCE_LENGTH_MAX
from gateway.dependencies import CallerOf, ResourcesOf, metered_caller_of
from gateway.dialects.openai_shape import OpenAIRoute
from gateway.identifiers import PAYMENT, new_id, parse_id, public_id
from gateway.refusals import RequestInvalid
from gateway.tenants.api_keys import Scope

router = APIRouter(route_class=OpenAIRoute, tags=["account"])

AMOUNTS = f"${TOP_UP_CENTS_MIN / 100:,.0f} to ${TOP_UP_CENTS_MAX / 100:,.0f} in whole cents"


class TopUpOrder(BaseModel):
    """`amount_usd`: the credit to buy, for example "10" or 12.5; the fee comes on top. `save_card` keeps the card for
    automatic top-ups.
    """

    model_config = ConfigDict(extra="forbid")

    amount_usd: Annotated[str, Field(max_length=40)] | int | float
    save_card: bool = False


@router.post("/v1/topups")
async def start_topup(
    request: Request,
    caller: CallerOf,
    resources: ResourcesOf,
    order: TopUpOrder,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=REFERENCE_LENGTH_MAX)] = None,
) -> dict[str, Any]:
    """The price of the credit and a page to pay it at. With an `Idempotency-Key`, repeating it starts nothing new."""
    caller.require_scope(Scope.ACCOUNT_WRITE)
    await metered_caller_of(request, resources, caller)
    payment = await resources.require_payments().topups.start(
        new_id(),
        caller.organization_id,
        credit_cents(order.amount_usd),
        save_card=order.save_card,
        client_reference=idempotency_key,
    )
    return shown(payment)


@router.get("/v1/topups")
async def list_topups(
    caller: CallerOf,
    resources: ResourcesOf,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 20,
) -> dict[str, Any]:
    """Top-ups of the organization, newest first, the automatic ones too."""
    caller.require_scope(Scope.ACCOUNT_READ)
    before = None if cursor is None else _payment_id(cursor)
    async with resources.database.pool.acquire() as connection:
        found = await payments.list_payments(connection, caller.organization_id, before=before, limit=limit)
    more = len(found) == limit
    return {
        "object": "list",
        "data": [shown(payment) for payment in found],
        "has_more": more,
        "next_cursor": public_id(PAYMENT, found[-1].id) if more else None,
    }


@router.get("/v1/topups/{topup_id}")
async def show_topup(topup_id: str, caller: CallerOf, resources: ResourcesOf) -> dict[str, Any]:
    """One top-up: how far it is, its receipt, what was refunded."""
    caller.require_scope(Scope.ACCOUNT_READ)
    async with resources.database.pool.acquire() as connection:
        return shown(await payments.get_payment(connection, _payment_id(topup_id), owner_id=caller.organization_id))


def credit_cents(amount_usd: str | float) -> int:
    """Whole cents that can be bought. Raises RequestInvalid."""
    try:
        cents, rest = divmod(parse_usd(str(amount_usd)), MICROS_PER_CENT)
        if rest:
            raise AmountInvalid("an amount is in whole cents")
        split_top_up(cents)
    except AmountInvalid as error:
        raise RequestInvalid(f"'amount_usd' is {AMOUNTS}.", param="amount_usd") from error
    return cents


def shown(payment: Payment) -> dict[str, Any]:
    """A payment as customers see it."""
    failure = {"code": payment.failure_code, "message": payment.failure_message} if payment.failure_code else None
    return {
        "id": public_id(PAYMENT, payment.id),
        "object": "topup",
        "kind": payment.kind.value,
        "status": payment.status.value,
        **_amount("credit", payment.credit_micros),
        **_amount("fee", payment.fee_micros),
        **_amount("total", payment.total_micros),
        **_amount("refunded", payment.refunded_micros),
        **_amount("disputed", payment.disputed_micros),
        "checkout_url": payment.checkout_url if payment.status.value == "open" else None,
        "receipt_url": payment.receipt_url,
        "save_card": payment.save_card,
        "failure": failure,
        "created_at": payment.created_at.isoformat(),
        "expires_at": payment.expires_at.isoformat(),
        "paid_at": None if payment.paid_at is None else payment.paid_at.isoformat(),
    }


def _payment_id(text: str) -> UUID:
    found = parse_id(PAYMENT, text)
    if found is None:
        raise PaymentUnknown(f"no payment {text[:50]!r}")
    return found


def _amount(name: str, micros: int) -> dict[str, Any]:
    return {f"{name}_micros": micros, f"{name}_usd": format_usd(micros)}
