"""gateway topup …"""

from typing import Annotated, Any
from uuid import uuid4

import typer

from gateway.cli.customer import ApiKey, BaseUrl, ask, connection
from gateway.cli.output import AsJson, print_facts, print_json, print_table

command = typer.Typer(help="Buy credit, as a customer.", no_args_is_help=True)


@command.command("start")
def start(
    usd: Annotated[str, typer.Argument(help="Credit to buy in dollars: 5 to 5000. The fee comes on top.")],
    save_card: Annotated[bool, typer.Option("--save-card", help="Keep the card for automatic top-ups.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what the credit costs and where to pay. Nothing is charged before that."""
    order = {"amount_usd": usd, "save_card": save_card}
    gateway = connection(base_url, api_key)
    _print(ask(gateway, "POST", "/v1/topups", json=order, idempotency_key=str(uuid4())).json(), as_json=as_json)


@command.command("show")
def show(
    topup_id: Annotated[str, typer.Argument(metavar="ID", help="pay_…, as shown by 'topup list'.")],
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a top-up is."""
    _print(ask(connection(base_url, api_key), "GET", f"/v1/topups/{topup_id}").json(), as_json=as_json)


@command.command("list")
def list_(base_url: BaseUrl = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the latest top-ups, newest first."""
    found = ask(connection(base_url, api_key), "GET", "/v1/topups").json()["data"]
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "status", "credit", "fee", "total", "refunded", "started"),
        [
            [
                each["id"],
                each["status"],
                *(_usd(each, name) for name in ("credit", "fee", "total", "refunded")),
                each["created_at"],
            ]
            for each in found
        ],
    )


def _print(topup: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(topup)
        return
    facts: dict[str, object] = {"id": topup["id"], "status": topup["status"]}
    facts |= {name: _usd(topup, name) for name in ("credit", "fee", "total")}
    if topup["refunded_micros"]:
        facts["refunded"] = _usd(topup, "refunded")
    links = {"pay at": topup["checkout_url"], "receipt": topup["receipt_url"]}
    print_facts(facts | {name: link for name, link in links.items() if link is not None})


def _usd(topup: dict[str, Any], name: str) -> str:
    return f"${topup[f'{name}_micros'] / 1_000_000:,.2f}"
