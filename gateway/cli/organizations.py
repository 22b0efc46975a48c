"""gateway organizations …"""

from typing import Annotated

import typer

from gateway.cli import operator
from gateway.cli.output import AsJson, print_facts, print_json, print_table
from gateway.database import Database
from gateway.identifiers import ORGANIZATION, public_id
from gateway.settings import Settings
from gateway.tenants.accounts import open_account
from gateway.tenants.organizations import list_organizations
from gateway.tenants.tables import Organization

command = typer.Typer(help="Customers.", no_args_is_help=True)


@command.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What people call it.")] = "",
    name_option: Annotated[str, typer.Option("--name", help="The same as an option.")] = "",
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Limit over all its keys; default: the installation's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Open an account: an organization with an empty wallet."""

    async def work(database: Database, _: Settings) -> Organization:
        async with database.writing() as session:
            return await open_account(
                session, name or name_option or "organization", requests_per_minute=requests_per_minute
            )

    shown = _shown(operator.run(work))
    if as_json:
        print_json(shown)
    else:
        print_facts(shown)


@command.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show organizations, newest first."""

    async def work(database: Database, _: Settings) -> list[Organization]:
        async with database.reading() as session:
            return await list_organizations(session, limit=limit)

    found = [_shown(organization) for organization in operator.run(work)]
    if as_json:
        print_json(found)
    else:
        print_table(("id", "name", "status", "requests/min", "created"), [list(each.values()) for each in found])


def _shown(organization: Organization) -> dict[str, object]:

    return {
        "id": public_id(ORGANIZATION, organization.id),
        "name": organization.name,
        "status": str(organization.status),
        "requests_per_minute": organization.requests_per_minute,
        "created_at": organization.created_at,
    }
