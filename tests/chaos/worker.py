"""A program that charges as a worker does, until it is killed: `python -m tests.chaos.worker DSN ORGANIZATION KEY`.

Every answer it gets from the ledger is a line on standard output, written before anything else happens: what is there
was acknowledged. It also frees expired holds and ends credit, as every gateway and worker does.
"""

import asyncio
import contextlib
import os
import random
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from billing.errors import BillingError
from billing.group_commit import TRANSIENT_ERRORS
from billing.holds import Capture, Place, Release
from billing.promotions import expire_credit
from gateway.identifiers import new_id
from gateway.predictions.journal import Admission, Journal, Settlement
from gateway.predictions.tables import Payer, PredictionStatus
from migrations.upgrade import APPLICATION_ROLE

CLIENTS = 8
PRICE_MICROS = 5_000
HOLD_SECONDS = 3.0
SWEEP_SECONDS = 0.5


def say(what: str, prediction_id: UUID) -> None:
    """One line in one write, so that a kill cannot cut it."""
    os.write(1, f"{what} {prediction_id}\n".encode())


class Worker:
    """Some clients that charge one hot wallet."""

    def __init__(self, journal: Journal, organization_id: UUID, key_id: UUID) -> None:
        self._journal = journal
        self._organization_id = organization_id
        self._key_id = key_id

    async def charge(self) -> None:
        """Admit, work for a moment, settle: mostly by capture, now and then by release."""
        prediction_id = new_id()
        await self._journal.admit(
            Admission(
                prediction_id=prediction_id,
                organization_id=self._organization_id,
                key_id=self._key_id,
                request_id=f"req_{prediction_id.hex}",
                dialect="chaos",
                model="meta/sam-3-image",
                units=1,
                price_micros=PRICE_MICROS,
                payer=Payer.WALLET,
                place=Place(
                    hold_id=prediction_id,
                    owner_id=self._organization_id,
                    amount_micros=PRICE_MICROS,
                    expires_at=datetime.now(UTC) + timedelta(seconds=HOLD_SECONDS),
                    key_id=self._key_id,
                ),
            )
        )
        say("placed", prediction_id)
        await asyncio.sleep(random.uniform(0, 0.05))
        fails = random.random() < 0.1
        outcome = await self._journal.settle(
            Settlement(
                prediction_id=prediction_id,
                status=PredictionStatus.FAILED if fails else PredictionStatus.COMPLETED,
                money=Release(hold_id=prediction_id, owner_id=self._organization_id, reason="chaos")
                if fails
                else Capture(hold_id=prediction_id, owner_id=self._organization_id, amount_micros=PRICE_MICROS),
            )
        )
        assert outcome is not None
        say("released" if fails else outcome.kind.replace("replayed", "captured"), prediction_id)

    async def run(self) -> None:
        """Charge until the process ends; what the ledger refuses is given up, as a call would be."""
        while True:
            with contextlib.suppress(BillingError):
                await self.charge()


async def sweep(pool: asyncpg.Pool, journal: Journal) -> None:
    """Free expired holds and end credit, again and again."""
    while True:
        with contextlib.suppress(*TRANSIENT_ERRORS):
            await journal.expire(limit=500)
            async with pool.acquire() as connection, connection.transaction():
                await expire_credit(connection)
        await asyncio.sleep(SWEEP_SECONDS)


async def main() -> None:
    """Run for ever."""
    dsn, organization_id, key_id = sys.argv[1], UUID(sys.argv[2]), UUID(sys.argv[3])
    settings = {"role": APPLICATION_ROLE}
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4, server_settings=settings, command_timeout=10) as pool:
        journal = Journal(pool)
        worker = Worker(journal, organization_id, key_id)
        await asyncio.gather(journal.run(), sweep(pool, journal), *(worker.run() for _ in range(CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main())
