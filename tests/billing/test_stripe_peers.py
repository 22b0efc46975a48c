"""Our client against two servers: the one that stands in for Stripe here, and `localstripe`, which others wrote.

`localstripe` knows saved cards, refunds and signed webhooks, but no hosted page, no idempotency and no disputes.
"""

import importlib.util
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from billing.errors import AuthenticationNeeded, CardRefused
from billing.payments import Payment, PaymentKind, PaymentStatus
from billing.stripe_client import StripeClient, verify_event
from tests.fakes.stripe import FakeStripe

START_TIMEOUT_SECONDS = 20.0
SECRET = "whsec_of_the_peer"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that speaks as Stripe does, and how it comes to know a card."""

    url: str
    save_card: Callable[[str, str], str]


@pytest.fixture(scope="module")
def localstripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a `localstripe` process."""
    if importlib.util.find_spec("localstripe") is None:
        pytest.skip("localstripe is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("localstripe")
    folder = tmp_path_factory.mktemp("localstripe")
    with (folder / "log").open("wb") as log:
        command = [str(program), "--port", str(port), "--from-scratch"]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(params=["ours", "localstripe"])
def peer(request: pytest.FixtureRequest, stripe_server: tuple[FakeStripe, str]) -> Peer:
    """Each of the two in turn."""
    if request.param == "ours":
        fake, url = stripe_server
        return Peer(url, lambda number, customer_id: str(fake.account.add_card(number, customer_id)["id"]))
    url = request.getfixturevalue("localstripe")
    return Peer(url, lambda number, customer_id: _save_card(url, number, customer_id))


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/v1/customers", headers={"authorization": "Bearer sk_test_12345"})
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("localstripe did not start")


def _save_card(url: str, number: str, customer_id: str) -> str:
    headers = {"authorization": "Bearer sk_test_12345"}
    card = {"type": "card", "card[number]": number, "card[exp_month]": "12", "card[exp_year]": "2034", "card[cvc]": "1"}
    card["card[cvc]"] = "123"
    method_id: str = httpx.post(f"{url}/v1/payment_methods", headers=headers, data=card).json()["id"]
    httpx.post(f"{url}/v1/payment_methods/{method_id}/attach", headers=headers, data={"customer": customer_id})
    return method_id


def _payment(payment_id: UUID | None = None) -> Payment:
    now = datetime.now(UTC)
    return Payment(
        id=payment_id or uuid4(),
        owner_id=uuid4(),
        kind=PaymentKind.AUTO,
        status=PaymentStatus.OPEN,
        credit_micros=10_000_000,
        fee_micros=500_000,
        save_card=False,
        checkout_session_id=None,
        checkout_url=None,
        expires_at=now + timedelta(hours=1),
        payment_method_id=None,
        payment_intent_id=None,
        receipt_url=None,
        failure_code=None,
        failure_message=None,
        mismatch=None,
        paid_at=None,
        refunded_micros=0,
        disputed_micros=0,
        created_at=now,
    )


@pytest.fixture
async def client(peer: Peer) -> Any:
    """Our client of the peer."""
    client = StripeClient("sk_test_12345", api_url=peer.url, timeout_seconds=10.0)
    yield client
    await client.aclose()


async def test_a_saved_card_is_charged(peer: Peer, client: StripeClient) -> None:
    customer_id = await client.create_customer(uuid4())
    payment = _payment()
    method_id = peer.save_card("4242424242424242", customer_id)
    intent = await client.charge_saved_card(payment, customer_id=customer_id, payment_method_id=method_id)
    assert (intent["status"], intent["amount"], intent["currency"]) == ("succeeded", 1050, "usd")
    assert intent["metadata"] == {"payment_id": str(payment.id)}
    assert intent["customer"] == customer_id


async def test_a_card_that_is_declined_later(peer: Peer, client: StripeClient) -> None:
    customer_id = await client.create_customer(uuid4())
    method_id = peer.save_card("4000000000000341", customer_id)
    with pytest.raises(CardRefused) as refused:
        await client.charge_saved_card(_payment(), customer_id=customer_id, payment_method_id=method_id)
    assert refused.value.code in ("card_declined", "generic_decline")


async def test_a_bank_that_wants_the_cardholder(peer: Peer, client: StripeClient) -> None:
    """Stripe refuses such a charge off-session; localstripe leaves it waiting. Neither takes money."""
    customer_id = await client.create_customer(uuid4())
    method_id = peer.save_card("4000002760003184", customer_id)
    outcome = "none"
    try:
        intent = await client.charge_saved_card(_payment(), customer_id=customer_id, payment_method_id=method_id)
        outcome = intent["status"]
    except AuthenticationNeeded as needed:
        outcome = needed.code
    assert outcome in ("authentication_required", "requires_action")


async def test_a_payment_is_refunded_in_parts(peer: Peer, client: StripeClient) -> None:
    customer_id = await client.create_customer(uuid4())
    method_id = peer.save_card("4242424242424242", customer_id)
    intent = await client.charge_saved_card(_payment(), customer_id=customer_id, payment_method_id=method_id)
    request_id = uuid4()
    for each, amount_micros in ((request_id, 2_100_000), (uuid4(), 8_400_000)):
        refund = await client.create_refund(each, payment_intent_id=intent["id"], amount_micros=amount_micros)
        assert (refund["status"], refund["amount"]) == ("succeeded", amount_micros // 10_000)
        assert refund["payment_intent"] == intent["id"]
    found = await client.find_refund(intent["id"], request_id)
    assert found is not None
    assert found["amount"] == 210


async def test_movements_come_with_their_sources(peer: Peer, client: StripeClient) -> None:
    customer_id = await client.create_customer(uuid4())
    method_id = peer.save_card("4242424242424242", customer_id)
    intent = await client.charge_saved_card(_payment(), customer_id=customer_id, payment_method_id=method_id)
    await client.create_refund(uuid4(), payment_intent_id=intent["id"], amount_micros=2_100_000)
    newest = [item async for item in client.balance_transactions(since=None)]
    mine = [item for item in newest if item["source"].get("payment_intent") == intent["id"]]
    assert {(item["type"], item["amount"]) for item in mine} == {("charge", 1050), ("refund", -210)}


async def test_localstripes_webhooks_are_signed_as_we_expect(localstripe: str) -> None:
    received: list[tuple[bytes, str | None]] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((body, self.headers["stripe-signature"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    client = StripeClient("sk_test_12345", api_url=localstripe, timeout_seconds=10.0)
    try:
        endpoint = {"url": f"http://127.0.0.1:{server.server_port}/", "secret": SECRET, "events": ["customer.created"]}
        async with httpx.AsyncClient(headers={"authorization": "Bearer sk_test_12345"}) as configuring:
            (await configuring.post(f"{localstripe}/_config/webhooks/test", json=endpoint)).raise_for_status()
        customer_id = await client.create_customer(uuid4())
        for _ in range(200):
            if any(customer_id in body.decode() for body, _ in received):
                break
            time.sleep(0.05)
    finally:
        await client.aclose()
        server.shutdown()
        server.server_close()
        thread.join(10)
    events = [verify_event(body, signature, [SECRET]) for body, signature in received]
    assert ("customer.created", customer_id) in {(event["type"], event["data"]["object"]["id"]) for event in events}
