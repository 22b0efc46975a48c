"""gateway deployments …"""

from typing import Annotated, Any

import httpx
import typer

from gateway.cli import operator
from gateway.cli.errors import CliError
from gateway.cli.output import AsJson, print_facts, print_json, print_table
from gateway.database import Database
from gateway.deployments import configured, list_switches, set_switch
from gateway.embedded.data_folder import DataFolder, running_gateway
from gateway.settings import Settings

command = typer.Typer(help="What serves the models: the pool and upstream providers.", no_args_is_help=True)

HEALTH_TIMEOUT_SECONDS = 5.0

Name = Annotated[str, typer.Argument(metavar="NAME", help="As shown by 'deployments list'.")]


@command.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show the deployments, first choice first, with their switches and how the running gateway finds them."""

    async def work(database: Database, settings: Settings) -> list[dict[str, Any]]:
        async with database.reading() as session:
            switches = {switch.name: switch for switch in await list_switches(session)}
        seen = await _health(settings)
        found = []
        for each in configured(settings):
            switch, health = switches.get(each.name), seen.get(each.name, {})
            found.append(
                {
                    "name": each.name,
                    "kind": each.kind,
                    "base_url": each.base_url,
                    "priority": each.priority,
                    "enabled": switch is None or switch.enabled,
                    "reason": switch.reason if switch is not None else None,
                    "breaker": health.get("breaker"),
                    "failure_share": health.get("failure_share"),
                    "models": health.get("models"),
                }
            )
        return found

    found = operator.run(work)
    if as_json:
        print_json(found)
        return
    columns = ("name", "kind", "base_url", "priority", "enabled", "reason", "breaker", "failure_share")
    print_table(
        ("name", "kind", "address", "priority", "enabled", "why", "breaker", "failing"),
        [[each[column] for column in columns] for each in found],
    )


@command.command("enable")
def enable(name: Name, as_json: AsJson = False) -> None:
    """Use a deployment again; every gateway notices within seconds."""
    _switch(name, enabled=True, reason=None, as_json=as_json)


@command.command("disable")
def disable(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; shown by 'deployments list'.")] = "",
    as_json: AsJson = False,
) -> None:
    """Leave a deployment out; calls that it is doing end as they would. Every gateway notices within seconds."""
    _switch(name, enabled=False, reason=reason[:200] or None, as_json=as_json)


def _switch(name: str, *, enabled: bool, reason: str | None, as_json: bool) -> None:
    async def work(database: Database, settings: Settings) -> None:
        known = [each.name for each in configured(settings)]
        if name not in known:
            raise CliError(f"There is no deployment '{name[:100]}'. Deployments: {', '.join(known)}.", exit_status=2)
        async with database.writing() as session:
            await set_switch(session, name, enabled=enabled, reason=reason)

    operator.run(work)
    facts = {"name": name, "enabled": enabled, "reason": reason}
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


async def _health(settings: Settings) -> dict[str, dict[str, Any]]:
    """What the running gateway knows of each deployment; nothing where none answers."""
    running = running_gateway(DataFolder(settings.data_dir))
    base_url = str((running or {}).get("base_url") or settings.base_url)
    try:
        async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT_SECONDS) as client:
            reports = (await client.get(f"{base_url}/readyz")).json()["deployments"]
        return {report["name"]: report for report in reports}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return {}
