"""gateway credentials …"""

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.account.provider_credentials import shown
from gateway.catalog import find_model
from gateway.cli import operator
from gateway.cli.errors import CliError
from gateway.cli.output import AsJson, OrganizationId, print_facts, print_json, print_table
from gateway.customer_keys import CustomerKeys
from gateway.database import Database
from gateway.identifiers import CREDENTIAL, KEY, ORGANIZATION
from gateway.refusals import ModelUnknown
from gateway.secrets_at_rest import SecretUnreadable, Vault
from gateway.settings import Settings
from gateway.tenants.organizations import get_organization
from gateway.tenants.provider_credentials import (
    POSITION_DEFAULT,
    NewCredential,
    attach,
    change,
    checked_credential,
    detach,
    find_owner,
    list_credentials,
    rewrap_some,
)
from gateway.tenants.tables import ProviderCredential
from gateway.upstreams import Upstreams, address_book

command = typer.Typer(help="Customers' own provider keys.", no_args_is_help=True)

CredentialId = Annotated[str, typer.Argument(metavar="CREDENTIAL_ID", help="cred_…, as shown by 'credentials list'.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only for this model; repeat. Default: all.")]
ApiKeys = Annotated[list[str] | None, typer.Option("--api-key", help="Only for this API key (key_…); repeat.")]


@command.command("add")
def add(
    organization: OrganizationId,
    provider: Annotated[str, typer.Option(help="openai, fal or wavespeed.")],
    base_url: Annotated[
        str | None, typer.Option(help="For openai: where the compatible API is, ending in /v1.")
    ] = None,
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
    model: Models = None,
    api_key: ApiKeys = None,
    position: Annotated[int, typer.Option(min=0, help="Lower ones are used first.")] = POSITION_DEFAULT,
    may_fall_back: Annotated[bool, typer.Option(help="Calls that it cannot serve may use paid credits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Attach a provider key, read from the terminal or standard input; it is checked first and never shown again."""
    owner = operator.require_id(ORGANIZATION, organization, "--organization")
    new = NewCredential(
        provider=provider,
        secret=_secret(),
        name=name,
        base_url=base_url,
        models=_canonical(model),
        api_keys=_key_ids(api_key),
        position=position,
        may_fall_back=may_fall_back,
    )

    async def work(database: Database, settings: Settings) -> ProviderCredential:
        checked = checked_credential(new, http_allowed=bool(settings.picture_url_networks))
        upstreams = Upstreams(settings, address_book(settings))
        keys = CustomerKeys(database.pool, operator.vault(settings), upstreams)
        try:
            async with database.reading() as session:
                await get_organization(session, owner)
            await keys.check(checked)
        finally:
            await upstreams.aclose()
        async with database.writing() as session:
            return await attach(session, owner, keys.vault, checked)

    _print(operator.run(work), as_json=as_json)


@command.command("list")
def list_(organization: OrganizationId, as_json: AsJson = False) -> None:
    """Show the provider keys of an organization, first choice first."""
    owner = operator.require_id(ORGANIZATION, organization, "--organization")

    async def work(database: Database, _: Settings) -> list[ProviderCredential]:
        async with database.reading() as session:
            await get_organization(session, owner)
            return await list_credentials(session, owner)

    found = [shown(record) for record in operator.run(work)]
    if as_json:
        print_json(found)
        return
    columns = ("id", "provider", "name", "last4", "position", "may_fall_back", "enabled", "last_error")
    print_table(
        ("id", "provider", "name", "key ends in", "position", "may fall back", "enabled", "last error"),
        [[each[column] for column in columns] for each in found],
    )


@command.command("update")
def update(
    credential_id: CredentialId,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    model: Models = None,
    api_key: ApiKeys = None,
    unpin: Annotated[bool, typer.Option("--unpin", help="For all models and API keys again.")] = False,
    position: Annotated[int | None, typer.Option(min=0, help="Lower ones are used first.")] = None,
    may_fall_back: Annotated[bool | None, typer.Option(help="Calls that it cannot serve may use paid credits.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Switch it on or off.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a provider key's pins, order or switch; holds everywhere within a second."""
    given = {
        "name": name,
        "models": _canonical(model),
        "api_keys": _key_ids(api_key),
        "position": position,
        "may_fall_back": may_fall_back,
        "enabled": enabled,
    }
    changes: dict[str, object] = {field: value for field, value in given.items() if value is not None}
    if unpin:
        changes |= {"models": None, "api_keys": None}
    owner_of = _owner(credential_id)

    async def work(database: Database, _: Settings) -> ProviderCredential:
        async with database.writing() as session:
            return await change(session, *await owner_of(session), changes)

    _print(operator.run(work), as_json=as_json)


@command.command("remove")
def remove(credential_id: CredentialId) -> None:
    """Delete a provider key; within a second the wallet pays again."""
    owner_of = _owner(credential_id)

    async def work(database: Database, _: Settings) -> None:
        async with database.writing() as session:
            await detach(session, *await owner_of(session))

    operator.run(work)


@command.command("rewrap")
def rewrap(as_json: AsJson = False) -> None:
    """Move every provider key to the current key-encryption key; then the previous one may be taken away."""

    async def work(database: Database, settings: Settings) -> int:
        vault, moved = operator.vault(settings), 0
        while True:
            async with database.writing() as session:
                some = await _rewrapped(session, vault)
            if not some:
                return moved
            moved += some

    moved = operator.run(work)
    if as_json:
        print_json({"rewrapped": moved})
    else:
        print_facts({"rewrapped": moved})


async def _rewrapped(session: AsyncSession, vault: Vault) -> int:
    try:
        return await rewrap_some(session, vault)
    except SecretUnreadable as error:
        raise CliError(f"A provider key cannot be opened: {error}.") from error


def _secret() -> str:
    """The key, never from the command line, where other users and the shell's history would see it."""
    if sys.stdin.isatty():
        return str(typer.prompt("Provider key", hide_input=True))
    return sys.stdin.readline().strip()


def _owner(credential_id: str) -> Callable[[AsyncSession], Awaitable[tuple[UUID, UUID]]]:
    """What finds a credential's organization: the operator may touch every one."""
    credential = operator.require_id(CREDENTIAL, credential_id, "CREDENTIAL_ID")

    async def owner(session: AsyncSession) -> tuple[UUID, UUID]:
        return await find_owner(session, credential), credential

    return owner


def _canonical(names: list[str] | None) -> list[str] | None:
    try:
        return [find_model(name).id for name in names] if names else None
    except ModelUnknown as error:
        raise CliError(str(error), exit_status=2) from error


def _key_ids(texts: list[str] | None) -> list[UUID] | None:
    return [operator.require_id(KEY, text, "--api-key") for text in texts] if texts else None


def _print(record: ProviderCredential, *, as_json: bool) -> None:
    facts: dict[str, Any] = shown(record)
    if as_json:
        print_json(facts)
    else:
        print_facts({name: facts[name] for name in ("id", "provider", "name", "last4", "fingerprint", "enabled")})
