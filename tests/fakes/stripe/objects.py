"""The shapes of Stripe's objects: every field name is one that Stripe's library knows."""

from typing import Any

Object = dict[str, Any]


def customer(object_id: str, created: int, metadata: Object, **more: Any) -> Object:
    return {
        "id": object_id,
        "object": "customer",
        "created": created,
        "livemode": False,
        "metadata": metadata,
        "balance": 0,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "email": None,
        "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None},
        "name": None,
        "phone": None,
        "shipping": None,
        "address": None,
        **more,
    }


def payment_method(object_id: str, created: int, *, brand: str, last4: str, customer_id: str | None) -> Object:
    return {
        "id": object_id,
        "object": "payment_method",
        "created": created,
        "livemode": False,
        "type": "card",
        "customer": customer_id,
        "metadata": {},
        "allow_redisplay": "limited",
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "card": {
            "brand": brand,
            "last4": last4,
            "exp_month": 12,
            "exp_year": 2034,
            "country": "US",
            "funding": "credit",
        },
    }


def session(object_id: str, created: int, url: str, **fields: Any) -> Object:
    return {
        "id": object_id,
        "object": "checkout.session",
        "created": created,
        "livemode": False,
        "mode": "payment",
        "status": "open",
        "payment_status": "unpaid",
        "payment_intent": None,
        "currency": "usd",
        "url": url,
        "ui_mode": "hosted_page",
        "adaptive_pricing": {"enabled": True},
        "after_expiration": None,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "currency_conversion": None,
        "presentment_details": None,
        "discounts": [],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        **fields,
    }


def payment_intent(object_id: str, created: int, amount: int, **fields: Any) -> Object:
    return {
        "id": object_id,
        "object": "payment_intent",
        "created": created,
        "livemode": False,
        "amount": amount,
        "amount_received": 0,
        "amount_capturable": 0,
        "currency": "usd",
        "status": "requires_payment_method",
        "capture_method": "automatic_async",
        "confirmation_method": "automatic",
        "client_secret": f"{object_id}_secret",
        "last_payment_error": None,
        "latest_charge": None,
        "next_action": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "description": None,
        "receipt_email": None,
        **fields,
    }


def charge(object_id: str, created: int, intent: Object, card: Object, receipt_url: str) -> Object:
    return {
        "id": object_id,
        "object": "charge",
        "created": created,
        "livemode": False,
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "balance_transaction": None,
        "captured": False,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": None,
        "disputed": False,
        "failure_code": None,
        "failure_message": None,
        "metadata": dict(intent["metadata"]),
        "paid": False,
        "payment_intent": intent["id"],
        "payment_method": card["id"],
        "payment_method_details": {"type": "card", "card": {k: card["card"][k] for k in ("brand", "last4", "country")}},
        "receipt_email": None,
        "receipt_number": None,
        "receipt_url": receipt_url,
        "refunded": False,
        "status": "failed",
    }


def refund(object_id: str, created: int, charge_: Object, amount: int, status: str, metadata: Object) -> Object:
    return {
        "id": object_id,
        "object": "refund",
        "created": created,
        "amount": amount,
        "balance_transaction": None,
        "charge": charge_["id"],
        "currency": charge_["currency"],
        "destination_details": {"type": "card"},
        "metadata": metadata,
        "payment_intent": charge_["payment_intent"],
        "reason": None,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": status,
        "transfer_reversal": None,
    }


def dispute(object_id: str, created: int, charge_: Object, status: str) -> Object:
    return {
        "id": object_id,
        "object": "dispute",
        "created": created,
        "livemode": False,
        "amount": charge_["amount"] - charge_["amount_refunded"],
        "balance_transactions": [],
        "charge": charge_["id"],
        "currency": charge_["currency"],
        "evidence": {},
        "evidence_details": {"due_by": created + 7 * 86_400, "has_evidence": False, "past_due": False},
        "is_charge_refundable": False,
        "metadata": {},
        "payment_intent": charge_["payment_intent"],
        "reason": "fraudulent",
        "status": status,
    }


def balance_transaction(
    object_id: str, created: int, kind: str, amount: int, fee: int, source: str, reporting_category: str
) -> Object:
    return {
        "id": object_id,
        "object": "balance_transaction",
        "created": created,
        "amount": amount,
        "available_on": created + 2 * 86_400,
        "balance_type": "payments",
        "currency": "usd",
        "description": None,
        "exchange_rate": None,
        "fee": fee,
        "fee_details": [],
        "net": amount - fee,
        "reporting_category": reporting_category,
        "source": source,
        "status": "pending",
        "type": kind,
    }


def event(object_id: str, created: int, kind: str, thing: Object, api_version: str) -> Object:
    return {
        "id": object_id,
        "object": "event",
        "api_version": api_version,
        "created": created,
        "data": {"object": thing},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }


def page(url: str, items: list[Object], has_more: bool) -> Object:
    return {"object": "list", "url": url, "data": items, "has_more": has_more}
