"""The stand-in for Stripe is held to what Stripe's own library and documentation say."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import stripe
import stripe.checkout

from tests.fakes.stripe import FakeStripe, Fault
from tests.fakes.stripe.forms import decode
from tests.fakes.stripe.objects import Object
from tests.fakes.stripe.program import local_address
from tests.running import RunningProgram

KEY = {"authorization": "Bearer sk_test_x"}
TYPES: dict[str, Any] = {
    "customers": stripe.Customer,
    "payment_methods": stripe.PaymentMethod,
    "sessions": stripe.checkout.Session,
    "payment_intents": stripe.PaymentIntent,
    "charges": stripe.Charge,
    "refunds": stripe.Refund,
    "disputes": stripe.Dispute,
    "balance_transactions": stripe.BalanceTransaction,
    "events": stripe.Event,
}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeStripe, str]]:
    fake = FakeStripe()
    with RunningProgram(fake.app, lifespan="on") as program:
        yield fake, program.base_url


@pytest.fixture
def fake(server: tuple[FakeStripe, str]) -> FakeStripe:
    server[0].faults.clear()
    return server[0]


@pytest.fixture
def http(server: tuple[FakeStripe, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[1], headers=KEY) as client:
        yield client


def _session(http: httpx.Client, **more: str) -> Object:
    customer = http.post("/v1/customers", data={}).json()["id"]
    line = "line_items[0]"
    form = {
        "mode": "payment",
        "customer": customer,
        f"{line}[quantity]": "1",
        f"{line}[price_data][currency]": "usd",
        f"{line}[price_data][unit_amount]": "1000",
        f"{line}[price_data][product_data][name]": "Credit",
        "success_url": "http://shop/ok",
        "cancel_url": "http://shop/no",
        **more,
    }
    session: Object = http.post("/v1/checkout/sessions", data=form).raise_for_status().json()
    return session


class TestObjects:
    def test_every_field_is_one_that_stripes_library_knows(self, fake: FakeStripe, http: httpx.Client) -> None:
        disputed, refunded = _session(http), _session(http)
        with fake.account.lock:
            intent = fake.account.pay(disputed["id"], "4000000000000259")
            other = fake.account.pay(refunded["id"], "4242424242424242")
            fake.account.create_refund({"payment_intent": other["id"], "amount": "100"})
            fake.account.close_dispute(next(reversed(fake.account.table("disputes"))), won=True)
        assert intent["status"] == "succeeded"
        for kind, known in TYPES.items():
            things = fake.account.table(kind).values()
            assert things, kind
            for thing in things:
                assert set(thing) <= set(known.__annotations__), kind
                assert thing["object"] == known.OBJECT_NAME

    def test_events_are_what_the_library_reads(self, fake: FakeStripe, http: httpx.Client) -> None:
        session = _session(http)
        with fake.account.lock:
            fake.account.pay(session["id"], "4242424242424242")
        event = fake.events[-1]
        body, signature = fake.webhooks.sign(event)
        client = stripe.StripeClient("sk_test_x")
        read = client.construct_event(body, signature, fake.webhooks.secret)
        assert isinstance(read, stripe.Event)
        assert read.type == "checkout.session.completed"
        assert read.api_version == stripe.api_version

    def test_balance_is_the_sum_of_what_moved(self, fake: FakeStripe, http: httpx.Client) -> None:
        balance = http.get("/v1/balance").json()
        moved = fake.account.table("balance_transactions").values()
        assert balance["pending"][0]["amount"] == sum(item["amount"] - item["fee"] for item in moved)


class TestParameters:
    @pytest.mark.parametrize(
        ("path", "form", "name"),
        [
            ("checkout/sessions", {"payment_method_types[0]": "card"}, "payment_method_types"),
            ("checkout/sessions", {"line_items[0][price_data][unit_amont]": "5"}, "unit_amont"),
            (
                "payment_intents",
                {"amount": "5", "currency": "usd", "payment_method_types[0]": "card"},
                "payment_method",
            ),
            ("payment_intents", {"amount": "five", "currency": "usd"}, "amount"),
            ("refunds", {"payment_intent": "pi", "ammount": "5"}, "ammount"),
            ("customers", {"metadata[a]": "b", "shoe_size": "43"}, "shoe_size"),
        ],
    )
    def test_what_stripes_types_do_not_know_is_refused(
        self, fake: FakeStripe, http: httpx.Client, path: str, form: dict[str, str], name: str
    ) -> None:
        answer = http.post(f"/v1/{path}", data=form)
        assert answer.status_code == 400
        assert name in fake.violations.pop()

    @pytest.mark.parametrize("path", ["subscriptions", "customers/x/cards", "payment_intents/x/capture"])
    def test_what_it_does_not_know_is_not_found(self, http: httpx.Client, path: str) -> None:
        assert http.post(f"/v1/{path}", data={}).status_code == 404

    def test_without_a_key_nothing(self, server: tuple[FakeStripe, str]) -> None:
        assert httpx.post(f"{server[1]}/v1/customers").status_code == 401

    def test_nested_forms(self) -> None:
        assert decode("a[0][b]=1&a[0][c]=2&a[1][b]=3&d[e]=4&f[]=5&g=") == {
            "a": [{"b": "1", "c": "2"}, {"b": "3"}],
            "d": {"e": "4"},
            "f": ["5"],
            "g": "",
        }
        for wrong in ("a=1&a[b]=2", "&".join(f"a{n}=1" for n in range(3000)), "a" + "[b]" * 20 + "=1"):
            with pytest.raises(ValueError, match=r"."):
                decode(wrong)


class TestIdempotency:
    def test_the_same_key_is_the_same_result(self, http: httpx.Client) -> None:
        headers = {"idempotency-key": uuid4().hex}
        first, second = [http.post("/v1/customers", data={}, headers=headers) for _ in range(2)]
        assert first.json() == second.json()
        assert second.headers["idempotent-replayed"] == "true"

    def test_the_same_key_for_something_else_is_refused(self, http: httpx.Client) -> None:
        headers = {"idempotency-key": uuid4().hex}
        http.post("/v1/customers", data={}, headers=headers)
        answer = http.post("/v1/customers", data={"name": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "idempotency_error")

    def test_a_failure_is_repeated_too(self, fake: FakeStripe, http: httpx.Client) -> None:
        for kind, made in (("error", 0), ("error_after", 1)):
            before = len(fake.account.table("customers"))
            fake.faults.append(Fault("customers", kind))
            headers = {"idempotency-key": uuid4().hex}
            assert [http.post("/v1/customers", data={}, headers=headers).status_code for _ in range(2)] == [500, 500]
            assert len(fake.account.table("customers")) - before == made

    def test_what_never_began_may_be_sent_again(self, http: httpx.Client) -> None:
        headers = {"idempotency-key": uuid4().hex}
        assert http.post("/v1/customers", data={"nonsense": "1"}, headers=headers).status_code == 400
        assert http.post("/v1/customers", data={}, headers=headers).status_code == 200

    async def test_while_one_is_under_way_the_other_conflicts(
        self, fake: FakeStripe, server: tuple[FakeStripe, str]
    ) -> None:
        fake.faults.append(Fault("customers", "slow", seconds=1.0))
        headers = KEY | {"idempotency-key": uuid4().hex}
        async with httpx.AsyncClient(base_url=server[1], headers=headers) as client:
            slow = asyncio.create_task(client.post("/v1/customers", data={}))
            conflict = None
            for _ in range(40):
                await asyncio.sleep(0.02)
                if any(saved.answer is None for saved in fake._saved.values()):
                    conflict = await client.post("/v1/customers", data={})
                    break
            assert conflict is not None
            assert (conflict.status_code, (await slow).status_code) == (409, 200)

    def test_a_lost_answer_had_its_effect(self, fake: FakeStripe, http: httpx.Client) -> None:
        fake.faults.append(Fault("customers", "lost"))
        before = len(fake.account.table("customers"))
        with pytest.raises(httpx.RemoteProtocolError):
            http.post("/v1/customers", data={})
        assert len(fake.account.table("customers")) == before + 1


class TestHostedPage:
    def test_it_shows_what_is_paid_and_that_it_is_test_money(self, http: httpx.Client) -> None:
        page = http.get(_session(http)["url"]).text
        for words in ("Test money", "Credit", "$10.00", "Pay $10.00", 'href="http://shop/no"'):
            assert words in page

    def test_paying_leads_back_to_the_shop_once(self, http: httpx.Client) -> None:
        url = _session(http)["url"]
        paid = http.post(url, data={"card": "4242 4242 4242 4242"})
        assert (paid.status_code, paid.headers["location"]) == (303, "http://shop/ok")
        assert "complete" in http.get(url).text
        assert http.post(url, data={"card": "4242424242424242"}).status_code == 400

    def test_a_refusal_can_be_followed_by_another_card(self, http: httpx.Client) -> None:
        url = _session(http)["url"]
        refused = http.post(url, data={"card": "4000000000000002"})
        assert refused.status_code == 402
        assert "declined" in refused.text
        assert http.post(url, data={"card": "1234"}).status_code == 400
        assert http.post(url, data={"card": "4242424242424242"}).status_code == 303

    def test_the_bank_asks(self, http: httpx.Client) -> None:
        url = _session(http)["url"]
        card = {"card": "4000002760003184"}
        assert "Your bank asks" in http.post(url, data=card).text
        assert http.post(url, data=card | {"bank": "no"}).status_code == 402
        assert http.post(url, data=card | {"bank": "yes"}).status_code == 303

    def test_pages_that_are_not_there(self, http: httpx.Client) -> None:
        for path in ("/c/pay/cs_test_none", "/receipts/ch_none"):
            assert http.get(path).status_code == 404

    def test_receipts(self, fake: FakeStripe, http: httpx.Client) -> None:
        session = _session(http)
        with fake.account.lock:
            intent = fake.account.pay(session["id"], "5555555555554444")
        receipt = fake.account.get("charges", intent["latest_charge"])["receipt_url"]
        assert "mastercard ending in 4444" in http.get(receipt).text


def test_the_account_survives_a_restart(tmp_path: Path) -> None:
    store = tmp_path / "stripe.json"
    with RunningProgram(FakeStripe(store).app, lifespan="on") as program:
        headers = KEY
        customer = httpx.post(f"{program.base_url}/v1/customers", headers=headers, data={}).json()
    assert json.loads(store.read_text())["customers"]
    assert FakeStripe(store).account.get("customers", customer["id"]) == customer


@pytest.mark.parametrize("url", ["https://shop.example/stripe/events", "http://10.0.0.1:80/", "http://localhost/"])
def test_test_money_stays_on_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="this machine"):
        local_address(url)
    assert local_address("http://127.0.0.1:8080/stripe/events") == ("127.0.0.1", 8080)
