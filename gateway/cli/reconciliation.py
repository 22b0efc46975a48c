"""gateway reconcile"""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from billing.ledger import Difference, reconcile
from billing.stripe_reconciliation import unexplained
from gateway.cli import operator
from gateway.cli.output import AsJson, print_json, print_table
from gateway.cli.stripe_account import is_configured, opened_payments
from gateway.database import Database
from gateway.settings import Settings


def command(
    recent: Annotated[
        bool, typer.Option("--recent", help="Read only what is newer than each wallet's snapshot; much faster.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove the books: wallets, holds, key spend, payments and credit against their entries, and against Stripe's.

    Exits with 1 and names every difference if there is one.
    """

    async def work(database: Database, settings: Settings) -> list[Difference]:
        async with database.pool.acquire() as connection:
            in_books = await reconcile(connection, recent_only=recent)
            if not is_configured(settings):
                return [*in_books, *await unexplained(connection)]
        async with opened_payments(settings, database.pool) as payments:
            return [*in_books, *(await payments.reconciliation.run()).differences]

    found = operator.run(work)
    if as_json:
        print_json({"sound": not found, "differences": [asdict(difference) for difference in found]})
    elif found:
        print_table(("check", "what", "expected", "found"), [tuple(asdict(each).values()) for each in found])
        sys.stdout.write(f"{len(found)} difference(s).\n")
    else:
        sys.stdout.write("All is well: every stored sum agrees with the entries behind it.\n")
    if found:
        raise typer.Exit(1)
