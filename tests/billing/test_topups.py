"""Buying credit: what is paid is credited once, in exactly the amount that was ordered, whatever goes wrong between."""

import asyncio
from uuid import uuid4

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from billing import payments
from billing.errors import (
    AmountInvalid,
    PaymentsRejected,
    PaymentsUnavailable,
    PaymentUnknown,
    ReferenceConflict,
    WalletUnknown,
)
from billing.payments import PaymentStatus
from billing.stripe_client import Object, StripeClient
from billing.stripe_inbox import REPEATED, receive
from tests.billing.desk import USD, Desk
from tests.fakes.stripe import Fault
from tests.running import RunningProgram


class TestStart:
    async def test_the_page_shows_credit_and_fee_as_two_lines(self, desk: Desk) -> None:
        payment = await desk.start(await desk.books.wallet(), 10)
        assert (payment.credit_micros, payment.fee_micros, payment.total_micros) == (10 * USD, USD // 2, 10_500_000)
        assert payment.checkout_session_id is not None
        lines = desk.fake.account.lines(payment.checkout_session_id)
        assert lines == [{"name": "Credit", "amount": 1000}, {"name": "Service fee (5 %)", "amount": 50}]
        session = desk.fake.account.get("sessions", payment.checkout_session_id)
        assert session["amount_total"] == 1050

    @pytest.mark.parametrize("cents", [0, 499, 500_001, -500])
    async def test_only_amounts_that_are_sold(self, desk: Desk, cents: int) -> None:
        with pytest.raises(AmountInvalid):
            await desk.topups.start(uuid4(), await desk.books.wallet(), cents)

    async def test_an_owner_without_wallet_buys_nothing(self, desk: Desk) -> None:
        with pytest.raises(WalletUnknown):
            await desk.start(uuid4())

    async def test_the_same_reference_is_the_same_payment(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        first, second = [await desk.start(owner, 10, client_reference="click") for _ in range(2)]
        assert (first.id, first.checkout_url) == (second.id, second.checkout_url)
        with pytest.raises(ReferenceConflict):
            await desk.start(owner, 11, client_reference="click")
        other = await desk.start(await desk.books.wallet(), 11, client_reference="click")
        assert other.id != first.id

    @pytest.mark.parametrize("length", [0, 256])
    async def test_references_are_bounded(self, desk: Desk, length: int) -> None:
        with pytest.raises(AmountInvalid):
            await desk.start(await desk.books.wallet(), client_reference="x" * length)

    async def test_one_customer_at_stripe_for_all_payments(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        started = [await desk.start(owner) for _ in range(2)]
        sessions = [desk.fake.account.get("sessions", p.checkout_session_id or "") for p in started]
        assert sessions[0]["customer"] == sessions[1]["customer"]

    async def test_payments_are_their_owners(self, desk: Desk) -> None:
        owner, other = await desk.books.wallet(), await desk.books.wallet()
        mine = [await desk.start(owner) for _ in range(3)]
        async with desk.books.pool.acquire() as connection:
            with pytest.raises(PaymentUnknown):
                await payments.get_payment(connection, mine[0].id, owner_id=other)
            assert (await payments.get_payment(connection, mine[0].id, owner_id=owner)).id == mine[0].id
            listed = await payments.list_payments(connection, owner, limit=2)
            rest = await payments.list_payments(connection, owner, before=listed[-1].id, limit=2)
            assert {p.id for p in (*listed, *rest)} == {p.id for p in mine}
            assert await payments.list_payments(connection, other) == []
            with pytest.raises(ValueError, match="limit"):
                await payments.list_payments(connection, owner, limit=0)


class TestPaid:
    async def test_credit_and_fee_are_posted_and_nothing_else(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner, 10)
        assert payment.status is PaymentStatus.PAID
        assert (await desk.wallet(owner)).balance_micros == 10 * USD
        assert await desk.accounts(owner) == {
            "stripe_clearing": 10_500_000,
            "wallet": -10 * USD,
            "platform_fee": -500_000,
        }
        assert payment.receipt_url is not None

    async def test_nothing_is_credited_before_it_is_paid(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.start(owner)
        assert (await desk.wallet(owner)).balance_micros == 0
        refused = desk.pay(payment, "4000000000009995")
        assert refused["status"] == "requires_payment_method"
        await desk.hear()
        told = await desk.payment(payment.id)
        assert (told.status, told.failure_code) == (PaymentStatus.OPEN, "insufficient_funds")
        desk.pay(payment)
        await desk.hear()
        told = await desk.payment(payment.id)
        assert (told.status, told.failure_code) == (PaymentStatus.PAID, None)
        assert (await desk.wallet(owner)).balance_micros == 10 * USD

    async def test_the_bank_may_ask(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.start(owner)
        assert desk.pay(payment, "4000002760003184")["status"] == "requires_action"
        assert desk.pay(payment, "4000002760003184", authenticated=False)["status"] == "requires_payment_method"
        await desk.hear()
        assert (await desk.payment(payment.id)).status is PaymentStatus.OPEN
        assert desk.pay(payment, "4000002760003184", authenticated=True)["status"] == "succeeded"
        await desk.hear()
        assert (await desk.wallet(owner)).balance_micros == 10 * USD

    async def test_each_event_alone_or_repeated_credits_once(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.start(owner)
        desk.pay(payment)
        events, desk.fake.webhooks.held = desk.fake.webhooks.held, []
        backwards = list(reversed(events))
        await desk.hear([*backwards, *events] * 10)
        assert (await desk.wallet(owner)).balance_micros == 10 * USD
        assert await desk.hear(events) == [REPEATED] * len(events)

    async def test_the_same_event_at_the_same_moment_credits_once(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.start(owner)
        desk.pay(payment)
        events, desk.fake.webhooks.held = desk.fake.webhooks.held, []
        await asyncio.gather(*(desk.hear([event]) for event in events * 5))
        assert (await desk.wallet(owner)).balance_micros == 10 * USD

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"amount_total": 1049}, "1049"),
            ({"amount_total": 105_000}, "105000"),
            ({"currency": "jpy"}, "jpy"),
        ],
    )
    async def test_another_amount_than_ours_is_not_credited(
        self, desk: Desk, change: dict[str, object], what: str
    ) -> None:
        owner = await desk.books.wallet()
        payment = await desk.start(owner)
        desk.pay(payment)
        event = next(e for e in desk.fake.webhooks.held if e["type"] == "checkout.session.completed")
        event["data"]["object"] |= change
        assert await desk.hear([event]) == ["mismatch"]
        told = await desk.payment(payment.id)
        assert told.mismatch is not None
        assert what in told.mismatch
        assert (await desk.wallet(owner)).balance_micros == 0

    async def test_a_second_payment_for_the_same_order_is_named(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.bought(owner)
        async with desk.books.pool.acquire() as connection:
            again = await payments.mark_paid(
                connection, payment.id, payment_intent_id="pi_other", amount_micros=10_500_000, currency="usd"
            )
            other = await desk.start(owner)
            stolen = await payments.mark_paid(
                connection,
                other.id,
                payment_intent_id=payment.payment_intent_id or "",
                amount_micros=10_500_000,
                currency="usd",
            )
        assert (again, stolen) == ("mismatch", "mismatch")
        assert (await desk.wallet(owner)).balance_micros == 10 * USD

    async def test_slow_money(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        arriving, failing = await desk.start(owner), await desk.start(owner)
        for payment, arrives in ((arriving, True), (failing, False)):
            session_id = payment.checkout_session_id or ""
            with desk.fake.account.lock:
                desk.fake.account.pay_slowly(session_id)
            assert (await desk.hear())[-1] == "waiting"
            with desk.fake.account.lock:
                desk.fake.account.slow_money(session_id, arrives=arrives)
            await desk.hear()
        assert (await desk.payment(arriving.id)).status is PaymentStatus.PAID
        assert (await desk.payment(failing.id)).status is PaymentStatus.FAILED
        assert (await desk.wallet(owner)).balance_micros == 10 * USD

    async def test_an_expired_page_can_still_turn_out_paid(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.start(owner)
        session = dict(desk.fake.account.get("sessions", payment.checkout_session_id or ""))
        expired = {
            "id": f"evt_{uuid4().hex}",
            "type": "checkout.session.expired",
            "created": 1,
            "data": {"object": session | {"status": "expired"}},
        }
        desk.pay(payment)
        late, desk.fake.webhooks.held = desk.fake.webhooks.held, []
        assert await desk.hear([expired]) == ["expired"]
        assert (await desk.payment(payment.id)).status is PaymentStatus.EXPIRED
        await desk.hear(late)
        assert (await desk.payment(payment.id)).status is PaymentStatus.PAID
        assert await desk.hear([expired | {"id": f"evt_{uuid4().hex}"}]) == ["over already"]

    async def test_a_canceled_payment_intent_ends_the_payment(self, desk: Desk) -> None:
        payment = await desk.start(await desk.books.wallet())
        intent = {"id": "pi_x", "metadata": {"payment_id": str(payment.id)}, "status": "canceled"}
        event = {
            "id": f"evt_{uuid4().hex}",
            "type": "payment_intent.canceled",
            "created": 1,
            "data": {"object": intent},
        }
        assert await desk.hear([event]) == ["canceled"]
        assert (await desk.payment(payment.id)).status is PaymentStatus.CANCELED

    async def test_what_is_not_ours_is_let_be(self, desk: Desk) -> None:
        foreign: Object = {
            "id": "x",
            "object": "x",
            "metadata": {},
            "payment_intent": None,
            "mode": "payment",
            "status": "open",
        }
        kinds = [
            "checkout.session.completed",
            "checkout.session.async_payment_failed",
            "payment_intent.succeeded",
            "charge.succeeded",
            "refund.created",
            "charge.dispute.created",
            "radar.early_fraud_warning.created",
            "payment_method.detached",
        ]
        foreign |= {"balance_transactions": []}
        events = [{"id": f"evt_{uuid4().hex}", "type": k, "created": 1, "data": {"object": foreign}} for k in kinds]
        assert set(await desk.hear(events)) == {"not ours"}
        other = {"id": f"evt_{uuid4().hex}", "type": "invoice.paid", "created": 1, "data": {"object": foreign}}
        assert await desk.hear([other]) == ["ignored"]
        unknown: Object = {**foreign, "metadata": {"payment_id": str(uuid4())}, "status": "succeeded"}
        unknown |= {"amount_received": 1, "currency": "usd", "payment_intent": "pi_y", "payment_method": None}
        strays = [
            {"id": f"evt_{uuid4().hex}", "type": k, "created": 1, "data": {"object": unknown}}
            for k in ("payment_intent.succeeded", "charge.succeeded")
        ]
        assert await desk.hear(strays) == ["unknown", "not ours"]


class TestCrashes:
    async def test_an_answer_that_was_lost_is_asked_for_again(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        desk.fake.faults.append(Fault("checkout/sessions", "lost", times=3))
        with pytest.raises(PaymentsUnavailable):
            await desk.start(owner, client_reference="click")
        [waiting] = await desk.payments(owner)
        assert waiting.checkout_url is None
        payment = await desk.start(owner, client_reference="click")
        assert payment.id == waiting.id
        mine = [s for s in desk.fake.account.table("sessions").values() if s["client_reference_id"] == str(payment.id)]
        assert [s["url"] for s in mine] == [payment.checkout_url]

    async def test_one_lost_answer_is_not_even_noticed(self, desk: Desk) -> None:
        desk.fake.faults.append(Fault("checkout/sessions", "lost"))
        assert (await desk.start(await desk.books.wallet())).checkout_url is not None

    async def test_a_page_that_we_never_heard_of_is_credited_when_paid(self, desk: Desk) -> None:
        """Stripe said yes and we died before we could write it down; the customer had the page all the same."""
        owner = await desk.books.wallet()
        desk.fake.faults.append(Fault("checkout/sessions", "lost", times=3))
        with pytest.raises(PaymentsUnavailable):
            await desk.start(owner)
        [waiting] = await desk.payments(owner)
        [session] = [
            s for s in desk.fake.account.table("sessions").values() if s["client_reference_id"] == str(waiting.id)
        ]
        with desk.fake.account.lock:
            desk.fake.account.pay(session["id"], "4242424242424242")
        await desk.hear()
        assert (await desk.wallet(owner)).balance_micros == 10 * USD

    async def test_an_effect_that_is_rolled_back_can_be_repeated(self, desk: Desk) -> None:
        owner = await desk.books.wallet()
        payment = await desk.start(owner)
        desk.pay(payment)
        events, desk.fake.webhooks.held = desk.fake.webhooks.held, []
        paid = next(e for e in events if e["type"] == "payment_intent.succeeded")
        async with desk.books.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await receive(connection, paid)
            await transaction.rollback()
        assert (await desk.wallet(owner)).balance_micros == 0
        assert await desk.hear([paid]) == ["paid"]

    async def test_a_failure_that_stripe_repeats_is_not_ours_to_hide(self, desk: Desk) -> None:
        desk.fake.faults.append(Fault("checkout/sessions", "error"))
        with pytest.raises(PaymentsUnavailable):
            await desk.start(await desk.books.wallet())

    async def test_a_request_that_is_still_under_way_is_unavailable_not_double(self, desk: Desk) -> None:
        desk.fake.faults.append(Fault("checkout/sessions", "slow", seconds=6.0))
        client = StripeClient("sk_test_hasty", api_url=desk.address, timeout_seconds=0.3)
        hasty = Desk(desk.books, desk.fake, client, desk.address)
        try:
            with pytest.raises(PaymentsUnavailable):
                await hasty.start(await desk.books.wallet())
        finally:
            await client.aclose()

    async def test_a_wrong_key_is_the_operators_fault(self, desk: Desk) -> None:
        client = StripeClient("rk_nonsense", api_url=desk.address)
        wrong = Desk(desk.books, desk.fake, client, desk.address)
        try:
            with pytest.raises(PaymentsRejected):
                await wrong.start(await desk.books.wallet())
        finally:
            await client.aclose()

    async def test_a_session_without_a_page_is_no_checkout(self, desk: Desk) -> None:
        async def answer(request: Request) -> Response:
            return JSONResponse({"id": "x", "object": request.url.path.rpartition("/")[2].rstrip("s"), "url": None})

        odd_server = Starlette(routes=[Route("/v1/{path:path}", answer, methods=["POST"])])
        with RunningProgram(odd_server) as program:
            client = StripeClient("sk_test_x", api_url=program.base_url)
            odd = Desk(desk.books, desk.fake, client, program.base_url)
            with pytest.raises(PaymentsRejected):
                await odd.start(await desk.books.wallet())
            await client.aclose()

    async def test_nobody_at_the_address(self, desk: Desk) -> None:
        client = StripeClient("sk_test_x", api_url="http://127.0.0.1:9", timeout_seconds=1.0)
        nobody = Desk(desk.books, desk.fake, client, desk.address)
        try:
            with pytest.raises(PaymentsUnavailable):
                await nobody.start(await desk.books.wallet())
        finally:
            await client.aclose()
