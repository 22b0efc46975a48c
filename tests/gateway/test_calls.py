"""The paid path: whatever happens to a call, it ends in one charge for finished work or in none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from billing.errors import InsufficientCredits, SpendCapReached
from gateway.call import Completed
from gateway.calls import Calls
from gateway.database import Database
from gateway.predictions.journal import Journal
from gateway.refusals import Overloaded, ShuttingDown
from gateway.tenants.errors import ModelNotAllowed, ScopeMissing
from inference.errors import InputRejected, ProviderFailed, ProviderTimedOut
from inference.task import SegmentTask
from tests.gateway.paid_path import (
    PRICE_MICROS,
    Account,
    Gate,
    a_picture,
    calls_of,
    eventually,
    journal_of,
    nothing,
)

PATIENCE_SECONDS = 60.0


@pytest.fixture
async def account(database: Database) -> Account:
    return await Account.open(database)


@pytest.fixture
async def journal(database: Database) -> AsyncIterator[Journal]:
    async with journal_of(database) as journal:
        yield journal


@asynccontextmanager
async def stalled(calls: Calls, gate: Gate, account: Account) -> AsyncIterator[tuple[UUID, "asyncio.Task[Completed]"]]:
    """A call that has begun its work and goes on with it when the gate opens, at the latest when this is left."""
    call = account.call()
    running = asyncio.create_task(calls.segment(call))
    await gate.begun.wait()
    try:
        yield call.prediction_id, running
    finally:
        gate.opened.set()
        await asyncio.wait([running])


async def expired(journal: Journal) -> list[UUID]:
    """The holds that are freed because their time is up, once there are any."""
    found: list[UUID] = await eventually(lambda: journal.expire(limit=10))
    return found


async def test_finished_work_is_charged_and_remembered(journal: Journal, account: Account, tmp_path: Path) -> None:
    call = account.call(a_picture(64, 48), a_picture(30, 20))
    completed = await calls_of(journal, nothing, tmp_path).segment(call)
    assert (completed.charged_micros, completed.available_micros) == (2 * PRICE_MICROS, 1_000_000 - 2 * PRICE_MICROS)
    assert completed.sizes == ((64, 48), (30, 20))
    assert completed.timings_ms == {"inference": 64.0}
    prediction = await account.prediction(call.prediction_id)
    assert (prediction["status"], prediction["charged_micros"], prediction["units"]) == ("completed", 10_000, 2)
    assert (prediction["deployment"], prediction["request_id"]) == ("worker", call.request_id)
    assert (await account.balance()).balance_micros == 1_000_000 - 2 * PRICE_MICROS
    assert await account.charges() == 1


async def test_two_pictures_of_which_one_fails_cost_nothing(journal: Journal, account: Account, tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def work(task: SegmentTask) -> None:
        if task.picture.width == 13:
            raise InputRejected("The picture is cut short.", field="picture")
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            ended.set()

    call = account.call(a_picture(64, 48), a_picture(13, 13))
    with pytest.raises(InputRejected, match="cut short"):
        await calls_of(journal, work, tmp_path).segment(call)
    assert ended.is_set()  # nobody waits for the other picture, so nobody computes it
    assert (await account.prediction(call.prediction_id))["code"] == "input_rejected"
    balance = await account.balance()
    assert (balance.balance_micros, balance.held_micros) == (1_000_000, 0)
    assert await account.charges() == 0


async def test_hold_that_expires_under_a_call_is_charged_late_and_once(
    journal: Journal, account: Account, tmp_path: Path
) -> None:
    gate = Gate()
    calls = calls_of(journal, gate, tmp_path, hold_ttl_seconds=0)
    async with stalled(calls, gate, account) as (prediction_id, running):
        assert await expired(journal) == [prediction_id]
        assert (await account.balance()).available_micros == 1_000_000
        assert (await account.prediction(prediction_id))["code"] == "abandoned"
        gate.opened.set()
        completed = await running
    assert completed.charged_micros == PRICE_MICROS
    prediction = await account.prediction(prediction_id)
    assert (prediction["status"], prediction["code"]) == ("completed", None)
    assert prediction["charged_micros"] == PRICE_MICROS
    assert (await account.balance()).available_micros == 1_000_000 - PRICE_MICROS
    assert await account.charges() == 1
    assert await journal.expire(limit=10) == []


async def test_work_whose_money_is_gone_meanwhile_is_written_off(
    journal: Journal, account: Account, tmp_path: Path
) -> None:
    gate = Gate()
    calls = calls_of(journal, gate, tmp_path, hold_ttl_seconds=0)
    async with stalled(calls, gate, account) as (prediction_id, running):
        await expired(journal)
        await account.give(-1_000_000)
        gate.opened.set()
        completed = await running
    assert (completed.charged_micros, completed.available_micros) == (0, 0)
    prediction = await account.prediction(prediction_id)
    assert (prediction["status"], prediction["charged_micros"]) == ("completed", 0)
    assert (await account.balance()).balance_micros == 0
    assert await account.charges() == 0


async def test_failure_after_the_hold_expired_says_why_it_failed(
    journal: Journal, account: Account, tmp_path: Path
) -> None:
    gate = Gate()

    async def work(task: SegmentTask) -> None:
        await gate(task)
        raise ProviderFailed("The model fell over.")

    calls = calls_of(journal, work, tmp_path, hold_ttl_seconds=0)
    async with stalled(calls, gate, account) as (prediction_id, running):
        await expired(journal)
        gate.opened.set()
        with pytest.raises(ProviderFailed):
            await running
    assert (await account.prediction(prediction_id))["code"] == "provider_failed"
    assert (await account.balance()).available_micros == 1_000_000


async def test_request_that_is_cancelled_leaves_its_call_running(
    journal: Journal, account: Account, tmp_path: Path
) -> None:
    gate = Gate()
    calls = calls_of(journal, gate, tmp_path)
    async with stalled(calls, gate, account) as (prediction_id, running):
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert calls.in_flight == 1
        gate.opened.set()
        await calls.drain(PATIENCE_SECONDS)
    assert (await account.prediction(prediction_id))["status"] == "completed"
    assert (await account.balance()).balance_micros == 1_000_000 - PRICE_MICROS


async def test_draining_lets_running_calls_end_and_refuses_new_ones(
    journal: Journal, account: Account, tmp_path: Path
) -> None:
    gate = Gate()
    calls = calls_of(journal, gate, tmp_path)
    async with stalled(calls, gate, account) as (_, running):
        draining = asyncio.create_task(calls.drain(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        assert calls.draining
        with pytest.raises(ShuttingDown):
            await calls.segment(account.call())
        assert not draining.done()
        gate.opened.set()
        await draining
        assert (await running).charged_micros == PRICE_MICROS
    assert await account.predictions() == 1
    assert (await account.balance()).held_micros == 0


async def test_draining_gives_up_what_is_stuck_and_frees_its_money(
    journal: Journal, account: Account, tmp_path: Path
) -> None:
    gate = Gate()
    calls = calls_of(journal, gate, tmp_path)
    async with stalled(calls, gate, account) as (prediction_id, running):
        await calls.drain(0.05)
        with pytest.raises(ShuttingDown, match="Send it again"):
            await running
    prediction = await account.prediction(prediction_id)
    assert (prediction["status"], prediction["code"]) == ("failed", "shutting_down")
    balance = await account.balance()
    assert (balance.balance_micros, balance.held_micros) == (1_000_000, 0)


async def test_call_that_is_admitted_after_the_time_to_end_is_not_begun(
    database: Database, account: Account, tmp_path: Path
) -> None:
    begun = asyncio.Event()

    async def work(_task: SegmentTask) -> None:
        begun.set()
        await asyncio.sleep(PATIENCE_SECONDS)

    journal = Journal(database.pool)  # does not commit yet: the database is slow
    calls, call = calls_of(journal, work, tmp_path), account.call()
    running = asyncio.create_task(calls.segment(call))
    await asyncio.sleep(0)
    draining = asyncio.create_task(calls.drain(0))
    await asyncio.sleep(0.1)
    assert not draining.done()
    committing = asyncio.create_task(journal.run())
    with pytest.raises(ShuttingDown):
        await running
    await draining
    await journal.aclose()
    await committing
    assert not begun.is_set()
    assert (await account.prediction(call.prediction_id))["code"] == "shutting_down"
    assert (await account.balance()).held_micros == 0


async def test_more_calls_than_fit_are_refused_before_they_are_recorded(
    journal: Journal, account: Account, tmp_path: Path
) -> None:
    gate = Gate()
    calls = calls_of(journal, gate, tmp_path, maximum_in_flight=1)
    async with stalled(calls, gate, account) as (_, running):
        with pytest.raises(Overloaded):
            await calls.segment(account.call())
        gate.opened.set()
        await running
        await calls.segment(account.call())
    assert await account.predictions() == 2
    assert (await account.balance()).balance_micros == 1_000_000 - 2 * PRICE_MICROS


async def test_what_the_key_may_not_do_is_not_recorded(journal: Journal, account: Account, tmp_path: Path) -> None:
    calls = calls_of(journal, nothing, tmp_path)
    reader = replace(account, caller=replace(account.caller, scopes=frozenset({"predictions:read"})))
    with pytest.raises(ScopeMissing):
        await calls.segment(reader.call())
    limited = replace(account, caller=replace(account.caller, allowed_models=frozenset({"meta/sam-3-image-rle"})))
    with pytest.raises(ModelNotAllowed):
        await calls.segment(limited.call())
    assert await account.predictions() == 0


async def test_calls_at_once_on_money_for_seven(journal: Journal, database: Database, tmp_path: Path) -> None:
    account = await Account.open(database, micros=7 * PRICE_MICROS)
    calls = calls_of(journal, nothing, tmp_path, maximum_in_flight=40)
    outcomes = await asyncio.gather(*(calls.segment(account.call()) for _ in range(40)), return_exceptions=True)
    assert sum(isinstance(outcome, Completed) for outcome in outcomes) == 7
    assert sum(isinstance(outcome, InsufficientCredits) for outcome in outcomes) == 33
    assert await account.predictions() == 7
    balance = await account.balance()
    assert (balance.balance_micros, balance.held_micros) == (0, 0)


async def test_calls_at_once_on_a_cap_for_three(journal: Journal, database: Database, tmp_path: Path) -> None:
    account = await Account.open(database, spend_cap_micros=4 * PRICE_MICROS - 1)
    calls = calls_of(journal, nothing, tmp_path, maximum_in_flight=40)
    outcomes = await asyncio.gather(*(calls.segment(account.call()) for _ in range(40)), return_exceptions=True)
    assert sum(isinstance(outcome, Completed) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, SpendCapReached) for outcome in outcomes) == 37
    assert (await account.balance()).balance_micros == 1_000_000 - 3 * PRICE_MICROS


async def test_provider_that_ignores_its_deadline_is_given_up(
    journal: Journal, account: Account, tmp_path: Path
) -> None:
    async def work(_task: SegmentTask) -> None:
        await asyncio.sleep(PATIENCE_SECONDS)

    call = account.call(timeout_seconds=0.01)
    with pytest.raises(ProviderTimedOut):
        await calls_of(journal, work, tmp_path).segment(call)
    assert (await account.prediction(call.prediction_id))["code"] == "provider_timed_out"
    assert (await account.balance()).available_micros == 1_000_000


@pytest.mark.parametrize(
    "message", ["Cut short.\x00", "Lone surrogate \ud800.", 'Quote " and \\u0000.', "long " * 10_000]
)
async def test_whatever_a_provider_says_the_money_comes_back(
    journal: Journal, account: Account, tmp_path: Path, message: str
) -> None:
    async def work(_task: SegmentTask) -> None:
        raise ProviderFailed(message)

    call = account.call()
    with pytest.raises(ProviderFailed):
        await calls_of(journal, work, tmp_path).segment(call)
    assert (await account.prediction(call.prediction_id))["code"] == "provider_failed"
    assert (await account.balance()).held_micros == 0


async def test_bug_in_a_provider_costs_the_customer_nothing(journal: Journal, account: Account, tmp_path: Path) -> None:
    async def work(_task: SegmentTask) -> None:
        raise KeyError("hunter2")

    call = account.call()
    with pytest.raises(KeyError):
        await calls_of(journal, work, tmp_path).segment(call)
    prediction = await account.prediction(call.prediction_id)
    assert prediction["code"] == "internal_error"
    assert "hunter2" not in prediction["error"]
    assert (await account.balance()).available_micros == 1_000_000


class FullDisk:
    """A media store that has no room."""

    async def put(self, organization_id: UUID, data: bytes, media_type: str) -> str:
        raise OSError(28, "No space left on device")

    async def get(self, key: str) -> bytes | None:
        return None

    async def delete(self, key: str) -> None: ...

    def url(self, key: str, *, expires_in_seconds: int) -> str:
        return key

    async def sweep(self, older_than: datetime, *, limit: int = 1) -> int:
        return 0


async def test_results_are_kept_before_they_are_charged(journal: Journal, account: Account, tmp_path: Path) -> None:
    kept = await calls_of(journal, nothing, tmp_path).segment(account.call(store_pictures=True))
    assert kept.masks[0].picture is None
    assert kept.masks[0].media_key is not None
    assert (tmp_path / kept.masks[0].media_key).is_file()
    call = account.call(store_pictures=True)
    with pytest.raises(OSError, match="No space left"):
        await calls_of(journal, nothing, tmp_path, media=FullDisk()).segment(call)
    assert (await account.prediction(call.prediction_id))["status"] == "failed"
    assert (await account.balance()).balance_micros == 1_000_000 - PRICE_MICROS


async def test_ledger_that_goes_away_does_not_hide_why_a_call_failed(
    database: Database, account: Account, tmp_path: Path
) -> None:
    journal = Journal(database.pool)

    async def work(_task: SegmentTask) -> None:
        await journal.aclose()
        raise ProviderFailed("The model fell over.")

    committing = asyncio.create_task(journal.run())
    call = account.call()
    with pytest.raises(ProviderFailed):
        await calls_of(journal, work, tmp_path, hold_ttl_seconds=0).segment(call)
    await committing
    assert (await account.balance()).held_micros == PRICE_MICROS
    assert await expired(Journal(database.pool)) == [call.prediction_id]
    assert (await account.prediction(call.prediction_id))["code"] == "abandoned"
    assert (await account.balance()).held_micros == 0
