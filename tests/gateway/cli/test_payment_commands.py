"""A newcomer clicks through a top-up with test money, spends, is refunded, and the books agree: the demo as it is."""

import signal
import time

import httpx

from gateway.settings import CHECKOUT
from tests.gateway.cli.conftest import Machine, remaining

PICTURE = CHECKOUT / "inference/pool/tiny/pictures/shapes.png"


def _paid(machine: Machine, topup_id: str) -> dict[str, object]:
    """The top-up once its webhook has come."""
    for _ in range(200):
        found: dict[str, object] = machine.run("topup", "show", topup_id, "--json").document
        if found["status"] == "paid":
            return found
        time.sleep(0.05)
    raise AssertionError("it was never paid")


def test_buy_spend_refund_and_prove(machine: Machine) -> None:
    order = machine.run("topup", "start", "10", "--save-card", "--json").document
    assert (order["credit_usd"], order["fee_usd"], order["total_usd"]) == ("10.000000", "0.500000", "10.500000")
    assert "Test money" in httpx.get(order["checkout_url"]).text
    paid = httpx.post(order["checkout_url"], data={"card": "4242424242424242"})
    assert paid.headers["location"].startswith(machine.demo["base_url"])
    assert _paid(machine, order["id"])["receipt_url"] is not None
    assert "$10.00 of credit is in your wallet." in httpx.get(paid.headers["location"]).text

    assert machine.run("segment", str(PICTURE), "--prompt", "red circle", "--json").status == 0
    refunded = machine.run("refund", order["id"], "--usd", "2.10", "--reason", "asked for")
    assert refunded.status == 0, refunded.err
    assert "$2.10" in refunded.out
    too_much = machine.run("refund", order["id"], "--usd", "8.41", "--reason", "asked for")
    assert (too_much.status, too_much.err) == (1, "error: Of this payment $8.40 can be refunded.\n")
    assert machine.run("refund", f"pay_{'0' * 32}", "--reason", "x").err.startswith("error: There is no payment")

    shown = machine.run("topup", "list")
    assert order["id"] in shown.out
    assert "$2.10" in machine.run("topup", "show", order["id"]).out
    proved = machine.run("reconcile", "--json")
    assert proved.document == {"sound": True, "differences": []}
    unpaid = machine.run("topup", "start", "20", "--json").document
    never = machine.run("refund", unpaid["id"], "--reason", "x")
    assert never.err == "error: This top-up was never paid.\n"
    assert "pay at" in machine.run("topup", "start", "20").out
    refused = machine.run("topup", "start", "1")
    assert refused.status == 1
    assert "$5 to $5,000" in refused.err


def test_test_payments_survive_a_restart_and_end_with_the_gateway(stopped: Machine) -> None:
    printed = stopped.start()
    assert "test money" in printed
    order = stopped.run("topup", "start", "10", "--json").document
    family = stopped.family()
    stopped.signal(signal.SIGTERM)
    assert remaining(family) == []
    assert stopped.run("refund", order["id"], "--reason", "x").status == 1
    stopped.start()
    httpx.post(order["checkout_url"], data={"card": "4242424242424242"})
    _paid(stopped, order["id"])
    assert stopped.run("reconcile").status == 0


def test_no_test_money_where_an_account_is_named(stopped: Machine) -> None:
    stopped.settings["GATEWAY_STRIPE_SECRET_KEY"] = "sk_test_of_the_operator"
    stopped.settings["GATEWAY_STRIPE_API_URL"] = "http://127.0.0.1:9"
    assert "test money" not in stopped.start()
    assert not (stopped.data_dir / "test-payments.json").exists()
