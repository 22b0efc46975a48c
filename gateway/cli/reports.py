"""gateway reports …"""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from billing import reports
from billing.connection import Connection
from billing.money import format_usd, format_usd_short
from gateway.account.csv_lines import Number, csv_lines
from gateway.cli import operator
from gateway.cli.errors import CliError
from gateway.cli.output import AsJson, print_json, print_table
from gateway.database import Database
from gateway.identifiers import ORGANIZATION, public_id
from gateway.settings import Settings

command = typer.Typer(help="What a month brought in (UTC).", no_args_is_help=True)

Month = Annotated[str, typer.Option(metavar="YYYY-MM", help="Which; default: this one.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]

Row = Mapping[str, Any]
"""A line of a report; names that end in `_micros` are amounts. Its texts are ours, none is a customer's."""


@command.command("revenue")
def revenue(month: Month = "", as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Show what each customer's work brought in, and promotional credit that ended unused."""

    async def read(connection: Connection, period: tuple[datetime, datetime]) -> list[Row]:
        return [
            {
                "organization": public_id(ORGANIZATION, line.owner_id),
                "charges": line.charges,
                "usage_micros": line.usage_micros,
                "breakage_micros": line.breakage_micros,
            }
            for line in await reports.revenue(connection, period)
        ]

    _print(_read(month, read), as_json=as_json, as_csv=as_csv)


@command.command("fees")
def fees(month: Month = "", as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Show fees charged and given back, what Stripe kept, and what is left."""

    async def read(connection: Connection, period: tuple[datetime, datetime]) -> list[Row]:
        found = reports.fees(await reports.movements(connection, period))
        amounts = {
            "charged on top-ups": found.charged_micros,
            "given back with refunds and disputes": -found.returned_micros,
            "kept by Stripe": -found.stripe_micros,
            "charged for disputes": -found.disputes_micros,
            "net": found.net_micros,
        }
        return [{"fees": name, "amount_micros": amount} for name, amount in amounts.items()]

    _print(_read(month, read), as_json=as_json, as_csv=as_csv)


@command.command("movements")
def movements(month: Month = "", as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Show all that moved, by kind of entry and account: the whole month, nothing left out."""

    async def read(connection: Connection, period: tuple[datetime, datetime]) -> list[Row]:
        return [
            {
                "kind": line.kind,
                "debit": line.debit,
                "credit": line.credit,
                "entries": line.entries,
                "amount_micros": line.amount_micros,
            }
            for line in await reports.movements(connection, period)
        ]

    _print(_read(month, read), as_json=as_json, as_csv=as_csv)


def _read(month: str, read: Callable[[Connection, tuple[datetime, datetime]], Awaitable[list[Row]]]) -> list[Row]:
    """The report's lines, all of one moment."""
    try:
        period = reports.month_of(month or f"{datetime.now(UTC):%Y-%m}")
    except ValueError:
        raise CliError(f"--month must be a month such as 2026-11, not '{month}'.", exit_status=2) from None

    async def work(database: Database, _: Settings) -> list[Row]:
        async with (
            database.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await read(connection, period)

    return operator.run(work)


def _print(rows: Sequence[Row], *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        print_json(rows)
    elif as_csv:
        names = [[name.replace("_micros", "_usd") for name in rows[0]]] if rows else []
        sys.stdout.write(csv_lines([*names, *([Number(cell) for cell in _cells(row, format_usd)] for row in rows)]))
    elif rows:
        print_table([name.removesuffix("_micros") for name in rows[0]], [_cells(row, format_usd_short) for row in rows])
    else:
        sys.stdout.write("Nothing in this month.\n")


def _cells(row: Row, format_amount: Callable[[int], str]) -> list[str]:
    return [format_amount(value) if name.endswith("_micros") else str(value) for name, value in row.items()]
