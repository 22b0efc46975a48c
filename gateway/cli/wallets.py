"""gateway wallet …"""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import uuid4

import typer

from billing import wallets
from billing.money import format_usd_short, parse_usd
from billing.statements import PAGE_MAX, Filter, StatementPage
from billing.statements import statement as read_statement
from billing.wallets import CreditKind
from gateway.cli import operator
from gateway.cli.output import AsJson, OrganizationId, print_facts, print_json, print_table
from gateway.database import Database
from gateway.identifiers import ORGANIZATION
from gateway.settings import Settings

command = typer.Typer(help="What organizations have to spend.", no_args_is_help=True)

Reason = Annotated[str, typer.Option(help="Why; kept in the ledger.")]
Reference = Annotated[str, typer.Option(help="The same reference counts only once; default: a new one.")]


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
    reason: Reason,
    reference: Reference = "",
    as_json: AsJson = False,
) -> None:
    """Give credit (promotional) or take it back (an adjustment), and show the wallet."""

    kind = CreditKind.ADJUSTMENT if usd.strip().startswith("-") else CreditKind.PROMOTIONAL
    _give(organization, usd, kind, reason=reason, reference=reference, as_json=as_json)


@command.command("grant")
def grant(
    organization: OrganizationId,
    usd: Annotated[str, typer.Option(help="Dollars, for example 5 or 0.25.")],
    reason: Reason,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, help="When what is unused ends; default: never.")
    ] = None,
    reference: Reference = "",
    as_json: AsJson = False,
) -> None:
    """Give promotional credit, which is spent before paid credit, and show the wallet."""

    ending = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    _give(
        organization,
        usd,
        CreditKind.PROMOTIONAL,
        reason=reason,
        reference=reference,
        as_json=as_json,
        expires_at=ending,
    )


@command.command("adjust")
def adjust(
    organization: OrganizationId,
    usd: Annotated[str, typer.Option(help="Dollars, for example 5 or -0.25; negative takes free money only.")],
    reason: Reason,
    reference: Reference = "",
    as_json: AsJson = False,
) -> None:
    """Correct a wallet upwards or downwards, and show it."""

    _give(organization, usd, CreditKind.ADJUSTMENT, reason=reason, reference=reference, as_json=as_json)


@command.command("statement")
def statement(
    organization: OrganizationId,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_MAX, help="How many entries, newest first.")] = 50,
    before: Annotated[int | None, typer.Option(min=1, help="The number that the page read last ended with.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only entries of this kind; repeat.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened to a wallet, entry by entry, each with the balance after it."""

    owner = operator.require_id(ORGANIZATION, organization, "--organization")

    async def work(database: Database, _: Settings) -> StatementPage:
        async with database.pool.acquire() as connection:
            return await read_statement(connection, owner, before=before, only=Filter(kinds=kind), limit=limit)

    page = operator.run(work)
    if as_json:
        print_json({"lines": [asdict(line) for line in page.lines], "next_before": page.next_before})
        return
    print_table(
        ("time", "kind", "amount", "balance", "reference", "stripe id", "reason"),
        [
            (
                line.created_at,
                line.kind,
                format_usd_short(line.amount_micros),
                format_usd_short(line.balance_micros),
                line.reference,
                line.stripe_id,
                line.reason,
            )
            for line in page.lines
        ],
    )
    if page.next_before is not None:
        print_facts({"more with": f"--before {page.next_before}"})


def _give(
    organization: str,
    usd: str,
    kind: CreditKind,
    *,
    reason: str,
    reference: str,
    as_json: bool,
    expires_at: datetime | None = None,
) -> None:
    """Give or take, once per reference, and show the wallet."""
    owner = operator.require_id(ORGANIZATION, organization, "--organization")

    async def work(database: Database, _: Settings) -> wallets.Balance:
        amount_micros = parse_usd(usd, negative_allowed=kind is CreditKind.ADJUSTMENT)
        async with database.pool.acquire() as connection, connection.transaction():
            return await wallets.credit(
                connection,
                owner,
                amount_micros,
                kind=kind,
                reference=reference or f"operator-{uuid4()}",
                reason=reason,
                actor="operator",
                expires_at=expires_at,
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
