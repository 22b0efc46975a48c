"""The page that a customer's browser comes back to after paying. It only reads: money comes by the webhook alone."""

from html import escape

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from billing import payments
from billing.errors import PaymentUnknown
from billing.money import format_usd_short
from billing.payments import Payment, PaymentStatus
from gateway.dependencies import ResourcesOf
from gateway.identifiers import PAYMENT, parse_id

router = APIRouter(tags=["account"])

REFRESH_SECONDS = 2
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f4f5f8;color:#1a1f36}"
    "main{max-width:26rem;margin:4rem auto;background:#fff;padding:2rem;border-radius:12px}"
    "td+td{text-align:right;padding-left:3rem}a{color:#0b5cd5}"
)


@router.get("/topups/{topup_id}", include_in_schema=False)
async def show_return_page(topup_id: str, resources: ResourcesOf, canceled: str = "") -> HTMLResponse:
    """How a top-up stands. Needs no key: its id cannot be guessed, and it shows amounts and no names."""
    payment_id = parse_id(PAYMENT, topup_id)
    try:
        if payment_id is None:
            raise PaymentUnknown(topup_id)
        async with resources.database.pool.acquire() as connection:
            payment = await payments.get_payment(connection, payment_id)
    except PaymentUnknown:
        return _page("There is no such top-up.", "", status=404)
    return _page(
        *_told(payment, canceled=bool(canceled)), refresh=payment.status is PaymentStatus.OPEN and not canceled
    )


def _told(payment: Payment, *, canceled: bool) -> tuple[str, str]:
    """A heading and the rest."""
    rows = "".join(
        f"<tr><td>{name}</td><td>{format_usd_short(micros)}</td></tr>"
        for name, micros in (
            ("Credit", payment.credit_micros),
            ("Fee", payment.fee_micros),
            ("Total", payment.total_micros),
        )
    )
    amounts = f"<table>{rows}</table>"
    if payment.status is PaymentStatus.PAID:
        receipt = f'<p><a href="{escape(payment.receipt_url)}">Receipt</a></p>' if payment.receipt_url else ""
        return f"{format_usd_short(payment.credit_micros)} of credit is in your wallet.", amounts + receipt
    if payment.status is not PaymentStatus.OPEN:
        return "This top-up was not paid.", amounts + "<p>Nothing was charged.</p>"
    link = escape(payment.checkout_url or "")
    if canceled:
        return "You have not paid.", f'{amounts}<p><a href="{link}">Pay after all</a></p>'
    return "Waiting for the payment …", f"{amounts}<p>This page looks again by itself.</p>"


def _page(heading: str, body: str, *, status: int = 200, refresh: bool = False) -> HTMLResponse:
    again = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if refresh else ""
    document = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{again}'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>Top-up</title><style>{_STYLE}</style><main><h1>{heading}</h1>{body}</main></html>"
    )
    return HTMLResponse(document, status_code=status, headers=HEADERS)
