"""Calls on customers' own keys have no hold that would expire; a dead machine must not leave them open for ever."""

import asyncio
from datetime import timedelta

from gateway.database import Database
from gateway.identifiers import new_id
from gateway.predictions.journal import Admission, Settlement
from gateway.predictions.tables import Payer, PredictionStatus
from tests.gateway.paid_path import PRICE_MICROS, Account, journal_of


async def test_a_call_that_nobody_ends_is_failed_in_time_and_a_late_end_still_counts(database: Database) -> None:
    account = await Account.open(database)
    async with journal_of(database) as journal:
        admissions = [
            Admission(
                prediction_id=new_id(),
                organization_id=account.caller.organization_id,
                key_id=account.caller.key_id,
                request_id="req_test",
                dialect="openai",
                model="meta/sam-3-image",
                units=1,
                price_micros=price_micros,
                payer=payer,
                place=None,
            )
            for payer, price_micros in ((Payer.CUSTOMER, 0), (Payer.WALLET, PRICE_MICROS))
        ]
        await asyncio.gather(*(journal.admit(admission) for admission in admissions))
        own, paid = (admission.prediction_id for admission in admissions)
        assert await journal.abandon(older_than=timedelta(hours=1), limit=10) == []
        assert await journal.abandon(older_than=timedelta(0), limit=10) == [own]
        found = await account.prediction(own)
        assert (found["status"], found["code"]) == ("failed", "abandoned")
        assert (await account.prediction(paid))["status"] == "processing"
        await journal.settle(Settlement(prediction_id=own, status=PredictionStatus.COMPLETED, money=None))
        found = await account.prediction(own)
        assert (found["status"], found["charged_micros"]) == ("completed", 0)
