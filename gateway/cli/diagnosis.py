"""gateway doctor"""

import asyncio
import os
import platform
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import asyncpg
import httpx
import psutil
import redis.asyncio as redis
import typer
from alembic.script import ScriptDirectory

import migrations.upgrade
from billing.errors import LedgerUnavailable
from billing.ledger import require_durable
from gateway.cli.errors import CliError
from gateway.cli.operator import database_dsn, load_settings
from gateway.cli.output import AsJson, print_json, print_table
from gateway.embedded.data_folder import DataFolder, running_gateway
from gateway.embedded.errors import EmbeddedError
from gateway.embedded.kept_secrets import read_secrets
from gateway.embedded.pool import running_pool_urls
from gateway.settings import Settings
from inference.providers.local import LocalPool

TIMEOUT_SECONDS = 5.0
FREE_BYTES_MINIMUM = 2 * 1024**3
CLOCK_DIFFERENCE_MAXIMUM_SECONDS = 2.0


class Verdict(StrEnum):
    """How a check ended."""

    FINE = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what, how it ended, and what was seen or has to be done."""

    check: str
    verdict: Verdict
    detail: str


def command(as_json: AsJson = False) -> None:
    """Check everything the gateway needs; the exit status is 1 if something is broken."""
    findings = asyncio.run(_examine())
    broken = any(finding.verdict is Verdict.FAILED for finding in findings)
    if as_json:
        print_json({"ok": not broken, "checks": [asdict(finding) for finding in findings]})
    else:
        print_table(("check", "", "seen"), [(each.check, each.verdict, each.detail) for each in findings])
    raise typer.Exit(1 if broken else 0)


async def _examine() -> list[Finding]:
    findings = [
        Finding(
            "program",
            Verdict.FINE,
            f"sam3-gateway {version('sam3-gateway')}, Python {sys.version.split()[0]}, "
            f"{platform.system()} {platform.machine()}",
        )
    ]
    try:
        settings = load_settings()
    except CliError as error:
        return [*findings, Finding("settings", Verdict.FAILED, str(error))]
    findings.append(Finding("settings", Verdict.FINE, f"serves on {settings.base_url}"))
    folder = DataFolder(settings.data_dir)
    findings += [_folder(folder), *_disk(folder), _secrets(settings, folder)]
    findings.append(await _gateway(settings, folder))
    findings += [finding async for finding in _database(settings)]
    findings += [finding async for finding in _pools(settings, folder)]
    findings.append(await _redis(settings))
    return findings


def _folder(folder: DataFolder) -> Finding:
    if not folder.path.exists():
        return Finding("data folder", Verdict.WARNING, f"{folder.path} does not exist yet; the first start makes it")
    if not os.access(folder.path, os.R_OK | os.W_OK | os.X_OK):
        return Finding("data folder", Verdict.FAILED, f"{folder.path} cannot be written by this user")
    return Finding("data folder", Verdict.FINE, str(folder.path))


def _disk(folder: DataFolder) -> list[Finding]:
    place = next(path for path in (folder.path, *folder.path.parents) if path.exists())
    free = psutil.disk_usage(str(place)).free
    verdict = Verdict.FINE if free >= FREE_BYTES_MINIMUM else Verdict.WARNING
    memory = psutil.virtual_memory()
    return [
        Finding("disk", verdict, f"{free / 2**30:.1f} GiB free"),
        Finding("memory", Verdict.FINE, f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available"),
    ]


def _secrets(settings: Settings, folder: DataFolder) -> Finding:
    if settings.key_pepper is not None and settings.media_signing_key is not None:
        return Finding("secrets", Verdict.FINE, "configured")
    try:
        kept = read_secrets(folder.secrets_file)
    except EmbeddedError as error:
        return Finding("secrets", Verdict.FAILED, str(error))
    if kept is None:
        return Finding("secrets", Verdict.WARNING, "not made yet; the first start makes them")
    if folder.secrets_file.stat().st_mode & 0o077:
        return Finding("secrets", Verdict.FAILED, f"{folder.secrets_file} can be read by others: chmod 600")
    return Finding("secrets", Verdict.FINE, f"kept in {folder.secrets_file}; back them up with the database")


async def _gateway(settings: Settings, folder: DataFolder) -> Finding:
    running = running_gateway(folder)
    base_url = str(running.get("base_url") if running is not None else settings.base_url)
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
            answer = await client.get(f"{base_url}/readyz")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        seen = f"nothing answers at {base_url} ({error or type(error).__name__})"
        return Finding(
            "gateway", Verdict.WARNING if running is None else Verdict.FAILED, f"{seen}; start it: deploy/run"
        )
    if answer.is_success:
        return Finding("gateway", Verdict.FINE, f"ready at {base_url}")
    return Finding("gateway", Verdict.FAILED, f"{base_url}/readyz answers with status {answer.status_code}")


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    try:
        dsn = database_dsn(settings)
    except CliError:
        yield Finding("database", Verdict.WARNING, "the embedded one runs only while the gateway does")
        return
    except EmbeddedError as error:
        yield Finding("database", Verdict.FAILED, str(error))
        return
    try:
        connection = await asyncpg.connect(dsn, timeout=TIMEOUT_SECONDS, command_timeout=TIMEOUT_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        yield Finding("database", Verdict.FAILED, f"cannot be reached: {error or type(error).__name__}")
        return
    try:
        server = await connection.fetchval("SHOW server_version")
        yield Finding("database", Verdict.FINE, f"PostgreSQL {str(server).split()[0]}")
        yield _clock(await connection.fetchval("SELECT clock_timestamp()"))
        try:
            await require_durable(connection)
            yield Finding("durability", Verdict.FINE, "what was confirmed survives a crash")
        except LedgerUnavailable as error:
            yield Finding("durability", Verdict.FAILED, str(error))
    finally:
        await connection.close()
    yield await asyncio.to_thread(_schema, dsn)


def _clock(database_time: datetime) -> Finding:
    difference = abs((datetime.now(UTC) - database_time).total_seconds())
    if difference > CLOCK_DIFFERENCE_MAXIMUM_SECONDS:
        return Finding("clock", Verdict.FAILED, f"{difference:.1f} s apart from the database's: synchronise both (NTP)")
    return Finding("clock", Verdict.FINE, f"{difference:.2f} s apart from the database's")


def _schema(dsn: str) -> Finding:
    newest = ScriptDirectory(Path(migrations.upgrade.__file__).parent).get_current_head()
    found = migrations.upgrade.current(dsn)
    if found == newest:
        return Finding("migrations", Verdict.FINE, f"at {found}, the newest")
    return Finding(
        "migrations", Verdict.FAILED, f"at {found or 'none'}, the newest is {newest}; gateway serve migrates"
    )


async def _pools(settings: Settings, folder: DataFolder) -> AsyncIterator[Finding]:
    urls = settings.pool_urls or running_pool_urls(folder)
    if not urls:
        yield Finding("pool", Verdict.WARNING, "the embedded one runs only while the gateway does")
        return
    try:
        pool = LocalPool(urls)
    except ValueError as error:
        yield Finding("pool", Verdict.FAILED, str(error))
        return
    try:
        for report in await pool.health():
            seen = ", ".join(f"{name} {report[name]}" for name in ("device", "checkpoint") if name in report)
            fine = report.get("status") == "ready"
            yield Finding(
                "pool", Verdict.FINE if fine else Verdict.FAILED, f"{report['url']}: {report['status']} {seen}"
            )
    finally:
        await pool.aclose()


async def _redis(settings: Settings) -> Finding:
    if settings.redis_url is None:
        return Finding("redis", Verdict.FINE, "not configured: limits hold within one process")
    try:
        client: redis.Redis = redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
        )
        async with client:
            await client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        return Finding("redis", Verdict.FAILED, f"cannot be reached, so each process limits alone: {error}")
    return Finding("redis", Verdict.FINE, "answers")
