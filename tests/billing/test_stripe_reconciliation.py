"""Stripe's books and ours agree, what no webhook told us is found again, and what does not fit is named."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.errors import PaymentsUnavailable
from billing.ledger import Difference
from billing.payments import PaymentStatus
from billing.stripe_client import StripeClient
from billing.stripe_reconciliation import OVERLAP, StripeReconciliation
from tests.billing.desk import USD, Desk, Wallet
from tests.fakes.stripe import Fault


async def _differences(desk: Desk, **more: datetime) -> list[Difference]:
    return (await desk.reconciliation.run(**more)).differences


async def _clearing(desk: Desk) -> dict[str, int]:
    rows = await desk.books.pool.fetch(
        """
        SELECT account.kind, sum(CASE WHEN account.id = entry.debit_account_id
            THEN entry.amount_micros ELSE -entry.amount_micros END)::bigint AS total
        FROM billing.accounts account
        JOIN billing.ledger_entries entry ON account.id IN (entry.debit_account_id, entry.credit_account_id)
        WHERE account.owner_id IS NULL GROUP BY account.kind
        """
    )
    return {row["kind"]: row["total"] for row in rows if row["total"]}


class TestAgreement:
    async def test_a_busy_month_adds_up(self, own_desk: Desk) -> None:
        desk = own_desk
        owner = await desk.books.wallet()
        refunded = await desk.bought(owner, 10)
        await desk.refunds.refund(refunded.id, 2_100_000, reason="part", actor="ops")
        await desk.bought(owner, 20, card="4000000000000259")
        with desk.fake.account.lock:
            desk.fake.account.pay_out(500)
        await desk.hear()
        run = await desk.reconciliation.run()
        assert run.differences == []
        assert run.recorded == 5
        accounts = await _clearing(desk)
        assert accounts["bank"] == 5 * USD
        assert accounts["chargeback_loss"] == 15 * USD
        assert accounts["stripe_fees"] == 600_000 + 900_000
        assert "refund_clearing" not in accounts, "every refund has left Stripe"
        assert "dispute_reserve" not in accounts, "what the bank took has left Stripe"
        again = await desk.reconciliation.run()
        assert (again.recorded, again.differences) == (0, [])
        await desk.require_sound_books()

    async def test_won_disputes_and_refunds_that_came_back(self, own_desk: Desk) -> None:
        desk = own_desk
        payment = await desk.bought(await desk.books.wallet())
        made = await desk.refunds.refund(payment.id, 2_100_000, reason="part", actor="ops")
        with desk.fake.account.lock:
            desk.fake.account.end_refund(made.stripe_id, succeeds=False)
            intent = desk.fake.account.get("payment_intents", payment.payment_intent_id or "")
            dispute = desk.fake.account.open_dispute(intent["latest_charge"])
            desk.fake.account.close_dispute(dispute["id"], won=True)
        assert await _differences(desk) == [], "without a single webhook"
        assert await desk.wallet(payment.owner_id) == Wallet(10 * USD, 0, frozen=False)

    async def test_what_stripe_takes_for_itself(self, own_desk: Desk) -> None:
        desk = own_desk
        await desk.bought(await desk.books.wallet())
        with desk.fake.account.lock:
            fee = desk.fake.account.pay_out(25)
            fee |= {"type": "stripe_fee", "source": None}
        assert await _differences(desk) == []
        assert (await _clearing(desk))["stripe_fees"] == 600_000 + 250_000

    async def test_nothing_at_all_is_fine(self, own_desk: Desk) -> None:
        run = await own_desk.reconciliation.run()
        assert (run.recorded, run.differences) == (0, [])

    async def test_more_than_a_page(self, own_desk: Desk) -> None:
        desk = own_desk
        await desk.bought(await desk.books.wallet(), 100)
        with desk.fake.account.lock:
            for _ in range(120):
                desk.fake.account.pay_out(1)
        assert (await desk.reconciliation.run()).recorded == 121


class TestRecovery:
    async def test_a_payment_whose_webhooks_were_all_lost(self, own_desk: Desk) -> None:
        desk = own_desk
        owner = await desk.books.wallet()
        payment = await desk.start(owner)
        desk.pay(payment)
        desk.fake.webhooks.held.clear()
        assert await _differences(desk) == []
        found = await desk.payment(payment.id)
        assert found.status is PaymentStatus.PAID
        assert found.receipt_url is not None
        assert (await desk.wallet(owner)).balance_micros == 10 * USD

    async def test_a_refund_and_a_dispute_that_nobody_told_us_of(self, own_desk: Desk) -> None:
        desk = own_desk
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        with desk.fake.account.lock:
            intent = desk.fake.account.get("payment_intents", payment.payment_intent_id or "")
            desk.fake.account.create_refund({"payment_intent": intent["id"], "amount": "525"})
            desk.fake.account.open_dispute(intent["latest_charge"], inquiry=True)
        desk.fake.webhooks.held.clear()
        assert await _differences(desk) == []
        assert await desk.wallet(owner) == Wallet(5 * USD, 0, frozen=True)

    async def test_how_pages_ended_is_asked(self, own_desk: Desk) -> None:
        desk = own_desk
        owner = await desk.books.wallet()
        expired, paid = await desk.start(owner), await desk.start(owner)
        with desk.fake.account.lock:
            desk.fake.account.expire_session(expired.checkout_session_id or "")
        desk.pay(paid)
        desk.fake.webhooks.held.clear()
        await desk.reconciliation.run(now=datetime.now(UTC) + timedelta(hours=1))
        assert (await desk.payment(expired.id)).status is PaymentStatus.EXPIRED
        assert (await desk.payment(paid.id)).status is PaymentStatus.PAID

    async def test_a_page_that_was_never_made_is_closed_in_the_end(self, own_desk: Desk) -> None:
        desk = own_desk
        desk.fake.faults.append(Fault("checkout/sessions", "error", times=3))
        with pytest.raises(PaymentsUnavailable):
            await desk.start(owner := await desk.books.wallet())
        [payment] = await desk.payments(owner)
        await desk.reconciliation.run(now=datetime.now(UTC) + timedelta(hours=3))
        assert (await desk.payment(payment.id)).status is PaymentStatus.OPEN
        await desk.reconciliation.run(now=datetime.now(UTC) + OVERLAP + timedelta(hours=3))
        assert (await desk.payment(payment.id)).status is PaymentStatus.EXPIRED


class TestDifferences:
    async def test_somebody_elses_charge(self, own_desk: Desk) -> None:
        desk = own_desk
        payment = await desk.start(await desk.books.wallet())
        desk.fake.account.table("keys")[f"intent_data:{payment.checkout_session_id}"] = {}
        desk.pay(payment)
        found = await _differences(desk)
        assert {difference.check for difference in found} == {
            "movement at Stripe is of one of our payments",
            "Stripe's balance = stripe_clearing",
        }

    async def test_a_payment_of_another_amount(self, own_desk: Desk) -> None:
        desk = own_desk
        payment = await desk.start(await desk.books.wallet())
        session = desk.fake.account.get("sessions", payment.checkout_session_id or "")
        session["amount_total"] = 1000
        desk.pay(payment)
        await desk.hear()
        found = {difference.check: difference for difference in await _differences(desk)}
        named = found["payment matches what was paid"]
        assert str(payment.id) in named.subject
        assert named.expected == 10_500_000

    async def test_a_movement_of_a_kind_that_we_do_not_know(self, own_desk: Desk) -> None:
        desk = own_desk
        with desk.fake.account.lock:
            desk.fake.account.pay_out(100)["type"] = "reserved_funds"
        found = {difference.check for difference in await _differences(desk)}
        assert "movement at Stripe is one that we post" in found

    async def test_a_credit_without_a_charge(self, own_desk: Desk) -> None:
        desk = own_desk
        payment = await desk.bought(await desk.books.wallet())
        moved = desk.fake.account.table("balance_transactions")
        moved.clear()
        with desk.fake.account.lock:
            desk.fake.account.pay_out(100)
        found = {difference.check: difference for difference in await _differences(desk)}
        assert str(payment.id) in found["credited payment has a charge at Stripe"].subject

    async def test_a_charge_of_another_amount_than_its_payment(self, own_desk: Desk) -> None:
        desk = own_desk
        await desk.bought(await desk.books.wallet())
        [moved] = desk.fake.account.table("balance_transactions").values()
        moved["amount"] = 1051
        assert "Stripe's charge = the payment it paid" in {each.check for each in await _differences(desk)}

    async def test_stripe_does_not_answer(self, own_desk: Desk) -> None:
        client = StripeClient("sk_test_x", api_url="http://127.0.0.1:9", timeout_seconds=1.0)
        try:
            with pytest.raises(PaymentsUnavailable):
                await StripeReconciliation(own_desk.books.pool, client, own_desk.refunds).run()
        finally:
            await client.aclose()
