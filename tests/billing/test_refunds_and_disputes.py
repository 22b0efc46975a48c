"""Money that goes back: in parts, after it was spent, taken by a bank and given back; in whatever order it is told."""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import payments
from billing.errors import (
    AmountInvalid,
    PaymentsRejected,
    PaymentsUnavailable,
    PaymentUnknown,
    PaymentUnpaid,
    RefundTooLarge,
)
from billing.payments import Payment
from billing.stripe_client import Object
from billing.wallets import set_frozen
from tests.billing.books import capture, place, release
from tests.billing.conftest import enter, open_books, open_desk
from tests.billing.desk import USD, Desk, Wallet
from tests.fakes.stripe import FakeStripe, Fault
from tests.postgres import PostgresServer


def only(events: Sequence[Object], *kinds: str) -> list[Object]:
    """The events of these kinds, in order."""
    return [event for event in events if event["type"] in kinds]


class TestRefund:
    async def test_a_whole_refund_ends_at_nothing(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        made = await desk.refunds.refund(payment.id, None, reason="asked for", actor="ops")
        assert (made.amount_micros, made.status) == (10_500_000, "succeeded")
        assert await desk.wallet(owner) == Wallet(0, 0, frozen=False)
        assert await desk.accounts(owner) == {"stripe_clearing": 10_500_000, "refund_clearing": -10_500_000}
        assert await desk.hear() == ["settled", "recorded"]
        assert (await desk.payment(payment.id)).refunded_micros == 10_500_000

    async def test_a_part_takes_its_share_of_credit_and_fee(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        await desk.refunds.refund(payment.id, 5 * USD + 250_000, reason="half", actor="ops")
        assert (await desk.wallet(owner)).balance_micros == 5 * USD
        assert (await desk.accounts(owner))["platform_fee"] == -250_000

    async def test_odd_parts_add_up_to_the_whole(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner, 7)  # $7.00 and 35 cents
        for cents in (1, 99, 333):
            await desk.refunds.refund(payment.id, cents * 10_000, reason="part", actor="ops")
            assert (await desk.wallet(owner)).balance_micros % 10_000 == 0
        await desk.refunds.refund(payment.id, None, reason="rest", actor="ops")
        await desk.hear()
        assert await desk.wallet(owner) == Wallet(0, 0, frozen=False)
        assert await desk.accounts(owner) == {"stripe_clearing": 7_350_000, "refund_clearing": -7_350_000}

    async def test_spent_credit_becomes_a_debt_that_the_next_top_up_pays_first(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        await desk.spend(owner, 8 * USD)
        await desk.refunds.refund(payment.id, None, reason="asked for", actor="ops")
        assert await desk.wallet(owner) == Wallet(0, 8 * USD, frozen=False)
        assert (await desk.accounts(owner))["receivable"] == 8 * USD
        await desk.bought(owner, 5)
        assert await desk.wallet(owner) == Wallet(0, 3 * USD, frozen=False)
        await desk.bought(owner, 5)
        assert await desk.wallet(owner) == Wallet(2 * USD, 0, frozen=False)
        assert "receivable" not in await desk.accounts(owner)

    async def test_held_money_stays_with_its_call(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        working, idle = place(owner, 4 * USD), place(owner, 5 * USD)
        await desk.books.apply([working, idle])
        await desk.refunds.refund(payment.id, None, reason="asked for", actor="ops")
        assert await desk.wallet(owner) == Wallet(9 * USD, 9 * USD, frozen=False)
        assert await desk.books.kinds(capture(working), release(idle)) == ["captured", "released"]
        await desk.bought(owner, 5)
        assert await desk.wallet(owner) == Wallet(USD, 0, frozen=False)

    async def test_a_refund_that_comes_back_is_credited_again(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner, card="4000000000007726")
        await desk.spend(owner, 4 * USD)
        made = await desk.refunds.refund(payment.id, None, reason="asked for", actor="ops")
        assert made.status == "pending"
        assert await desk.wallet(owner) == Wallet(0, 4 * USD, frozen=False)
        with desk.fake.account.lock:
            desk.fake.account.end_refund(made.stripe_id, succeeds=True)
            desk.fake.account.end_refund(made.stripe_id, succeeds=False)
        await desk.hear()
        assert await desk.wallet(owner) == Wallet(6 * USD, 0, frozen=False)
        again = await desk.refunds.refund(payment.id, None, reason="to another card", actor="ops")
        assert again.amount_micros == 10_500_000

    async def test_no_more_than_was_paid(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        with pytest.raises(RefundTooLarge) as refused:
            await desk.refunds.refund(payment.id, 10_510_000, reason="too much", actor="ops")
        assert refused.value.refundable_micros == 10_500_000
        await desk.refunds.refund(payment.id, None, reason="all", actor="ops")
        with pytest.raises(RefundTooLarge):
            await desk.refunds.refund(payment.id, None, reason="again", actor="ops")
        with pytest.raises(PaymentUnknown):
            await desk.refunds.refund(uuid4(), None, reason="what", actor="ops")
        unpaid = await desk.start(owner)
        with pytest.raises(PaymentUnpaid):
            await desk.refunds.refund(unpaid.id, None, reason="early", actor="ops")

    @pytest.mark.parametrize(
        ("amount", "reason"), [(0, "r"), (-10_000, "r"), (5_000, "r"), (10_000, ""), (10_000, "x" * 501)]
    )
    async def test_what_is_asked_has_to_make_sense(self, desk: Desk, amount: int, reason: str) -> None:
        with pytest.raises(AmountInvalid):
            await desk.refunds.refund(uuid4(), amount, reason=reason, actor="ops")

    async def test_a_refusal_leaves_everything_as_it_was(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        charge = desk.fake.account.get("payment_intents", payment.payment_intent_id or "")["latest_charge"]
        desk.fake.account.get("charges", charge)["disputed"] = True
        with pytest.raises(PaymentsRejected):
            await desk.refunds.refund(payment.id, USD, reason="late", actor="ops")
        desk.fake.account.get("charges", charge)["disputed"] = False
        assert (await desk.wallet(owner)).balance_micros == 10 * USD
        await desk.refunds.refund(payment.id, None, reason="now", actor="ops")

    @pytest.mark.parametrize("kind", ["lost", "error_after"])
    async def test_an_unknown_outcome_is_found_out_and_happens_once(self, own_desk: Desk, kind: str) -> None:
        desk = own_desk
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        desk.fake.faults.append(Fault("refunds", kind, times=3))
        with pytest.raises(PaymentsUnavailable):
            await desk.refunds.refund(payment.id, 5_250_000, reason="half", actor="ops")
        with pytest.raises(RefundTooLarge):
            await desk.refunds.refund(payment.id, 10_500_000, reason="while half is under way", actor="ops")
        desk.fake.forget_keys()
        [made] = await desk.refunds.finish_requested(requested_before=datetime.now(UTC))
        assert made.amount_micros == 5_250_000
        assert len(desk.fake.account.table("refunds")) == 1
        assert (await desk.wallet(owner)).balance_micros == 5 * USD
        assert await desk.refunds.finish_requested(requested_before=datetime.now(UTC)) == []
        await desk.require_sound_books()

    async def test_a_request_that_never_reached_stripe_is_made_later(self, own_desk: Desk) -> None:
        owner = await own_desk.books.wallet()
        payment = await own_desk.bought(owner)
        own_desk.fake.faults.append(Fault("refunds", "error", times=3))
        with pytest.raises(PaymentsUnavailable):
            await own_desk.refunds.refund(payment.id, None, reason="all", actor="ops")
        own_desk.fake.forget_keys()
        [made] = await own_desk.refunds.finish_requested(requested_before=datetime.now(UTC))
        assert made.status == "succeeded"
        assert (await own_desk.wallet(owner)).balance_micros == 0


class TestDispute:
    async def test_the_wallet_is_frozen_until_the_bank_decides(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        await desk.bought(owner, card="4000000000000259")
        await desk.books.credit(owner, USD)
        assert await desk.wallet(owner) == Wallet(USD, 0, frozen=True)
        assert await desk.books.kinds(place(owner, 1)) == ["frozen"]
        async with desk.books.pool.acquire() as connection:
            dispute = next(d for d in await payments.list_disputes(connection, open_only=True) if d.owner_id == owner)
        with desk.fake.account.lock:
            desk.fake.account.close_dispute(dispute.id, won=True)
        await desk.hear()
        assert await desk.wallet(owner) == Wallet(11 * USD, 0, frozen=False)
        assert await desk.accounts(owner) == {
            "stripe_clearing": 10_500_000,
            "wallet": -10 * USD,
            "platform_fee": -500_000,
        }
        async with desk.books.pool.acquire() as connection:
            known = {d.id: d for d in await payments.list_disputes(connection)}
        assert (known[dispute.id].status, known[dispute.id].closed) == ("won", True)

    async def test_a_lost_dispute_keeps_the_money_and_the_debt(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        await desk.spend(owner, 9 * USD)
        dispute = _dispute(desk, payment)
        await desk.hear()
        assert await desk.wallet(owner) == Wallet(0, 9 * USD, frozen=True)
        with desk.fake.account.lock:
            desk.fake.account.close_dispute(dispute["id"], won=False)
        await desk.hear()
        assert await desk.wallet(owner) == Wallet(0, 9 * USD, frozen=False)

    async def test_an_inquiry_freezes_and_takes_nothing(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        dispute = _dispute(desk, payment, inquiry=True)
        await desk.hear()
        assert await desk.wallet(owner) == Wallet(10 * USD, 0, frozen=True)
        with desk.fake.account.lock:
            desk.fake.account.close_dispute(dispute["id"], won=False)
        await desk.hear()
        assert await desk.wallet(owner) == Wallet(10 * USD, 0, frozen=False)

    async def test_the_operators_freeze_outlives_a_dispute(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        async with desk.books.pool.acquire() as connection:
            await set_frozen(connection, owner, frozen=True)
        dispute = _dispute(desk, payment, inquiry=True)
        with desk.fake.account.lock:
            desk.fake.account.close_dispute(dispute["id"], won=False)
        await desk.hear()
        assert (await desk.wallet(owner)).frozen
        async with desk.books.pool.acquire() as connection:
            await set_frozen(connection, owner, frozen=False)
        assert not (await desk.wallet(owner)).frozen

    async def test_two_disputes_freeze_until_both_are_decided(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        disputes = [_dispute(desk, await desk.bought(owner), inquiry=True) for _ in range(2)]
        for dispute, still_frozen in zip(disputes, (True, False), strict=True):
            with desk.fake.account.lock:
                desk.fake.account.close_dispute(dispute["id"], won=False)
            await desk.hear()
            assert (await desk.wallet(owner)).frozen is still_frozen


class TestAnyOrder:
    """One payment that is paid, refunded in part, disputed, and decided: every order of the news is the same books."""

    async def _story(self, desk: Desk, *, won: bool) -> tuple[Payment, list[Object]]:
        payment = await desk.start(await desk.books.wallet())
        desk.pay(payment)
        with desk.fake.account.lock:
            account = desk.fake.account
            intent = next(
                p for p in account.table("payment_intents").values() if p["metadata"]["payment_id"] == str(payment.id)
            )
            account.create_refund({"payment_intent": intent["id"], "amount": "315"})
            failed = account.create_refund({"payment_intent": intent["id"], "amount": "105"})
            account.end_refund(failed["id"], succeeds=False)
            dispute = account.open_dispute(intent["latest_charge"])
            account.close_dispute(dispute["id"], won=won)
        events, desk.fake.webhooks.held = desk.fake.webhooks.held, []
        return payment, [e for e in events if e["type"] != "payment_intent.created"]

    async def _require(self, desk: Desk, owner: UUID, *, won: bool) -> None:
        """$3.15 of $10.50 was refunded; the bank took the rest, and gave it back if we won."""
        assert await desk.wallet(owner) == Wallet(7 * USD if won else 0, 0, frozen=False)
        expected = {"stripe_clearing": 10_500_000, "refund_clearing": -3_150_000}
        kept = {"wallet": -7 * USD, "platform_fee": -350_000} if won else {"dispute_reserve": -7_350_000}
        assert await desk.accounts(owner) == expected | kept

    @pytest.mark.parametrize("won", [True, False])
    async def test_every_order_of_what_matters(self, desk: Desk, won: bool) -> None:
        payment, story = await self._story(desk, won=won)
        kinds = (
            "payment_intent.succeeded",
            "refund.created",
            "refund.failed",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.closed",
        )
        vital = only(story, *kinds)
        vital = [e for e in vital if e["type"] != "refund.failed"] + only(story, "refund.failed")[-1:]
        orders = list(itertools.permutations(range(len(vital))))
        for order in orders[:: max(1, len(orders) // 120)]:
            owner = await desk.books.wallet()
            _, events = await desk.another(owner, vital, payment)
            await desk.hear(events[index] for index in order)
            await self._require(desk, owner, won=won)

    def test_any_order_with_any_repetition(
        self, postgres: PostgresServer, stripe_server: tuple[FakeStripe, str]
    ) -> None:
        with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
            books = enter(runner, stack, open_books(postgres))
            desk = enter(runner, stack, open_desk(books, stripe_server))

            @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
            @given(won=st.booleans(), data=st.data())
            def check(won: bool, data: st.DataObject) -> None:
                payment, story = runner.run(self._story(desk, won=won))
                owner = runner.run(books.wallet())
                _, events = runner.run(desk.another(owner, story, payment))
                repeated = data.draw(st.lists(st.sampled_from(range(len(events))), max_size=10))
                order = data.draw(st.permutations([*range(len(events)), *repeated]))
                runner.run(desk.hear(events[index] for index in order))
                runner.run(self._require(desk, owner, won=won))

            check()
            runner.run(desk.require_sound_books())

    async def test_twenty_times_backwards_at_once(self, own_desk: Desk) -> None:
        payment, story = await self._story(own_desk, won=True)
        await asyncio.gather(*(own_desk.hear([event]) for event in list(reversed(story)) * 20))
        await self._require(own_desk, payment.owner_id, won=True)
        await own_desk.require_sound_books()

    async def test_spent_money_in_any_order(self, desk: Desk) -> None:
        """The same, after everything was spent: the debt does not depend on the order either."""
        for won in (True, False):
            payment, story = await self._story(desk, won=won)
            later = only(
                story, "refund.created", "refund.failed", "charge.dispute.funds_withdrawn", "charge.dispute.closed"
            )
            generator = itertools.permutations(range(len(later)))
            for order in itertools.islice(generator, 0, 720, 37):
                owner = await desk.books.wallet()
                _, events = await desk.another(
                    owner, [*only(story, "charge.succeeded", "payment_intent.succeeded"), *later], payment
                )
                await desk.hear(events[:2])
                await desk.spend(owner, 9 * USD)
                await desk.hear(events[2:][index] for index in order)
                debt = 2 * USD if won else 9 * USD
                assert await desk.wallet(owner) == Wallet(0, debt, frozen=False)


def _dispute(desk: Desk, payment: Payment, *, inquiry: bool = False) -> Object:
    with desk.fake.account.lock:
        intent = desk.fake.account.get("payment_intents", payment.payment_intent_id or "")
        return desk.fake.account.open_dispute(intent["latest_charge"], inquiry=inquiry)
