"""The page that customers pay at, the bank's page, and receipts. Works without scripts; plainly test money."""

from html import escape
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.fakes.stripe.account import Account, ApiError
from tests.fakes.stripe.cards import CARDS

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;background:#f4f5f8;color:#1a1f36;margin:0}
main{max-width:26rem;margin:3rem auto;background:#fff;padding:2rem;border-radius:12px;box-shadow:0 2px 12px #0001}
.test{background:#ffde92;color:#5c3b00;padding:.5rem 1rem;border-radius:6px;font-weight:600}
table{width:100%;border-collapse:collapse;margin:1rem 0}td{padding:.35rem 0}td+td{text-align:right}
tr:last-child td{border-top:1px solid #ccd;font-weight:700}
label{display:block;margin:.3rem 0}button{font:inherit;padding:.6rem 1.2rem;border:0;border-radius:6px;
background:#0b5cd5;color:#fff;cursor:pointer;width:100%;margin-top:1rem}.refused{color:#a30b2e;font-weight:600}a{color:#0b5cd5}
"""


def page_routes(account: Account) -> list[Route]:
    """The pages of an account."""
    pages = _Pages(account)
    return [
        Route("/c/pay/{session}", pages.show, methods=["GET"]),
        Route("/c/pay/{session}", pages.pay, methods=["POST"]),
        Route("/receipts/{charge}", pages.receipt, methods=["GET"]),
    ]


class _Pages:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def show(self, request: Request) -> Response:
        return self._page(request.path_params["session"])

    async def pay(self, request: Request) -> Response:
        """Try the chosen card; on to the shop, to the bank, or back with a reason."""
        session_id = request.path_params["session"]
        form = parse_qs((await request.body()).decode())
        number = form.get("card", [""])[0].replace(" ", "")
        answer = form.get("bank", [None])[0]
        with self._account.lock:
            try:
                intent = self._account.pay(
                    session_id, number, authenticated=None if answer is None else answer == "yes"
                )
                session = self._account.get("sessions", session_id)
            except ApiError as error:
                return self._page(session_id, refused=str(error), status=error.status)
            self._account.save()
        if intent["status"] == "succeeded":
            return RedirectResponse(
                session["success_url"].replace("{CHECKOUT_SESSION_ID}", session_id), status_code=303
            )
        if intent["status"] == "requires_action":
            return _bank(number)
        return self._page(session_id, refused=intent["last_payment_error"]["message"], status=402)

    async def receipt(self, request: Request) -> Response:
        try:
            charge = self._account.get("charges", request.path_params["charge"])
        except ApiError as error:
            return _html("No receipt", f"<p>{escape(str(error))}</p>", error.status)
        card = charge["payment_method_details"]["card"]
        return _html(
            "Receipt",
            f"<h1>Receipt</h1><table><tr><td>{escape(card['brand'])} ending in {escape(card['last4'])}</td>"
            f"<td>{_usd(charge['amount'])}</td></tr></table><p>{escape(charge['id'])}</p>",
        )

    def _page(self, session_id: str, *, refused: str = "", status: int = 200) -> Response:
        try:
            session = self._account.get("sessions", session_id)
        except ApiError as error:
            return _html("Nothing to pay", f"<p>{escape(str(error))}</p>", error.status)
        rows = "".join(
            f"<tr><td>{escape(line['name'])}</td><td>{_usd(line['amount'])}</td></tr>"
            for line in self._account.lines(session_id)
        )
        rows += f"<tr><td>Total due</td><td>{_usd(session['amount_total'])}</td></tr>"
        if session["status"] != "open":
            body = f"<h1>This page is {escape(session['status'])}</h1><table>{rows}</table>"
            return _html("Checkout", body, status if refused else 200)
        choices = "".join(
            f'<label><input type="radio" name="card" value="{card.number}"{" checked" if index == 0 else ""}> '
            f"{card.number} {escape(card.description)}</label>"
            for index, card in enumerate(CARDS.values())
        )
        back = (
            f'<p><a href="{escape(session["cancel_url"])}">Back without paying</a></p>' if session["cancel_url"] else ""
        )
        reason = f'<p class="refused" role="alert">{escape(refused)}</p>' if refused else ""
        body = (
            f"<h1>Pay {_usd(session['amount_total'])}</h1><table>{rows}</table>{reason}"
            f'<form method="post"><fieldset><legend>Test card</legend>{choices}</fieldset>'
            f"<button>Pay {_usd(session['amount_total'])}</button></form>{back}"
        )
        return _html("Checkout", body, status)


def _bank(number: str) -> Response:
    """The bank asks whether it is really the cardholder."""
    return _html(
        "Your bank",
        "<h1>Your bank asks</h1><p>Is it you who pays?</p>"
        f'<form method="post"><input type="hidden" name="card" value="{escape(number)}">'
        '<button name="bank" value="yes">Yes, it is me</button><button name="bank" value="no">No</button></form>',
    )


def _usd(amount_cents: int) -> str:
    return f"${amount_cents // 100:,}.{amount_cents % 100:02d}"


def _html(title: str, body: str, status: int = 200) -> Response:
    document = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)} (test money)</title><style>{_STYLE}</style><main>"
        f'<p class="test">Test money. No card is charged here.</p>{body}</main></html>'
    )
    headers: dict[str, Any] = {
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action *"
    }
    return HTMLResponse(document, status_code=status, headers=headers)
