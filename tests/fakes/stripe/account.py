"""One Stripe account: its objects, what may be done with them, and the events that follow. Everything is plain JSON."""

import copy
import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stripe

from tests.fakes.stripe import objects
from tests.fakes.stripe.cards import CARDS, DECLINED_MESSAGE, Card
from tests.fakes.stripe.objects import Object

KINDS = (
    "customers", "payment_methods", "sessions", "payment_intents", "charges", "refunds", "disputes",
    "balance_transactions", "events", "numbers", "keys",
)  # fmt: skip
DISPUTE_FEE_CENTS = 1500


class ApiError(Exception):
    """What Stripe answers instead of an object."""

    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": kind, "message": message, **more}}


def invalid(message: str, *, status: int = 400, **more: Any) -> ApiError:
    """A request that cannot be done."""
    return ApiError(status, "invalid_request_error", message, **more)


class Account:
    """Customers, payments, refunds and disputes of one account, kept in `store` if given. Callers hold `lock`."""

    def __init__(self, *, store: Path | None = None, on_event: Callable[[Object], None] = lambda _: None) -> None:
        self.lock = threading.RLock()
        self.on_event = on_event
        self._store = store
        self._tables: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        if store is not None and store.exists():
            self._tables |= json.loads(store.read_text(encoding="utf-8"))

    def table(self, kind: str) -> dict[str, Any]:
        """All objects of a kind by id, oldest first."""
        return self._tables[kind]

    def get(self, kind: str, object_id: str) -> Object:
        """One object. Raises ApiError 404."""
        found: Object | None = self._tables[kind].get(object_id)
        if found is None:
            raise invalid(
                f"No such {kind.removesuffix('s')}: '{object_id}'", status=404, code="resource_missing", param="id"
            )
        return found

    def save(self) -> None:
        """Keep everything for the next start."""
        if self._store is not None:
            fresh = self._store.with_suffix(".new")
            fresh.write_text(json.dumps(self._tables), encoding="utf-8")
            fresh.replace(self._store)

    def create_customer(self, parameters: Object) -> Object:
        """POST /v1/customers"""
        return self._add("customers", objects.customer(_id("cus"), _now(), parameters.get("metadata", {})))

    def create_session(self, parameters: Object, base_url: str) -> Object:
        """POST /v1/checkout/sessions"""
        if parameters.get("mode") != "payment":
            raise invalid("only mode=payment is known here", param="mode")
        self.get("customers", parameters["customer"])
        lines = parameters["line_items"]
        amounts = [int(line["price_data"]["unit_amount"]) * int(line["quantity"]) for line in lines]
        expires_at = int(parameters.get("expires_at", _now() + 86_400))
        if not _now() + 1_700 <= expires_at <= _now() + 86_500:
            raise invalid("The `expires_at` timestamp must be 30 minutes to 24 hours from now.", param="expires_at")
        session_id = _id("cs_test")
        intent_data = parameters.get("payment_intent_data", {})
        session = objects.session(
            session_id,
            _now(),
            f"{base_url}/c/pay/{session_id}",
            customer=parameters["customer"],
            client_reference_id=parameters.get("client_reference_id"),
            metadata=parameters.get("metadata", {}),
            amount_subtotal=sum(amounts),
            amount_total=sum(amounts),
            success_url=parameters["success_url"],
            cancel_url=parameters.get("cancel_url"),
            expires_at=expires_at,
            payment_method_types=parameters.get("allowed_payment_method_types", ["card"]),
        )
        self._add("sessions", session)
        self._tables["keys"][f"intent_data:{session_id}"] = intent_data
        self._tables["keys"][f"lines:{session_id}"] = [
            {"name": line["price_data"]["product_data"]["name"], "amount": amount}
            for line, amount in zip(lines, amounts, strict=True)
        ]
        return session

    def lines(self, session_id: str) -> list[Object]:
        """Names and amounts in cents of what a session sells."""
        found: list[Object] = self._tables["keys"][f"lines:{session_id}"]
        return found

    def expire_session(self, session_id: str) -> Object:
        """Close a page that was not paid."""
        session = self.get("sessions", session_id)
        if session["status"] != "open":
            raise invalid("Only open sessions can expire.")
        session |= {"status": "expired", "url": None}
        self.emit("checkout.session.expired", session)
        return session

    def pay(self, session_id: str, number: str, *, authenticated: bool | None = None) -> Object:
        """Try to pay a session with a card; `authenticated` is what the bank's page said.

        The session's payment intent: succeeded, requires_action, or requires_payment_method after a refusal.
        """
        session = self.get("sessions", session_id)
        if session["status"] != "open" or session["expires_at"] < _now():
            raise invalid("This page can not be paid any more.")
        intent = self._intent_of(session)
        card = CARDS.get(number)
        if card is None:
            raise invalid("This is not one of the test cards.", code="incorrect_number")
        method = self.add_card(number, session["customer"] if intent["setup_future_usage"] else None)
        if self._attempt(intent, method, card, off_session=False, authenticated=authenticated):
            session |= {"status": "complete", "payment_status": "paid", "url": None}
            self.emit("checkout.session.completed", session)
            if card.disputed:
                self.open_dispute(intent["latest_charge"])
        return intent

    def pay_slowly(self, session_id: str) -> Object:
        """Complete a session with a way of paying that takes days; `slow_money` says how it ends."""
        session = self.get("sessions", session_id)
        intent = self._intent_of(session)
        intent["status"] = "processing"
        session |= {"status": "complete", "payment_status": "unpaid", "url": None}
        self.emit("checkout.session.completed", session)
        return session

    def slow_money(self, session_id: str, *, arrives: bool) -> Object:
        """The end of `pay_slowly`."""
        session = self.get("sessions", session_id)
        intent = self._intent_of(session)
        if arrives:
            number = "4242424242424242"
            self._attempt(intent, self.add_card(number, None), CARDS[number], off_session=False, authenticated=None)
            session["payment_status"] = "paid"
            self.emit("checkout.session.async_payment_succeeded", session)
        else:
            intent["status"] = "requires_payment_method"
            self.emit("checkout.session.async_payment_failed", session)
        return session

    def add_card(self, number: str, customer_id: str | None) -> Object:
        """A payment method for a test card, saved for a customer or not."""
        card = CARDS[number]
        method = objects.payment_method(_id("pm"), _now(), brand=card.brand, last4=card.last4, customer_id=customer_id)
        self._tables["numbers"][method["id"]] = number
        return self._add("payment_methods", method)

    def change_card(self, payment_method_id: str, number: str) -> None:
        """Let a saved card behave like another one from now on."""
        self._tables["numbers"][payment_method_id] = number

    def detach_card(self, payment_method_id: str) -> None:
        """Take a saved card away from its customer."""
        method = self.get("payment_methods", payment_method_id)
        method["customer"] = None
        self.emit("payment_method.detached", method)

    def create_payment_intent(self, parameters: Object) -> Object:
        """POST /v1/payment_intents, confirmed at once with a saved card."""
        if parameters.get("confirm") != "true" or "payment_method" not in parameters:
            raise invalid("only a confirmed payment intent with a payment method is known here", param="confirm")
        method = self.get("payment_methods", parameters["payment_method"])
        if method["customer"] != parameters.get("customer"):
            raise invalid("The payment method does not belong to this customer.", param="payment_method")
        intent = self._add(
            "payment_intents",
            objects.payment_intent(
                _id("pi"),
                _now(),
                int(parameters["amount"]),
                customer=parameters["customer"],
                metadata=parameters.get("metadata", {}),
                payment_method=method["id"],
                setup_future_usage=None,
            ),
        )
        self.emit("payment_intent.created", intent)
        card = CARDS[self._tables["numbers"][method["id"]]]
        off_session = parameters.get("off_session") == "true"
        if not self._attempt(intent, method, card, off_session=off_session, authenticated=None):
            failure = {name: value for name, value in intent["last_payment_error"].items() if name != "type"}
            raise ApiError(402, "card_error", failure.pop("message"), **failure, payment_intent=copy.deepcopy(intent))
        return intent

    def _intent_of(self, session: Object) -> Object:
        """The session's payment intent, made at the first attempt to pay."""
        if session["payment_intent"] is None:
            data = self._tables["keys"][f"intent_data:{session['id']}"]
            intent = objects.payment_intent(
                _id("pi"),
                _now(),
                session["amount_total"],
                customer=session["customer"],
                metadata=data.get("metadata", {}),
                payment_method=None,
                setup_future_usage=data.get("setup_future_usage"),
            )
            session["payment_intent"] = self._add("payment_intents", intent)["id"]
            self.emit("payment_intent.created", intent)
        return self.get("payment_intents", session["payment_intent"])

    def _attempt(
        self, intent: Object, method: Object, card: Card, *, off_session: bool, authenticated: bool | None
    ) -> bool:
        """Charge the card for the intent; whether the money came. What happened is on the intent."""
        intent["payment_method"] = method["id"]
        saved = bool(self._tables["keys"].get(f"authenticated:{method['id']}"))
        must_ask = card.authentication == "always" or (card.authentication == "once" and not saved)
        if must_ask and authenticated is None and not off_session:
            intent |= {"status": "requires_action", "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {}}}
            self.emit("payment_intent.requires_action", intent)
            return False
        if must_ask and not authenticated:
            code = "authentication_required" if off_session else "payment_intent_authentication_failure"
            return self._refuse(intent, method, code, "authentication_required" if off_session else None)
        if card.decline_code is not None or (card.decline_later and off_session):
            return self._refuse(intent, method, "card_declined", card.decline_code or "generic_decline")
        if must_ask and intent["setup_future_usage"]:
            self._tables["keys"][f"authenticated:{method['id']}"] = True
        charge = self._charge(intent, method)
        charge |= {"amount_captured": charge["amount"], "captured": True, "paid": True, "status": "succeeded"}
        fee = charge["amount"] * 29 // 1000 + 30
        charge["balance_transaction"] = self._move("charge", charge["amount"], fee, charge["id"], "charge")["id"]
        intent |= {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "next_action": None,
            "last_payment_error": None,
        }
        self.emit("charge.succeeded", charge)
        self.emit("payment_intent.succeeded", intent)
        return True

    def _refuse(self, intent: Object, method: Object, code: str, decline_code: str | None) -> bool:
        charge = self._charge(intent, method)
        charge |= {"failure_code": code, "failure_message": DECLINED_MESSAGE}
        failure = {"code": code, "message": DECLINED_MESSAGE, "charge": charge["id"]}
        if decline_code is not None:
            failure["decline_code"] = decline_code
        intent |= {
            "status": "requires_payment_method",
            "next_action": None,
            "payment_method": None,
            "last_payment_error": {"type": "card_error", **failure},
        }
        self.emit("charge.failed", charge)
        self.emit("payment_intent.payment_failed", intent)
        return False

    def _charge(self, intent: Object, method: Object) -> Object:
        charge_id = _id("ch")
        origin = self._tables["keys"].get("base_url", "http://localhost")
        charge = objects.charge(charge_id, _now(), intent, method, f"{origin}/receipts/{charge_id}")
        intent["latest_charge"] = charge_id
        return self._add("charges", charge)

    def create_refund(self, parameters: Object) -> Object:
        """POST /v1/refunds"""
        intent = self.get("payment_intents", parameters["payment_intent"])
        if intent["status"] != "succeeded":
            raise invalid("This PaymentIntent does not have a successful charge to refund.")
        charge = self.get("charges", intent["latest_charge"])
        left = charge["amount"] - charge["amount_refunded"]
        amount = int(parameters.get("amount", left))
        if left == 0:
            raise invalid(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
        if not 0 < amount <= left:
            raise invalid(
                f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount"
            )
        if charge["disputed"]:
            raise invalid("This charge has been charged back.", code="charge_disputed")
        slow = CARDS[self._tables["numbers"][charge["payment_method"]]].slow_refund
        status = "pending" if slow else "succeeded"
        refund = objects.refund(_id("re"), _now(), charge, amount, status, parameters.get("metadata", {}))
        refund["balance_transaction"] = self._move("refund", -amount, 0, refund["id"], "refund")["id"]
        self._add("refunds", refund)
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self.emit("refund.created", refund)
        self.emit("charge.refunded", charge)
        return refund

    def end_refund(self, refund_id: str, *, succeeds: bool) -> Object:
        """A pending refund arrives, or any refund comes back because the card's account is closed."""
        refund = self.get("refunds", refund_id)
        if succeeds:
            refund["status"] = "succeeded"
            self.emit("refund.updated", refund)
            return refund
        refund |= {"status": "failed", "failure_reason": "expired_or_canceled_card"}
        moved = self._move("refund_failure", refund["amount"], 0, refund_id, "refund_failure")
        refund["failure_balance_transaction"] = moved["id"]
        charge = self.get("charges", refund["charge"])
        charge |= {"amount_refunded": charge["amount_refunded"] - refund["amount"], "refunded": False}
        self.emit("refund.failed", refund)
        self.emit("refund.updated", refund)
        return refund

    def open_dispute(self, charge_id: str, *, inquiry: bool = False) -> Object:
        """The cardholder disputes a charge; unless it is an inquiry, the bank takes the money at once."""
        charge = self.get("charges", charge_id)
        charge["disputed"] = True
        status = "warning_needs_response" if inquiry else "needs_response"
        dispute = self._add("disputes", objects.dispute(_id("du"), _now(), charge, status))
        if not inquiry:
            self._move_dispute(dispute, -dispute["amount"], DISPUTE_FEE_CENTS)
        self.emit("charge.dispute.created", dispute)
        if not inquiry:
            self.emit("charge.dispute.funds_withdrawn", dispute)
        return dispute

    def close_dispute(self, dispute_id: str, *, won: bool) -> Object:
        """The bank decides; we get the money back if we win."""
        dispute = self.get("disputes", dispute_id)
        withdrawn = bool(dispute["balance_transactions"])
        dispute["status"] = ("won" if won else "lost") if withdrawn else "warning_closed"
        if withdrawn and won:
            self._move_dispute(dispute, dispute["amount"], 0)
            self.emit("charge.dispute.funds_reinstated", dispute)
        self.emit("charge.dispute.closed", dispute)
        return dispute

    def warn_of_fraud(self, charge_id: str) -> None:
        """An early fraud warning about a charge."""
        charge = self.get("charges", charge_id)
        warning = {
            "id": _id("issfr"),
            "object": "radar.early_fraud_warning",
            "actionable": True,
            "charge": charge_id,
            "created": _now(),
            "fraud_type": "misc",
            "livemode": False,
            "payment_intent": charge["payment_intent"],
        }
        self.emit("radar.early_fraud_warning.created", warning)

    def pay_out(self, amount_cents: int) -> Object:
        """Send money to the bank."""
        return self._move("payout", -amount_cents, 0, _id("po"), "payout")

    def balance(self) -> Object:
        """GET /v1/balance"""
        net = sum(moved["net"] for moved in self._tables["balance_transactions"].values())
        nothing = {"amount": 0, "currency": "usd", "source_types": {"card": 0}}
        pending = {"amount": net, "currency": "usd", "source_types": {"card": net}}
        return {"object": "balance", "available": [nothing], "pending": [pending], "livemode": False}

    def emit(self, kind: str, thing: Object) -> None:
        """Note an event about an object as it is now, and have it delivered."""
        event = objects.event(_id("evt"), _now(), kind, copy.deepcopy(thing), stripe.api_version)
        self._add("events", event)
        self.on_event(event)

    def _move_dispute(self, dispute: Object, amount: int, fee: int) -> None:
        moved = self._move("adjustment", amount, fee, dispute["id"], "dispute" if amount < 0 else "dispute_reversal")
        dispute["balance_transactions"].append(moved)

    def _move(self, kind: str, amount: int, fee: int, source: str, category: str) -> Object:
        return self._add(
            "balance_transactions",
            objects.balance_transaction(_id("txn"), _now(), kind, amount, fee, source, category),
        )

    def _add(self, kind: str, thing: Object) -> Object:
        self._tables[kind][thing["id"]] = thing
        return thing


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _now() -> int:
    return int(time.time())
