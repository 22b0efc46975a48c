"""Everything of billing that speaks to Stripe, opened with the gateway's settings."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from billing.auto_topup import AutoTopUps
from billing.refunds import Refunds
from billing.stripe_client import StripeClient
from billing.stripe_reconciliation import StripeReconciliation
from billing.topups import ReturnPages, TopUps
from gateway.identifiers import PAYMENT, new_id, public_id
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Payments:
    """What can be done about payments by card."""

    client: StripeClient
    topups: TopUps
    refunds: Refunds
    auto_topups: AutoTopUps
    reconciliation: StripeReconciliation

    async def aclose(self) -> None:
        """Close the connections to Stripe."""
        await self.client.aclose()


def open_payments(settings: Settings, pool: asyncpg.Pool) -> Payments | None:
    """Payments with the Stripe account that `settings` name; None where they name none."""
    if settings.stripe_secret_key is None:
        return None
    client = StripeClient(settings.stripe_secret_key.get_secret_value(), api_url=settings.stripe_api_url)
    refunds = Refunds(pool, client)
    return Payments(
        client=client,
        topups=TopUps(pool, client, _return_pages(settings)),
        refunds=refunds,
        auto_topups=AutoTopUps(pool, client, new_id),
        reconciliation=StripeReconciliation(pool, client, refunds),
    )


def _return_pages(settings: Settings) -> ReturnPages:
    """Where browsers come back to: a page that only reads."""

    def page(payment_id: UUID) -> str:
        return f"{settings.base_url}/topups/{public_id(PAYMENT, payment_id)}"

    return ReturnPages(success=page, cancel=lambda payment_id: f"{page(payment_id)}?canceled=1")
