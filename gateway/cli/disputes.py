"""gateway disputes …"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from billing.money import format_usd_short
from billing.payments import Dispute, list_disputes
from gateway.cli import operator
from gateway.cli.output import AsJson, print_json, print_table
from gateway.database import Database
from gateway.identifiers import ORGANIZATION, PAYMENT, public_id
from gateway.settings import Settings

command = typer.Typer(help="Payments that a bank disputes.", no_args_is_help=True)


@command.command("list")
def list_(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that are not decided.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show disputes, newest first. While one is open, its customer's wallet is frozen."""

    async def work(database: Database, _: Settings) -> Sequence[Dispute]:
        async with database.pool.acquire() as connection:
            return await list_disputes(connection, open_only=open_only, limit=limit)

    found = operator.run(work)
    if as_json:
        print_json([asdict(dispute) for dispute in found])
        return
    print_table(
        ("id", "organization", "payment", "amount", "withdrawn", "given back", "reason", "status", "since"),
        [
            (
                dispute.id,
                public_id(ORGANIZATION, dispute.owner_id),
                public_id(PAYMENT, dispute.payment_id),
                format_usd_short(dispute.amount_micros),
                format_usd_short(dispute.withdrawn_micros),
                format_usd_short(dispute.reinstated_micros),
                dispute.reason,
                dispute.status,
                dispute.created_at,
            )
            for dispute in found
        ],
    )
