"""gateway wallet …"""

from typing import Annotated
from uuid import uuid4

import typer

from billing import wallets
from billing.money import format_usd_short, parse_usd
from gateway.cli import operator
from gateway.cli.output import AsJson, OrganizationId, print_facts, print_json
from gateway.database import Database
from gateway.identifiers import ORGANIZATION
from gateway.settings import Settings

command = typer.Typer(help="What organizations have to spend.", no_args_is_help=True)


@command.command("show")
def show(organization: OrganizationId, as_json: AsJson = False) -> None:
    """Show balance, held and available credit."""

    owner = operator.require_id(ORGANIZATION, organization, "--organization")

    async def work(database: Database, _: Settings) -> wallets.Balance:
        async with database.pool.acquire() as connection:
            return await wallets.balance(connection, owner)

    _print(operator.run(work), as_json=as_json)


@command.command("credit")
def credit(
    organization: OrganizationId,
    usd: Annotated[str, typer.Option(help="Dollars, for example 5 or 0.25; negative takes free credit back.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    reference: Annotated[str, typer.Option(help="The same reference credits only once; default: a new one.")] = "",
    as_json: AsJson = False,
) -> None:
    """Give credit (promotional) or take it back (an adjustment), and show the wallet."""

    owner = operator.require_id(ORGANIZATION, organization, "--organization")

    async def work(database: Database, _: Settings) -> wallets.Balance:
        amount_micros = parse_usd(usd, negative_allowed=True)
        async with database.pool.acquire() as connection, connection.transaction():
            return await wallets.credit(
                connection,
                owner,
                amount_micros,
                kind=wallets.CreditKind.PROMOTIONAL if amount_micros > 0 else wallets.CreditKind.ADJUSTMENT,
                reference=reference or f"operator-{uuid4()}",
                reason=reason,
                actor="operator",
            )

    _print(operator.run(work), as_json=as_json)


def _print(balance: wallets.Balance, *, as_json: bool) -> None:

    amounts = {
        "balance_micros": balance.balance_micros,
        "held_micros": balance.held_micros,
        "available_micros": balance.available_micros,
    }
    if as_json:
        print_json(amounts)
    else:
        print_facts({name.removesuffix("_micros"): format_usd_short(value) for name, value in amounts.items()})
