"""The Stripe account that commands work with: the configured one, or the stand-in of a running demo."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from gateway.cli.errors import CliError
from gateway.embedded.stand_in_payments import with_running_stand_in
from gateway.payments import Payments, open_payments
from gateway.settings import Settings


@asynccontextmanager
async def opened_payments(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[Payments]:
    """Payments for one command. Raises CliError where there is no Stripe account."""
    payments = open_payments(with_running_stand_in(settings), pool)
    if payments is None:
        raise CliError("No Stripe account is configured: set GATEWAY_STRIPE_SECRET_KEY.")
    try:
        yield payments
    finally:
        await payments.aclose()


def is_configured(settings: Settings) -> bool:
    """Whether there is a Stripe account to work with."""
    return with_running_stand_in(settings).stripe_secret_key is not None
