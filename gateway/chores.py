"""What the books need done now and then; every gateway may do it, and doing it twice does nothing twice."""

import structlog

from billing.ledger import take_snapshots
from billing.notices import take_notices
from billing.promotions import attribute_stale, expire_credit
from gateway.database import Database
from gateway.payments import Payments

log = structlog.get_logger(__name__)

CREDIT_INTERVAL_SECONDS = 30.0
NOTICES_INTERVAL_SECONDS = 2.0
SNAPSHOTS_INTERVAL_SECONDS = 600.0
AUTO_TOPUP_INTERVAL_SECONDS = 2.0
STRIPE_INTERVAL_SECONDS = 86_400.0


async def end_promotional_credit(database: Database) -> None:
    """Take back promotional credit that is due, and keep the way to the rest of it short."""
    async with database.pool.acquire() as connection:
        async with connection.transaction():
            expired = await expire_credit(connection)
        for each in expired:
            log.info("credit_expired", organization_id=str(each.owner_id), amount_micros=each.amount_micros)
        async with connection.transaction():
            await attribute_stale(connection)


async def deliver_notices(database: Database) -> None:
    """Hand new notices to the log, where operators' mail and chat programs pick them up; each at least once."""
    async with database.pool.acquire() as connection, connection.transaction():
        for notice in await take_notices(connection):
            log.warning("notice", notice=notice.kind, organization_id=str(notice.owner_id), **notice.details)


async def snapshot_balances(database: Database) -> None:
    """New places to audit from, for wallets with many entries since their last."""
    async with database.pool.acquire() as connection, connection.transaction():
        await take_snapshots(connection)


async def compare_with_stripe(payments: Payments) -> None:
    """Recover what no webhook told, and name what does not fit."""
    run = await payments.reconciliation.run()
    for each in run.differences:
        log.error("stripe_difference", check=each.check, subject=each.subject, expected=each.expected, found=each.found)
    log.info("stripe_compared", recorded=run.recorded, differences=len(run.differences))
