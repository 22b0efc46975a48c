"""A saved card is charged once per crossing, within its ceiling, and left alone when the bank says no."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from billing import payments
from billing.auto_topup import ATTEMPT_LIFETIME
from billing.auto_topup_settings import AutoTopUp, AutoTopUpState, Claim, claim, due, read_state, save_settings
from billing.errors import AmountInvalid, SavedCardMissing, WalletUnknown
from billing.payments import Payment, PaymentKind, PaymentStatus
from billing.pricing import split_top_up
from billing.wallets import set_frozen
from tests.billing.books import place
from tests.billing.desk import USD, Desk
from tests.fakes.stripe import Fault

LATER_DECLINED = "4000000000000341"


async def _state(desk: Desk, owner: UUID) -> AutoTopUpState:
    async with desk.books.pool.acquire() as connection:
        state = await read_state(connection, owner)
    assert state is not None
    return state


async def _automatic(desk: Desk, owner: UUID) -> list[Payment]:
    return [payment for payment in await desk.payments(owner) if payment.kind is PaymentKind.AUTO]


async def _ready_again(desk: Desk, owner: UUID) -> None:
    """As if the time to leave the card alone had passed."""
    connection = await desk.as_owner()
    try:
        await connection.execute(
            "UPDATE billing.auto_top_ups SET next_attempt_at = '-infinity' WHERE owner_id = $1", owner
        )
    finally:
        await connection.close()


class TestCrossing:
    async def test_the_card_fills_the_wallet_when_it_runs_low(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)
        await desk.spend(owner, 5 * USD)
        await desk.auto_topups.run_once()
        assert (await desk.wallet(owner)).balance_micros == 5 * USD  # at the threshold is not below it
        await desk.spend(owner, 1)
        await desk.auto_topups.run_once()
        assert (await desk.wallet(owner)).balance_micros == 25 * USD - 1
        [payment] = await _automatic(desk, owner)
        assert (payment.status, payment.total_micros) == (PaymentStatus.PAID, 21 * USD)
        assert (await _state(desk, owner)).charged_this_month_micros == 21 * USD
        await desk.hear()
        assert (await desk.wallet(owner)).balance_micros == 25 * USD - 1

    async def test_up_to_a_target(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner, amount_micros=None, target_micros=30 * USD)
        await desk.spend(owner, 6 * USD + 1)
        await desk.auto_topups.run_once()
        assert (await desk.wallet(owner)).balance_micros == 30 * USD + 10_000 - 1
        [payment] = await _automatic(desk, owner)
        assert payment.credit_micros == 26_010_000

    async def test_held_money_counts_as_gone(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)
        await desk.books.apply([place(owner, 6 * USD)])
        await desk.auto_topups.run_once()
        assert (await desk.wallet(owner)).balance_micros == 30 * USD

    async def test_fifty_calls_cross_together_and_the_card_is_charged_once(self, own_desk: Desk) -> None:
        desk = own_desk
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)

        async def call(number: int) -> None:
            await desk.spend(owner, 120_000)
            await desk.auto_topups.run_once()

        await asyncio.gather(*(call(number) for number in range(50)))
        await desk.hear()
        assert len(await _automatic(desk, owner)) == 1
        assert (await desk.wallet(owner)).balance_micros == 24 * USD
        assert len(desk.fake.account.table("payment_intents")) == 2
        await desk.require_sound_books()

    async def test_the_next_crossing_is_another_payment(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)
        for _ in range(2):
            balance = (await desk.wallet(owner)).balance_micros
            await desk.spend(owner, balance - USD)
            await desk.auto_topups.run_once()
            await desk.auto_topups.run_once()
        assert len(await _automatic(desk, owner)) == 2

    async def test_nothing_happens_while_it_is_off_or_the_wallet_frozen(self, desk: Desk) -> None:
        owner, frozen = await desk.books.wallet(), await desk.books.wallet()
        await desk.with_saved_card(owner, enabled=False)
        await desk.with_saved_card(frozen)
        for each in (owner, frozen):
            await desk.spend(each, 8 * USD)
        async with desk.books.pool.acquire() as connection:
            await set_frozen(connection, frozen, frozen=True)
        await desk.auto_topups.run_once()
        assert await _automatic(desk, owner) == await _automatic(desk, frozen) == []


class TestCeiling:
    async def test_the_month_has_a_ceiling(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner, monthly_ceiling_micros=42 * USD)
        for _ in range(3):
            await desk.spend(owner, (await desk.wallet(owner)).balance_micros - USD)
            await desk.auto_topups.run_once()
        assert len(await _automatic(desk, owner)) == 2
        assert (await desk.wallet(owner)).balance_micros == USD
        assert (await _state(desk, owner)).charged_this_month_micros == 42 * USD


class TestRefused:
    async def test_three_declines_pause_it_until_the_owner_sets_it_again(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner, LATER_DECLINED)
        await desk.spend(owner, 9 * USD)
        for declines in (1, 2, 3):
            await desk.auto_topups.run_once()
            await desk.hear()  # the webhooks tell the same and count nothing
            state = await _state(desk, owner)
            assert state.declines == declines
            assert state.paused_reason == ("declined" if declines == 3 else None)
            await desk.auto_topups.run_once()
            assert len(await _automatic(desk, owner)) == declines, "the card is left alone for a while"
            await _ready_again(desk, owner)
        await desk.auto_topups.run_once()
        failed = await _automatic(desk, owner)
        assert [(p.status, p.failure_code) for p in failed] == [(PaymentStatus.FAILED, "generic_decline")] * 3
        async with desk.books.pool.acquire() as connection:
            await save_settings(connection, owner, state.settings)
        assert (await _state(desk, owner)).paused_reason is None

    async def test_a_success_forgives_earlier_declines(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        card = await desk.with_saved_card(owner, LATER_DECLINED)
        await desk.spend(owner, 9 * USD)
        await desk.auto_topups.run_once()
        await _ready_again(desk, owner)
        desk.fake.account.change_card(card, "4242424242424242")
        await desk.auto_topups.run_once()
        assert (await _state(desk, owner)).declines == 0
        assert (await desk.wallet(owner)).balance_micros == 21 * USD

    async def test_a_bank_that_wants_the_cardholder_pauses_it_at_once(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        card = await desk.with_saved_card(owner)
        desk.fake.account.change_card(card, "4000002760003184")
        await desk.spend(owner, 9 * USD)
        await desk.auto_topups.run_once()
        assert (await _state(desk, owner)).paused_reason == "authentication_required"
        [payment] = await _automatic(desk, owner)
        assert (payment.status, payment.failure_code) == (PaymentStatus.FAILED, "authentication_required")

    async def test_the_webhook_alone_is_enough(self, desk: Desk) -> None:
        """We died after Stripe's no: the news of it comes by webhook."""
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner, LATER_DECLINED)
        await desk.spend(owner, 9 * USD)
        payment = await _claimed(desk, owner)
        intent = {
            "id": "pi_lost",
            "status": "requires_payment_method",
            "metadata": {"payment_id": str(payment.id)},
            "last_payment_error": {"code": "authentication_required", "message": "no"},
        }
        kind = "payment_intent.payment_failed"
        event = {"id": f"evt_{uuid4().hex}", "type": kind, "created": 1, "data": {"object": intent}}
        assert await desk.hear([event]) == ["attempt failed"]
        assert (await _state(desk, owner)).paused_reason == "authentication_required"

    async def test_news_without_a_reason_changes_nothing(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)
        await desk.spend(owner, 9 * USD)
        payment = await _claimed(desk, owner)
        intent = {"id": "pi_slow", "status": "processing", "metadata": {"payment_id": str(payment.id)}}
        kind = "payment_intent.payment_failed"
        event = {"id": f"evt_{uuid4().hex}", "type": kind, "created": 1, "data": {"object": intent}}
        assert await desk.hear([event]) == ["waiting"]
        assert (await desk.payment(payment.id)).status is PaymentStatus.OPEN

    async def test_a_card_that_is_taken_away(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        card = await desk.with_saved_card(owner)
        with desk.fake.account.lock:
            desk.fake.account.detach_card(card)
        assert await desk.hear() == ["forgotten"]
        assert (await _state(desk, owner)).paused_reason == "card_missing"

    async def test_an_early_fraud_warning(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)
        charge = next(reversed(desk.fake.account.table("charges")))
        for expected in ("paused", "not on"):
            with desk.fake.account.lock:
                desk.fake.account.warn_of_fraud(charge)
            assert await desk.hear() == [expected]
        assert (await _state(desk, owner)).paused_reason == "fraud_warning"

    async def test_a_request_that_stripe_will_not_have(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        card = await desk.with_saved_card(owner)
        desk.fake.account.get("payment_methods", card)["customer"] = None
        await desk.spend(owner, 9 * USD)
        await desk.auto_topups.run_once()
        [payment] = await _automatic(desk, owner)
        assert (payment.status, payment.failure_code) == (PaymentStatus.FAILED, "rejected")


class TestUnanswered:
    @pytest.mark.parametrize("kind", ["lost", "error_after"])
    async def test_the_money_is_found_and_charged_once(self, own_desk: Desk, kind: str) -> None:
        desk = own_desk
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)
        await desk.spend(owner, 9 * USD)
        desk.fake.faults.append(Fault("payment_intents", kind, times=3))
        await desk.auto_topups.run_once()
        [payment] = await _automatic(desk, owner)
        assert payment.status is PaymentStatus.OPEN
        await desk.auto_topups.run_once(now=datetime.now(UTC) + timedelta(hours=1))
        assert (await desk.payment(payment.id)).status is PaymentStatus.PAID
        assert (await desk.wallet(owner)).balance_micros == 21 * USD
        assert len(desk.fake.account.table("payment_intents")) == 2

    async def test_an_attempt_that_stripe_never_saw_is_sent_again(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)
        await desk.spend(owner, 9 * USD)
        payment = await _claimed(desk, owner)
        await desk.auto_topups.run_once(now=datetime.now(UTC) + timedelta(hours=1))
        assert (await desk.payment(payment.id)).status is PaymentStatus.PAID

    async def test_only_the_newest_attempts_are_looked_through(self, own_desk: Desk) -> None:
        desk = own_desk
        owner = await desk.books.wallet()
        card = await desk.with_saved_card(owner)
        customer_id = desk.fake.account.get("payment_methods", card)["customer"]
        wish = {"payment_method": card, "customer": customer_id, "amount": "100", "confirm": "true"}
        with desk.fake.account.lock:
            for _ in range(101):
                desk.fake.account.create_payment_intent(wish)
        assert await desk.stripe.find_payment_intent(customer_id, uuid4()) is None

    async def test_after_a_day_it_is_given_up(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.with_saved_card(owner)
        await desk.spend(owner, 9 * USD)
        payment = await _claimed(desk, owner)
        await desk.auto_topups.run_once(now=datetime.now(UTC) + ATTEMPT_LIFETIME + timedelta(hours=1))
        assert (await desk.payment(payment.id)).status is PaymentStatus.EXPIRED


class TestSettings:
    @pytest.mark.parametrize(
        "settings",
        [
            {"threshold_micros": 0},
            {"threshold_micros": 5_001 * USD},
            {"amount_micros": None},
            {"target_micros": 30 * USD},
            {"amount_micros": 4_990_000},
            {"amount_micros": 10_000_001},
            {"amount_micros": 9 * USD, "threshold_micros": 10 * USD},
            {"amount_micros": None, "target_micros": 9 * USD},
            {"amount_micros": None, "target_micros": 5_001 * USD},
            {"monthly_ceiling_micros": 0},
        ],
    )
    async def test_what_cannot_work_is_refused(self, desk: Desk, settings: dict[str, int | None]) -> None:
        owner = await desk.books.wallet()
        with pytest.raises(AmountInvalid):
            await desk.with_saved_card(owner, **settings)  # type: ignore[arg-type]

    async def test_it_needs_a_card_and_a_wallet(self, desk: Desk) -> None:
        plain = AutoTopUp(
            enabled=True,
            threshold_micros=USD,
            amount_micros=5 * USD,
            target_micros=None,
            monthly_ceiling_micros=50 * USD,
        )
        owner = await desk.books.wallet()
        await desk.bought(owner)  # without asking to keep the card
        async with desk.books.pool.acquire() as connection:
            with pytest.raises(SavedCardMissing):
                await save_settings(connection, owner, plain)
            with pytest.raises(WalletUnknown):
                await save_settings(connection, uuid4(), plain)
            assert await read_state(connection, owner) is None
            assert await payments.stripe_customer(connection, uuid4()) is None

    async def test_the_card_saved_last_is_the_one(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.bought(owner, save_card=True)
        await desk.bought(owner, card="5555555555554444", save_card=True)
        async with desk.books.pool.acquire() as connection:
            customer = await payments.stripe_customer(connection, owner)
        assert customer is not None
        assert (customer.card_brand, customer.card_last4) == ("mastercard", "4444")

    async def test_claims_of_what_is_not_due(self, desk: Desk) -> None:
        owner, price, at = await desk.books.wallet(), split_top_up(2000), datetime.now(UTC)
        await desk.with_saved_card(owner)
        async with desk.books.pool.acquire() as connection:
            assert await claim(connection, uuid4(), owner, price, expires_at=at) is Claim.IDLE
            assert await claim(connection, uuid4(), uuid4(), price, expires_at=at) is Claim.IDLE
        await desk.spend(owner, 9 * USD)
        payment = await _claimed(desk, owner)
        async with desk.books.pool.acquire() as connection:
            assert await claim(connection, uuid4(), owner, price, expires_at=at) is Claim.OPEN
            assert owner not in {wallet.owner_id for wallet in await due(connection, limit=1000)}
            await payments.end_payment(connection, payment.id, PaymentStatus.EXPIRED)
            dear = split_top_up(500_000)
            assert await claim(connection, uuid4(), owner, dear, expires_at=at) is Claim.CEILING


async def _claimed(desk: Desk, owner: UUID) -> Payment:
    """An attempt that was written down and never sent."""
    async with desk.books.pool.acquire() as connection:
        payment_id = uuid4()
        outcome = await claim(
            connection, payment_id, owner, split_top_up(2000), expires_at=datetime.now(UTC) + ATTEMPT_LIFETIME
        )
    assert outcome is Claim.CLAIMED
    return await desk.payment(payment_id)
