"""gateway keys …"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from billing.money import parse_usd
from gateway.catalog import find_model
from gateway.cli import operator
from gateway.cli.errors import CliError
from gateway.cli.output import AsJson, OrganizationId, print_facts, print_json, print_table
from gateway.database import Database
from gateway.identifiers import KEY, ORGANIZATION, public_id
from gateway.refusals import ModelUnknown
from gateway.settings import Settings
from gateway.tenants.api_keys import IssuedKey, find_key, issue_key, list_keys, revoke_key, rotate_key
from gateway.tenants.organizations import get_organization
from gateway.tenants.tables import ApiKey, SpendCapPeriod

command = typer.Typer(help="API keys of organizations.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="key_…, as shown by 'keys list'.")]


@command.command("create")
def create(
    organization: OrganizationId,
    name: Annotated[str, typer.Option(help="What people call it.")] = "key",
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Limit of this key; default: the installation's.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use; repeat. Default: every one.")
    ] = None,
    spend_cap_usd: Annotated[str | None, typer.Option(help="How much it may spend, in dollars.")] = None,
    spend_cap_period: Annotated[
        SpendCapPeriod, typer.Option(help="When that starts again (UTC).")
    ] = SpendCapPeriod.NEVER,
    expires_in_days: Annotated[float | None, typer.Option(min=0, help="When it stops working.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key. It is shown once, here."""

    owner = operator.require_id(ORGANIZATION, organization, "--organization")

    async def work(database: Database, settings: Settings) -> IssuedKey:
        async with database.writing() as session:
            return await issue_key(
                session,
                owner,
                peppers=operator.peppers(settings),
                name=name,
                allowed_models=_canonical(model),
                requests_per_minute=requests_per_minute,
                spend_cap_micros=None if spend_cap_usd is None else parse_usd(spend_cap_usd),
                spend_cap_period=spend_cap_period,
                expires_at=None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days),
            )

    _print_issued(operator.run(work), as_json=as_json)


@command.command("list")
def list_(organization: OrganizationId, as_json: AsJson = False) -> None:
    """Show the keys of an organization, newest first; the keys themselves are not kept."""

    owner = operator.require_id(ORGANIZATION, organization, "--organization")

    async def work(database: Database, _: Settings) -> list[ApiKey]:
        async with database.reading() as session:
            await get_organization(session, owner)
            return await list_keys(session, owner)

    found = [_shown(record) for record in operator.run(work)]
    if as_json:
        print_json(found)
        return
    columns = ("id", "name", "hint", "requests_per_minute", "created_at", "last_used_at", "status")
    print_table(
        ("id", "name", "key", "requests/min", "created", "last used", "status"),
        [[each[column] for column in columns] for each in found],
    )


@command.command("rotate")
def rotate(
    key_id: KeyId,
    organization: Annotated[str, typer.Option("--organization", metavar="ID", help="Only if it is this one's.")] = "",
    grace_seconds: Annotated[int, typer.Option(min=0, help="How long the old key still works.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Replace a key by a new one with the same rights. It is shown once, here."""

    owner_of = _owner(key_id, organization)

    async def work(database: Database, settings: Settings) -> IssuedKey:
        async with database.writing() as session:
            owner, key = await owner_of(session)
            return await rotate_key(
                session, owner, key, peppers=operator.peppers(settings), grace_seconds=grace_seconds
            )

    _print_issued(operator.run(work), as_json=as_json)


@command.command("revoke")
def revoke(
    key_id: KeyId,
    organization: Annotated[str, typer.Option("--organization", metavar="ID", help="Only if it is this one's.")] = "",
    as_json: AsJson = False,
) -> None:
    """Take a key back for good; it is refused everywhere within ten seconds."""

    owner_of = _owner(key_id, organization)

    async def work(database: Database, _: Settings) -> ApiKey:
        async with database.writing() as session:
            return await revoke_key(session, *await owner_of(session))

    shown = _shown(operator.run(work))
    if as_json:
        print_json(shown)
    else:
        print_facts({name: shown[name] for name in ("id", "name", "hint", "status")})


def _owner(key_id: str, organization: str) -> Callable[[AsyncSession], Awaitable[tuple[UUID | None, UUID]]]:
    """What finds a key's organization, if none was named: the operator may touch every key."""

    key = operator.require_id(KEY, key_id, "KEY_ID")
    named = operator.require_id(ORGANIZATION, organization, "--organization") if organization else None

    async def owner(session: AsyncSession) -> tuple[UUID | None, UUID]:
        return (named or (await find_key(session, key)).organization_id), key

    return owner


def _canonical(names: list[str] | None) -> list[str] | None:
    """Models by their own names, aliases resolved."""

    try:
        return [find_model(name).id for name in names] if names else None
    except ModelUnknown as error:
        raise CliError(str(error), exit_status=2) from error


def _print_issued(issued: IssuedKey, *, as_json: bool) -> None:
    shown = _shown(issued.record)
    if as_json:
        print_json({"key": issued.key, **shown})
        return
    print_facts({"key": issued.key, "id": shown["id"], "name": shown["name"], "expires": shown["expires_at"]})
    typer.echo("Keep the key now: it is not stored and cannot be shown again.", err=True)


def _shown(record: ApiKey) -> dict[str, object]:

    status = "active"
    if record.revoked_at is not None:
        status = "revoked"
    elif record.expires_at is not None and record.expires_at <= datetime.now(UTC):
        status = "expired"
    owner = record.organization_id
    return {
        "id": public_id(KEY, record.id),
        "organization_id": None if owner is None else public_id(ORGANIZATION, owner),
        "name": record.name,
        "hint": record.hint,
        "status": status,
        "requests_per_minute": record.requests_per_minute,
        "allowed_models": record.allowed_models,
        "spend_cap_micros": record.spend_cap_micros,
        "spend_cap_period": str(record.spend_cap_period),
        "expires_at": record.expires_at,
        "created_at": record.created_at,
        "last_used_at": record.last_used_at,
    }
