"""The journal on a real database: calls and their money are written together, many at a time, each with its own end."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from billing.errors import HoldConflict, HoldResolvedDifferently, HoldUnknown, InsufficientCredits, LedgerUnavailable
from billing.holds import Capture, Outcome, OutcomeKind, Place, Release
from gateway.database import Database
from gateway.identifiers import new_id
from gateway.predictions.journal import Admission, Journal, Settlement
from gateway.predictions.tables import Payer, PredictionStatus
from tests.gateway.paid_path import PRICE_MICROS, Account, eventually, journal_of


def admission(account: Account, *, ttl_seconds: float = 600.0, wallet: bool = True, **fields: Any) -> Admission:
    """A call about to start; without `wallet` the customer pays the provider."""
    prediction_id = fields.pop("prediction_id", None) or new_id()
    caller = account.caller
    place = Place(
        hold_id=prediction_id,
        owner_id=caller.organization_id,
        amount_micros=PRICE_MICROS,
        expires_at=datetime.now(UTC) + timedelta(seconds=ttl_seconds),
        key_id=caller.lineage_id,
    )
    defaults: dict[str, Any] = {
        "prediction_id": prediction_id,
        "organization_id": caller.organization_id,
        "key_id": caller.key_id,
        "request_id": f"req_{uuid4().hex}",
        "dialect": "openai",
        "model": "meta/sam-3-image",
        "units": 1,
        "price_micros": PRICE_MICROS if wallet else 0,
        "payer": Payer.WALLET if wallet else Payer.CUSTOMER,
        "place": place if wallet else None,
    }
    return Admission(**(defaults | fields))


def completed(account: Account, prediction_id: UUID) -> Settlement:
    """Its end in a charge."""
    return Settlement(
        prediction_id=prediction_id,
        status=PredictionStatus.COMPLETED,
        money=Capture(hold_id=prediction_id, owner_id=account.caller.organization_id, amount_micros=PRICE_MICROS),
        deployment="worker",
        output={"masks": []},
    )


def failed(account: Account, prediction_id: UUID) -> Settlement:
    """Its end without one."""
    return Settlement(
        prediction_id=prediction_id,
        status=PredictionStatus.FAILED,
        money=Release(hold_id=prediction_id, owner_id=account.caller.organization_id, reason="provider_failed"),
        error={"type": "server_error", "code": "provider_failed", "message": "The model fell over."},
    )


@pytest.fixture
async def account(database: Database) -> Account:
    return await Account.open(database)


async def outcomes_of_one_batch(database: Database, *records: Admission | Settlement) -> list[Any]:
    """What each submitter gets when all of them wait before the first commit."""
    journal = Journal(database.pool)
    waiting = [
        asyncio.create_task(journal.admit(record) if isinstance(record, Admission) else journal.settle(record))
        for record in records
    ]
    await asyncio.sleep(0)
    committing = asyncio.create_task(journal.run())
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    await journal.aclose()
    await committing
    return answers


def kinds(outcomes: list[Any]) -> list[Any]:
    """Each answer's kind, or the class of its refusal."""
    return [outcome.kind if isinstance(outcome, Outcome) else type(outcome) for outcome in outcomes]


async def test_admissions_and_settlements_share_a_transaction_and_nothing_else(database: Database) -> None:
    rich, poor = await Account.open(database), await Account.open(database, micros=PRICE_MICROS - 1)
    done, broken = admission(rich), admission(rich)
    await outcomes_of_one_batch(database, done, broken)
    fresh, refused = admission(rich), admission(poor)
    outcomes = await outcomes_of_one_batch(
        database, completed(rich, done.prediction_id), refused, fresh, failed(rich, broken.prediction_id)
    )
    assert kinds(outcomes) == [
        OutcomeKind.CAPTURED,
        InsufficientCredits,
        OutcomeKind.PLACED,
        OutcomeKind.RELEASED,
    ]
    rows = await database.pool.fetch("SELECT id, status, charged_micros, xmin::text FROM gateway.predictions")
    assert {row["id"]: (row["status"], row["charged_micros"]) for row in rows} == {
        done.prediction_id: ("completed", PRICE_MICROS),
        broken.prediction_id: ("failed", 0),
        fresh.prediction_id: ("processing", 0),
    }
    assert len({row["xmin"] for row in rows}) == 1  # one transaction wrote all three
    balance = await rich.balance()
    assert (balance.balance_micros, balance.held_micros) == (1_000_000 - PRICE_MICROS, PRICE_MICROS)
    assert (await poor.balance()).held_micros == 0


async def test_money_that_one_call_frees_admits_another_of_the_same_batch(database: Database) -> None:
    account = await Account.open(database, micros=PRICE_MICROS)
    first, second = admission(account), admission(account)
    assert kinds(await outcomes_of_one_batch(database, first, second)) == [OutcomeKind.PLACED, InsufficientCredits]
    outcomes = await outcomes_of_one_batch(database, second, failed(account, first.prediction_id))
    assert kinds(outcomes) == [OutcomeKind.PLACED, OutcomeKind.RELEASED]


async def test_many_calls_at_once_end_each_in_their_own_way(database: Database, account: Account) -> None:
    async with journal_of(database) as journal:

        async def call(number: int) -> None:
            record = admission(account)
            await journal.admit(record)
            end = completed if number % 3 else failed
            await journal.settle(end(account, record.prediction_id))

        await asyncio.gather(*(call(number) for number in range(120)))
    rows = await database.pool.fetch("SELECT status, count(*), sum(charged_micros) FROM gateway.predictions GROUP BY 1")
    assert {row["status"]: (row["count"], row["sum"]) for row in rows} == {
        "completed": (80, 80 * PRICE_MICROS),
        "failed": (40, 0),
    }
    balance = await account.balance()
    assert (balance.balance_micros, balance.held_micros) == (1_000_000 - 80 * PRICE_MICROS, 0)
    assert await account.charges() == 80


async def test_sending_the_same_again_changes_nothing(database: Database, account: Account) -> None:
    record = admission(account)
    async with journal_of(database) as journal:
        again = [await journal.admit(record) for _ in range(2)]
        end = completed(account, record.prediction_id)
        again += [await journal.settle(end) for _ in range(2)]
        again += await asyncio.gather(journal.settle(end), journal.settle(end))
    assert kinds(again) == [
        OutcomeKind.PLACED,
        OutcomeKind.REPLAYED,
        OutcomeKind.CAPTURED,
        OutcomeKind.REPLAYED,
        OutcomeKind.REPLAYED,
        OutcomeKind.REPLAYED,
    ]
    prediction = await account.prediction(record.prediction_id)
    assert (prediction["status"], prediction["charged_micros"]) == ("completed", PRICE_MICROS)
    assert (await account.balance()).balance_micros == 1_000_000 - PRICE_MICROS
    assert await account.charges() == 1


@pytest.mark.parametrize("first_is_charge", [True, False])
async def test_the_first_end_of_a_call_stands(database: Database, account: Account, first_is_charge: bool) -> None:
    record = admission(account)
    ends = [completed(account, record.prediction_id), failed(account, record.prediction_id)]
    first, second = ends if first_is_charge else reversed(ends)
    async with journal_of(database) as journal:
        await journal.admit(record)
        await journal.settle(first)
        before = await account.prediction(record.prediction_id)
        with pytest.raises(HoldResolvedDifferently):
            await journal.settle(second)
    assert await account.prediction(record.prediction_id) == before
    assert (await account.balance()).balance_micros == 1_000_000 - (PRICE_MICROS if first_is_charge else 0)


async def test_an_end_that_the_books_refuse_is_not_written_down(database: Database, account: Account) -> None:
    unpaid, cheap = admission(account, wallet=False), admission(account)
    too_much = Capture(
        hold_id=cheap.prediction_id, owner_id=account.caller.organization_id, amount_micros=2 * PRICE_MICROS
    )
    async with journal_of(database) as journal:
        await journal.admit(unpaid)
        await journal.admit(cheap)
        with pytest.raises(HoldUnknown):
            await journal.settle(completed(account, unpaid.prediction_id))
        with pytest.raises(HoldConflict):
            await journal.settle(
                Settlement(prediction_id=cheap.prediction_id, status=PredictionStatus.COMPLETED, money=too_much)
            )
    for record in (unpaid, cheap):
        prediction = await account.prediction(record.prediction_id)
        assert (prediction["status"], prediction["charged_micros"]) == ("processing", 0)


async def test_calls_that_the_customer_pays_elsewhere_touch_no_money(database: Database, account: Account) -> None:
    record = admission(account, wallet=False)
    async with journal_of(database) as journal:
        assert await journal.admit(record) is None
        end = Settlement(prediction_id=record.prediction_id, status=PredictionStatus.COMPLETED, money=None)
        assert await journal.settle(end) is None
    prediction = await account.prediction(record.prediction_id)
    assert (prediction["status"], prediction["charged_micros"], prediction["payer"]) == ("completed", 0, "customer")
    assert (await account.balance()).balance_micros == 1_000_000


async def test_a_process_that_died_leaves_nothing_held_for_ever(database: Database, account: Account) -> None:
    lost, alive = admission(account, ttl_seconds=0), admission(account)
    async with journal_of(database) as of_the_dead_process:
        await of_the_dead_process.admit(lost)
        await of_the_dead_process.admit(alive)
    assert (await account.balance()).held_micros == 2 * PRICE_MICROS
    journal = Journal(database.pool)
    assert await eventually(lambda: journal.expire(limit=10)) == [lost.prediction_id]
    prediction = await account.prediction(lost.prediction_id)
    assert (prediction["status"], prediction["code"], prediction["charged_micros"]) == ("failed", "abandoned", 0)
    assert (await account.prediction(alive.prediction_id))["status"] == "processing"
    assert (await account.balance()).held_micros == PRICE_MICROS
    assert await journal.expire(limit=10) == []


async def test_a_backlog_of_dead_calls_is_freed_in_bounded_steps(database: Database, account: Account) -> None:
    async with journal_of(database) as journal:
        await asyncio.gather(*(journal.admit(admission(account, ttl_seconds=0)) for _ in range(7)))
        freed = [len(await eventually(lambda: journal.expire(limit=3))) for _ in range(3)]
    assert freed == [3, 3, 1]
    assert (await account.balance()).held_micros == 0


async def test_one_record_that_cannot_be_written_fails_alone(database: Database, account: Account) -> None:
    poison = admission(account, organization_id=uuid4())  # breaks the foreign key of the whole statement
    others = [admission(account) for _ in range(5)]
    outcomes = await outcomes_of_one_batch(database, *others[:3], poison, *others[3:])
    assert isinstance(outcomes.pop(3), Exception)
    assert kinds(outcomes) == [OutcomeKind.PLACED] * 5
    assert await account.predictions() == 5
    assert (await account.balance()).held_micros == 5 * PRICE_MICROS


async def test_a_closed_journal_says_that_it_is_unavailable(database: Database, account: Account) -> None:
    async with journal_of(database) as journal:
        pass
    with pytest.raises(LedgerUnavailable):
        await journal.admit(admission(account))
    assert await account.predictions() == 0
