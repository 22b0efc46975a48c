"""Top up automatically: /v1/auto-topup."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from billing import auto_topup_settings, payments
from billing.auto_topup_settings import AutoTopUp, AutoTopUpState
from billing.errors import AmountInvalid
from billing.money import format_usd, parse_usd
from billing.payments import StripeCustomer
from gateway.dependencies import CallerOf, ResourcesOf
from gateway.dialects.openai_shape import OpenAIRoute
from gateway.refusals import RequestInvalid
from gateway.tenants.api_keys import Scope

router = APIRouter(route_class=OpenAIRoute, tags=["account"])

Usd = Annotated[str, Field(max_length=40)] | int | float

PAUSED = {
    "declined": "The card was declined three times in a row. Top up with another card, then set this again.",
    "authentication_required": "The bank wants you to confirm. Top up by hand once, then set this again.",
    "card_missing": "There is no saved card any more. Top up with save_card, then set this again.",
    "fraud_warning": "The card's bank has warned of fraud. Top up with another card, then set this again.",
}


class AutoTopUpOrder(BaseModel):
    """Below `threshold_usd` of free credit buy `amount_usd` of credit, or as much as reaches `target_usd`; charge at
    most `monthly_ceiling_usd` in a calendar month (UTC), fees included.
    """

    model_config = ConfigDict(extra="forbid")

    enabled: bool
    threshold_usd: Usd
    amount_usd: Usd | None = None
    target_usd: Usd | None = None
    monthly_ceiling_usd: Usd


@router.get("/v1/auto-topup")
async def show_auto_topup(caller: CallerOf, resources: ResourcesOf) -> dict[str, Any]:
    """The settings, whether it is paused and why, and what was charged this month."""
    caller.require_scope(Scope.ACCOUNT_READ)
    return await _shown(caller, resources)


@router.put("/v1/auto-topup")
async def set_auto_topup(caller: CallerOf, resources: ResourcesOf, order: AutoTopUpOrder) -> dict[str, Any]:
    """Set it up anew; a pause ends. Needs a card that was saved at a top-up (`save_card`)."""
    caller.require_scope(Scope.ACCOUNT_WRITE)
    resources.require_payments()
    try:
        settings = AutoTopUp(
            enabled=order.enabled,
            threshold_micros=_micros("threshold_usd", order.threshold_usd),
            amount_micros=None if order.amount_usd is None else _micros("amount_usd", order.amount_usd),
            target_micros=None if order.target_usd is None else _micros("target_usd", order.target_usd),
            monthly_ceiling_micros=_micros("monthly_ceiling_usd", order.monthly_ceiling_usd),
        )
        async with resources.database.pool.acquire() as connection:
            await auto_topup_settings.save_settings(connection, caller.organization_id, settings)
    except AmountInvalid as error:
        raise RequestInvalid(
            "Give either 'amount_usd' ($5 to $5,000 in whole cents, at least the threshold) or 'target_usd' (at least "
            f"$5 above the threshold, at most $5,000), and a positive monthly ceiling: {error}."
        ) from error
    return await _shown(caller, resources)


async def _shown(caller: CallerOf, resources: ResourcesOf) -> dict[str, Any]:
    async with resources.database.pool.acquire() as connection:
        state = await auto_topup_settings.read_state(connection, caller.organization_id)
        customer = await payments.stripe_customer(connection, caller.organization_id)
    return {"object": "auto_topup", "card": _card(customer), **_state(state)}


def _card(customer: StripeCustomer | None) -> dict[str, str | None] | None:
    if customer is None or customer.payment_method_id is None:
        return None
    return {"brand": customer.card_brand, "last4": customer.card_last4}


def _state(state: AutoTopUpState | None) -> dict[str, Any]:
    if state is None:
        return {"enabled": False}
    settings = state.settings
    reason = state.paused_reason
    return {
        "enabled": settings.enabled,
        **_amount("threshold", settings.threshold_micros),
        **_amount("amount", settings.amount_micros),
        **_amount("target", settings.target_micros),
        **_amount("monthly_ceiling", settings.monthly_ceiling_micros),
        **_amount("charged_this_month", state.charged_this_month_micros),
        "paused": None if reason is None else {"reason": reason, "message": PAUSED[reason]},
        "declines": state.declines,
        "next_attempt_at": None if state.next_attempt_at is None else state.next_attempt_at.isoformat(),
    }


def _micros(name: str, amount_usd: str | float) -> int:
    try:
        return parse_usd(str(amount_usd))
    except AmountInvalid as error:
        raise RequestInvalid(f"'{name}' is an amount of dollars such as \"20\" or 12.5.", param=name) from error


def _amount(name: str, micros: int | None) -> dict[str, Any]:
    return {f"{name}_micros": micros, f"{name}_usd": None if micros is None else format_usd(micros)}
