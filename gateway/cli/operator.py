"""The operator's way to the records: the database that the gateway of the same data folder uses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from billing.errors import BillingError
from gateway.cli.errors import CliError
from gateway.database import Database
from gateway.embedded.data_folder import DataFolder, running_gateway
from gateway.embedded.errors import EmbeddedError
from gateway.embedded.kept_secrets import read_secrets
from gateway.embedded.postgres import embedded_dsn
from gateway.identifiers import parse_id
from gateway.secrets_at_rest import Vault
from gateway.settings import Settings
from gateway.tenants.errors import TenantError
from gateway.tenants.key_format import Peppers

Result = TypeVar("Result")


def load_settings() -> Settings:
    """The settings in force. Raises CliError naming the variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        raise CliError("; ".join(_explained(error))) from None


def run(work: Callable[[Database, Settings], Coroutine[Any, Any, Result]]) -> Result:
    """Do `work` on the database, with every expected failure as a CliError."""
    settings = load_settings()

    async def connected() -> Result:
        async with open_database(settings) as database:
            return await work(database, settings)

    try:
        return asyncio.run(connected())
    except (TenantError, BillingError, EmbeddedError) as error:
        raise CliError(str(error)) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as error:
        raise CliError(f"The database does not answer as expected: {_first_line(error)}") from error


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The database that `settings` names, else the embedded one of the running gateway.

    Raises CliError where that one does not run, and what connecting raises.
    """
    database = await Database.connect(database_dsn(settings), pool_size=1)
    try:
        yield database
    finally:
        await database.aclose()


def database_dsn(settings: Settings) -> str:
    """The address of that database. Raises CliError where it does not run and EmbeddedError where it is unusable."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    folder = DataFolder(settings.data_dir)
    if running_gateway(folder) is None:
        raise CliError(
            f"No gateway is running on the data folder {folder.path}. Start it with deploy/run (or: gateway serve), "
            "name another folder in GATEWAY_DATA_DIR, or a database in GATEWAY_DATABASE_URL."
        )
    return embedded_dsn(folder.path)


def peppers(settings: Settings) -> Peppers:
    """The secrets that keys are hashed with: configured, or those that the gateway keeps in the data folder.

    They are never made here: keys hashed with others than the gateway's would open nothing.
    """
    if settings.key_pepper is not None:
        return Peppers(settings.peppers)
    kept = read_secrets(DataFolder(settings.data_dir).secrets_file)
    if kept is None:
        raise CliError(
            "There is no secret to hash keys with: set GATEWAY_KEY_PEPPER as for the gateway, or use its data folder."
        )
    previous = settings.previous_key_pepper
    return Peppers([kept["key_pepper"], *([previous.get_secret_value()] if previous is not None else [])])


def vault(settings: Settings) -> Vault:
    """What provider keys are sealed with: configured, or kept in the gateway's data folder. Raises CliError."""
    if settings.key_encryption_key is not None:
        return Vault(settings.key_encryption_keys)
    kept = read_secrets(DataFolder(settings.data_dir).secrets_file)
    if kept is None:
        raise CliError(
            "There is no secret to seal provider keys with: set GATEWAY_KEY_ENCRYPTION_KEY as for the gateway, or use "
            "its data folder."
        )
    previous = settings.previous_key_encryption_key
    return Vault([kept["key_encryption_key"], *([previous.get_secret_value()] if previous is not None else [])])


def require_id(prefix: str, text: str, option: str) -> UUID:
    """The id behind `org_…`, `key_…` or a plain UUID. Raises CliError (wrong usage)."""
    found = parse_id(prefix, text)
    if found is None:
        try:
            return UUID(text)
        except ValueError:
            raise CliError(f"{option} must be an id such as {prefix}_0198c1…, not '{text}'.", exit_status=2) from None
    return found


def _explained(error: ValidationError) -> list[str]:
    return [
        f"{'_'.join(['GATEWAY', *(str(part).upper() for part in found['loc'])]) if found['loc'] else 'settings'}: "
        f"{found['msg'].removeprefix('Value error, ')}"
        for found in error.errors(include_url=False, include_input=False)
    ]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
