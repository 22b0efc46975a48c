"""A customer buys credit over the API and at the hosted page, and everything that Stripe says comes by webhook."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import stripe

from gateway.identifiers import PAYMENT, parse_id
from tests.fakes.pool import FakePool
from tests.fakes.stripe import FakeStripe, Fault, Webhooks
from tests.pictures import picture
from tests.postgres import PostgresServer
from tests.running import RunningProgram
from tests.serving import Customer, RunningGateway, wait_until

SECRET, PREVIOUS = "whsec_present", "whsec_previous"
USD = 1_000_000


@dataclass
class Shop:
    """A gateway that sells credit, and the Stripe that it sells through."""

    gateway: RunningGateway
    fake: FakeStripe

    def http(self, customer: Customer) -> httpx.Client:
        """The customer's client."""
        return httpx.Client(base_url=self.gateway.base_url, headers={"authorization": f"Bearer {customer.key}"})

    def wait_for_webhooks(self) -> None:
        """Return once Stripe has told everything."""
        wait_until(lambda: self.fake.webhooks.idle)

    def buy(self, customer: Customer, usd: str = "10", card: str = "4242424242424242", **more: Any) -> dict[str, Any]:
        """Order, pay at the hosted page, and come back to a wallet with credit."""
        with self.http(customer) as http:
            order = http.post("/v1/topups", json={"amount_usd": usd, **more}).raise_for_status().json()
            assert httpx.post(order["checkout_url"], data={"card": card}).status_code == 303
            self.wait_for_webhooks()
            found: dict[str, Any] = http.get(f"/v1/topups/{order['id']}").json()
            return found

    def post_event(self, body: bytes, signature: str | None) -> httpx.Response:
        """What anybody may send."""
        headers = {} if signature is None else {"stripe-signature": signature}
        return httpx.post(f"{self.gateway.base_url}/stripe/events", content=body, headers=headers)


@pytest.fixture(scope="module")
def _shop(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    fake = FakeStripe(webhooks=Webhooks(secret=SECRET))
    pool = FakePool()
    with (
        RunningProgram(fake.app, lifespan="on") as program,
        RunningProgram(pool.app) as upstream,
        RunningGateway.start(
            postgres,
            upstream.base_url,
            tmp_path_factory.mktemp("shop"),
            stripe_secret_key="sk_test_shop",
            stripe_webhook_secret=SECRET,
            previous_stripe_webhook_secret=PREVIOUS,
            stripe_api_url=program.base_url,
        ) as gateway,
    ):
        fake.webhooks.url = f"{gateway.base_url}/stripe/events"
        yield Shop(gateway, fake)


@pytest.fixture
def shop(_shop: Shop) -> Iterator[Shop]:
    """A shop with nothing under way."""
    webhooks = _shop.fake.webhooks
    webhooks.hold, webhooks.copies, webhooks.shuffled, webhooks.dropped = False, 1, False, frozenset()
    webhooks.held, webhooks.answers = [], []
    _shop.fake.faults.clear()
    yield _shop
    assert _shop.fake.violations == []
    _shop.wait_for_webhooks()


class TestBuying:
    def test_from_the_price_to_the_receipt(self, shop: Shop) -> None:
        customer = shop.gateway.customer(usd=0)
        with shop.http(customer) as http, httpx.Client() as browser:
            order = http.post("/v1/topups", json={"amount_usd": "10"}).json()
            assert (order["credit_usd"], order["fee_usd"], order["total_usd"]) == ("10.000000", "0.500000", "10.500000")
            assert (order["status"], order["receipt_url"]) == ("open", None)
            page = browser.get(order["checkout_url"]).text
            for words in ("Test money", "Credit", "$10.00", "Service fee (5 %)", "$0.50", "Pay $10.50"):
                assert words in page
            paid = browser.post(order["checkout_url"], data={"card": "4242424242424242"})
            back = paid.headers["location"]
            assert back == f"{shop.gateway.base_url}/topups/{order['id']}"
            shop.wait_for_webhooks()
            returned = browser.get(back)
            assert "$10.00 of credit is in your wallet." in returned.text
            found = http.get(f"/v1/topups/{order['id']}").json()
            assert (found["status"], found["checkout_url"]) == ("paid", None)
            assert "visa ending in 4242" in browser.get(found["receipt_url"]).text
            assert http.get("/v1/credits").json()["balance_usd"] == "10.000000"
            assert [each["id"] for each in http.get("/v1/topups").json()["data"]] == [order["id"]]
        shop.gateway.require_sound_books()

    def test_the_return_page_only_reads(self, shop: Shop) -> None:
        customer = shop.gateway.customer(usd=0)
        with shop.http(customer) as http:
            order = http.post("/v1/topups", json={"amount_usd": 25}).json()
        page = f"{shop.gateway.base_url}/topups/{order['id']}"
        waiting = httpx.get(page)
        assert "Waiting for the payment" in waiting.text
        assert 'http-equiv="refresh"' in waiting.text
        assert shop.gateway.balance(customer).balance_micros == 0
        given_up = httpx.get(f"{page}?canceled=1").text
        assert "You have not paid." in given_up
        assert order["checkout_url"] in given_up
        payment_id = parse_id(PAYMENT, order["id"])
        shop.gateway.execute("UPDATE billing.payments SET status = 'expired' WHERE id = $1", payment_id)
        assert "was not paid" in httpx.get(page).text
        for nothing in ("pay_0", f"pay_{'0' * 32}"):
            assert httpx.get(f"{shop.gateway.base_url}/topups/{nothing}").status_code == 404

    @pytest.mark.parametrize("amount", ["4.99", "5000.01", "10.001", "-10", "ten", "1e3", "", 0, 4.999, None, True, []])
    def test_only_amounts_that_are_sold(self, shop: Shop, amount: object) -> None:
        with shop.http(shop.gateway.customer(usd=0)) as http:
            answer = http.post("/v1/topups", json={"amount_usd": amount})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] is not None
            assert http.get("/v1/topups").json()["data"] == []

    def test_clicking_twice_buys_once(self, shop: Shop) -> None:
        with shop.http(shop.gateway.customer(usd=0)) as http:
            click = {"idempotency-key": "the button"}
            first, second = [http.post("/v1/topups", json={"amount_usd": "10"}, headers=click).json() for _ in range(2)]
            assert first == second
            other = http.post("/v1/topups", json={"amount_usd": "11"}, headers=click)
            assert (other.status_code, other.json()["error"]["type"]) == (422, "idempotency_error")

    def test_topups_are_their_organizations_own(self, shop: Shop) -> None:
        mine, other = shop.gateway.customer(usd=0), shop.gateway.customer(usd=0)
        bought = shop.buy(mine)
        with shop.http(other) as http:
            assert http.get("/v1/topups").json()["data"] == []
            for unknown in (bought["id"], "pay_0", "nonsense"):
                assert http.get(f"/v1/topups/{unknown}").status_code == 404

    def test_pages_of_topups(self, shop: Shop) -> None:
        with shop.http(shop.gateway.customer(usd=0)) as http:
            made = [http.post("/v1/topups", json={"amount_usd": "10"}).json()["id"] for _ in range(3)]
            first = http.get("/v1/topups", params={"limit": 2}).json()
            second = http.get("/v1/topups", params={"limit": 2, "cursor": first["next_cursor"]}).json()
            assert [each["id"] for each in (*first["data"], *second["data"])] == made[::-1]
            assert http.get("/v1/topups", params={"cursor": "x"}).status_code == 404

    def test_scopes(self, shop: Shop) -> None:
        reader = shop.gateway.customer(usd=0, scopes=["account:read"])
        with shop.http(reader) as http:
            assert http.get("/v1/topups").status_code == 200
            assert http.post("/v1/topups", json={"amount_usd": "10"}).status_code == 403
        user = shop.gateway.customer(usd=0, scopes=["segment"])
        with shop.http(user) as http:
            assert http.get("/v1/topups").status_code == http.get("/v1/auto-topup").status_code == 403

    def test_stripe_is_away(self, shop: Shop) -> None:
        shop.fake.faults.append(Fault("checkout/sessions", "error", times=3))
        with shop.http(shop.gateway.customer(usd=0)) as http:
            answer = http.post("/v1/topups", json={"amount_usd": "10"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "payments_unavailable")
            assert int(answer.headers["retry-after"]) >= 1

    def test_without_an_account_nothing_is_sold(self, gateway: RunningGateway) -> None:
        customer = gateway.customer(usd=0)
        headers = {"authorization": f"Bearer {customer.key}"}
        order = httpx.post(f"{gateway.base_url}/v1/topups", json={"amount_usd": "10"}, headers=headers)
        assert (order.status_code, order.json()["error"]["code"]) == (404, "payments_not_configured")
        assert order.headers["x-should-retry"] == "false"
        assert httpx.post(f"{gateway.base_url}/stripe/events", content=b"{}").status_code == 404


class TestWebhooks:
    def test_twenty_times_and_in_the_wrong_order(self, shop: Shop) -> None:
        """The issue's last sentence: buy, spend, be refunded in part; every event 20 times and shuffled."""
        shop.fake.webhooks.copies, shop.fake.webhooks.shuffled = 20, True
        customer = shop.gateway.customer(usd=0)
        bought = shop.buy(customer)
        client = shop.gateway.openai(customer)
        for _ in range(3):
            client.images.edit(model="meta/sam-3-image", image=picture(), prompt="a cat")
        wait_until(lambda: shop.gateway.resources.calls.in_flight == 0)
        payment_id = parse_id(PAYMENT, bought["id"])
        assert payment_id is not None
        payments = shop.gateway.resources.require_payments()
        shop.gateway.run(payments.refunds.refund(payment_id, 2_100_000, reason="a part", actor="tests"))
        shop.wait_for_webhooks()
        assert {status for _, status in shop.fake.webhooks.answers} == {200}
        assert len(shop.fake.webhooks.answers) >= 20 * 5
        with shop.http(customer) as http:
            lines = http.get("/v1/statement").json()["data"]
            assert [line["kind"] for line in lines] == ["refund", "usage", "usage", "usage", "topup"]
            assert sum(line["amount_micros"] for line in lines) == lines[0]["balance_micros"] == 7_985_000
            found = http.get(f"/v1/topups/{bought['id']}").json()
            assert found["refunded_usd"] == "2.100000"
            assert lines[0]["payment_id"] == lines[-1]["payment_id"] == bought["id"]
        shop.gateway.require_sound_books()
        assert shop.gateway.run(payments.reconciliation.run()).differences == []

    def test_lost_webhooks_are_recovered_by_the_comparison(self, shop: Shop) -> None:
        shop.fake.webhooks.hold = True
        customer = shop.gateway.customer(usd=0)
        assert shop.buy(customer)["status"] == "open"
        run = shop.gateway.run(shop.gateway.resources.require_payments().reconciliation.run())
        assert run.differences == []
        assert shop.gateway.balance(customer).balance_micros == 10 * USD

    def test_what_fails_is_sent_again(self, shop: Shop) -> None:
        """The database is away when the news comes: the answer is no, and the next attempt finds the event new."""
        customer = shop.gateway.customer(usd=0)
        shop.gateway.execute("REVOKE EXECUTE ON FUNCTION billing.mark_payment_paid FROM gateway_app")
        try:
            with shop.http(customer) as http:
                order = http.post("/v1/topups", json={"amount_usd": "10"}).json()
            httpx.post(order["checkout_url"], data={"card": "4242424242424242"})
            wait_until(lambda: any(status == 500 for _, status in shop.fake.webhooks.answers))
            assert shop.gateway.balance(customer).balance_micros == 0
        finally:
            shop.gateway.execute("GRANT EXECUTE ON FUNCTION billing.mark_payment_paid TO gateway_app")
        wait_until(lambda: shop.gateway.balance(customer).balance_micros == 10 * USD)

    def test_forged_late_and_future_messages_are_refused(self, shop: Shop) -> None:
        customer = shop.gateway.customer(usd=0)
        shop.fake.webhooks.hold = True
        with shop.http(customer) as http:
            order = http.post("/v1/topups", json={"amount_usd": "10"}).json()
        httpx.post(order["checkout_url"], data={"card": "4242424242424242"})
        event = next(e for e in shop.fake.webhooks.held if e["type"] == "checkout.session.completed")
        body = json.dumps(event)

        def signed(secret: str = SECRET, *, seconds: int = 0) -> str:
            at = datetime.now(UTC) + timedelta(seconds=seconds)
            header: str = stripe.WebhookSignature.generate_signature_header(body, secret, timestamp=int(at.timestamp()))
            return header

        for wrong in (None, "", "t=1,v1=0", signed("whsec_forged"), signed(seconds=-400), signed(seconds=3600)):
            answer = shop.post_event(body.encode(), wrong)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "signature_invalid")
        altered = body.replace('"amount_total": 1050', '"amount_total": 1051').encode()
        assert shop.post_event(altered, signed()).status_code == 400
        assert shop.gateway.balance(customer).balance_micros == 0
        assert shop.post_event(body.encode(), signed(PREVIOUS)).json() == {"outcome": "paid"}
        assert shop.post_event(body.encode(), signed()).json() == {"outcome": "repeated"}
        assert shop.gateway.balance(customer).balance_micros == 10 * USD

    def test_messages_are_bounded(self, shop: Shop) -> None:
        assert shop.post_event(b" " * 600_000, "t=1,v1=0").status_code == 413

    def test_a_dispute_stops_spending_until_it_is_decided(self, shop: Shop) -> None:
        customer = shop.gateway.customer(usd=1)
        bought = shop.buy(customer, card="4000000000000259")
        assert bought["disputed_usd"] == "10.500000"
        client = shop.gateway.openai(customer)
        with pytest.raises(Exception, match="in dispute"):
            client.images.edit(model="meta/sam-3-image", image=picture(), prompt="a cat")
        with shop.fake.account.lock:
            dispute = next(reversed(shop.fake.account.table("disputes")))
            shop.fake.account.close_dispute(dispute, won=True)
        shop.wait_for_webhooks()
        client.images.edit(model="meta/sam-3-image", image=picture(), prompt="a cat")
        assert shop.gateway.balance(customer).available_micros == 11 * USD - 5_000


class TestAutoTopUp:
    def test_set_up_and_used(self, shop: Shop) -> None:
        customer = shop.gateway.customer(usd=0)
        wish = {"enabled": True, "threshold_usd": "9.99", "amount_usd": 20, "monthly_ceiling_usd": "100"}
        with shop.http(customer) as http:
            assert http.get("/v1/auto-topup").json() == {"object": "auto_topup", "card": None, "enabled": False}
            early = http.put("/v1/auto-topup", json=wish)
            assert (early.status_code, early.json()["error"]["code"]) == (400, "saved_card_missing")
            shop.buy(customer, save_card=True)
            told = http.put("/v1/auto-topup", json=wish).json()
            assert told["card"] == {"brand": "visa", "last4": "4242"}
            assert (told["threshold_usd"], told["amount_usd"], told["target_usd"]) == ("9.990000", "20.000000", None)
        client = shop.gateway.openai(customer)

        async def calls() -> None:
            def call() -> None:
                client.images.edit(model="meta/sam-3-image", image=picture(), prompt="a cat")

            await asyncio.gather(*(asyncio.to_thread(call) for _ in range(50)))

        asyncio.run(calls())
        wait_until(lambda: shop.gateway.resources.calls.in_flight == 0)
        wait_until(lambda: shop.gateway.balance(customer).balance_micros > 20 * USD)
        shop.wait_for_webhooks()
        assert shop.gateway.balance(customer).balance_micros == 30 * USD - 250_000
        with shop.http(customer) as http:
            found = http.get("/v1/topups").json()["data"]
            assert [(each["kind"], each["status"]) for each in found] == [("auto", "paid"), ("checkout", "paid")]
            state = http.get("/v1/auto-topup").json()
            assert (state["charged_this_month_usd"], state["paused"]) == ("21.000000", None)
        shop.gateway.require_sound_books()

    def test_it_says_why_it_pauses(self, shop: Shop) -> None:
        customer = shop.gateway.customer(usd=0)
        shop.buy(customer, save_card=True)
        wish = {"enabled": True, "threshold_usd": "11", "target_usd": "30", "monthly_ceiling_usd": "100"}
        card = next(reversed(shop.fake.account.table("payment_methods")))
        shop.fake.account.change_card(card, "4000002760003184")
        with shop.http(customer) as http:
            http.put("/v1/auto-topup", json=wish).raise_for_status()
            wait_until(lambda: http.get("/v1/auto-topup").json()["paused"] is not None)
            paused = http.get("/v1/auto-topup").json()["paused"]
            assert paused["reason"] == "authentication_required"
            assert "confirm" in paused["message"]

    @pytest.mark.parametrize(
        "change",
        [
            {"threshold_usd": "0"},
            {"threshold_usd": "lots"},
            {"amount_usd": "30", "target_usd": "30"},
            {"amount_usd": None},
            {"amount_usd": "4"},
            {"monthly_ceiling_usd": "0"},
            {"shoe_size": 43},
        ],
    )
    def test_what_cannot_work_is_refused(self, shop: Shop, change: dict[str, Any]) -> None:
        wish = {"enabled": False, "threshold_usd": "5", "amount_usd": "20", "monthly_ceiling_usd": "100"}
        with shop.http(shop.gateway.customer(usd=0)) as http:
            assert http.put("/v1/auto-topup", json=wish | change).status_code == 400
