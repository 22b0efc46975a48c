"""What a call through the gateway on a customer's own key costs beside the same call made directly to its provider.

    python -m tests.benchmarks.proxied_call [--seconds 4] [--rounds 2]

The provider is an OpenAI-compatible program without a model in a process of its own; the gateway, another process,
checks the key, limits, opens the sealed provider key, writes the prediction down before and after, and translates both
ways. Answers carry base64, so nothing is stored. CPU is that of the gateway's process; PostgreSQL's is not in it.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvicorn
import uvloop

from gateway.app import create_app
from gateway.database import Database
from gateway.http_protocol import http_protocol
from gateway.observability import configure_logging
from gateway.secrets_at_rest import Vault
from gateway.settings import Settings
from gateway.tenants.accounts import open_account
from gateway.tenants.api_keys import issue_key
from gateway.tenants.key_format import Peppers
from gateway.tenants.provider_credentials import NewCredential, attach
from tests.fakes.openai_upstream import OpenAIUpstream
from tests.fakes.upstream import GOOD_KEY
from tests.pictures import data_uri, picture
from tests.postgres import PostgresServer
from tests.running import listen

PEPPER = "a pepper for the benchmark, more than 32 characters"
KEK = "a key-encryption key for the benchmark, more than 32 characters"
MODEL = "meta/sam-3-image"
IN_FLIGHT = (1, 16)
BODY = {"model": MODEL, "prompt": "red circle", "image": data_uri(picture(320, 240)), "response_format": "b64_json"}


@dataclass(frozen=True)
class Measured:
    """One way of calling under one load."""

    way: str
    in_flight: int
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_seconds_per_1000: float


def serve(app: Callable[[], Any], listening: Any, options: Callable[[], dict[str, Any]]) -> None:
    """A program in a process of its own."""
    configure_logging(level="error", as_json=True)
    config = uvicorn.Config(app(), loop="uvloop", log_level="error", access_log=False, **options())
    uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def serving(app: Callable[[], Any], options: Callable[[], dict[str, Any]] = dict) -> Iterator[tuple[str, int]]:
    """Its base URL and process id, once it answers."""
    listening = listen()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(app, listening, options), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", process.pid
    finally:
        process.terminate()
        process.join(30)


async def prepare(dsn: str, base_url: str) -> str:
    """An organization without money but with an own key of the provider; its API key."""
    database = await Database.connect(dsn, pool_size=1)
    try:
        async with database.writing() as session:
            organization = await open_account(session, "Benchmark", requests_per_minute=10_000_000)
        async with database.writing() as session:
            issued = await issue_key(
                session, organization.id, peppers=Peppers([PEPPER]), name="benchmark", requests_per_minute=10_000_000
            )
            new = NewCredential(provider="openai", secret=GOOD_KEY, name="own", base_url=f"{base_url}/v1")
            await attach(session, organization.id, Vault([KEK]), new)
        return issued.key
    finally:
        await database.aclose()


def direct_form() -> aiohttp.FormData:
    """What the gateway sends to the provider, made by hand."""
    form = aiohttp.FormData()
    form.add_field("image", picture(320, 240), filename="image", content_type="image/png")
    fields = {"model": MODEL, "prompt": "red circle", "max_masks": "1", "n": "1", "response_format": "b64_json"}
    for name, value in fields.items():
        form.add_field(name, value)
    return form


async def measure(way: str, call: Callable[[], Any], pid: int, in_flight: int, seconds: float) -> Measured:
    """`in_flight` callers, one call after another each, for `seconds`; CPU of process `pid`."""
    process = psutil.Process(pid)
    await asyncio.gather(*(call() for _ in range(in_flight)))
    times: list[float] = []
    before, started = sum(process.cpu_times()[:2]), time.perf_counter()

    async def caller() -> None:
        while (began := time.perf_counter()) < started + seconds:
            await call()
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    spent, elapsed = sum(process.cpu_times()[:2]) - before, time.perf_counter() - started
    percentiles = statistics.quantiles(times, n=100)
    return Measured(
        way, in_flight, len(times) / elapsed, percentiles[49] * 1000, percentiles[98] * 1000, spent * 1000 / len(times)
    )


async def run(direct_url: str, gateway: tuple[str, int], key: str, seconds: float, rounds: int) -> list[Measured]:
    """Both ways under each load, in turn; the best of `rounds` by median time."""
    best: dict[tuple[str, int], Measured] = {}
    async with aiohttp.ClientSession() as session:

        async def post(url: str, token: str, **body: Any) -> None:
            async with session.post(url, headers={"authorization": f"Bearer {token}"}, **body) as answer:
                document = await answer.json()
                assert answer.status == 200, document

        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "direct": (lambda: post(f"{direct_url}/v1/images/edits", GOOD_KEY, data=direct_form()), os.getpid()),
            "through the gateway": (lambda: post(f"{gateway[0]}/v1/images/generations", key, json=BODY), gateway[1]),
        }
        for _ in range(rounds):
            for in_flight in IN_FLIGHT:
                for way, (call, pid) in ways.items():
                    measured = await measure(way, call, pid, in_flight, seconds)
                    if (way, in_flight) not in best or measured.p50_ms < best[way, in_flight].p50_ms:
                        best[way, in_flight] = measured
    return list(best.values())


async def until_ready(base_url: str) -> None:
    """Return once the gateway serves."""
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            try:
                async with session.get(f"{base_url}/healthz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    raise RuntimeError("the gateway does not answer")


def report(rows: list[Measured]) -> None:
    """A table, the overhead, and the same as one line of JSON."""
    print(f"{'way':<22}{'in flight':>10}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'gateway CPU s / 1,000':>24}")
    for row in sorted(rows, key=lambda row: (row.in_flight, row.way)):
        cpu = f"{row.cpu_seconds_per_1000:.3f}" if row.way != "direct" else "-"
        print(
            f"{row.way:<22}{row.in_flight:>10}{row.calls_per_second:>10.0f}{row.p50_ms:>9.2f}{row.p99_ms:>9.2f}{cpu:>24}"
        )
    by_load = {(row.way, row.in_flight): row for row in rows}
    for in_flight in IN_FLIGHT:
        added = by_load["through the gateway", in_flight].p50_ms - by_load["direct", in_flight].p50_ms
        print(f"added by the gateway at {in_flight} in flight: {added:.2f} ms")
    print(json.dumps([asdict(row) for row in rows]))


def main() -> None:
    """Start everything, measure, print."""
    parser = argparse.ArgumentParser(description="a proxied call beside a direct one")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    postgres = PostgresServer(durable=True)
    postgres.start()
    try:
        dsn = asyncio.run(postgres.migrated_database())
        with tempfile.TemporaryDirectory() as folder, serving(lambda: OpenAIUpstream().app) as (direct_url, _):
            settings = Settings(
                data_dir=Path(folder),
                database_url=dsn,
                pool_urls=["http://127.0.0.1:1"],
                key_pepper=PEPPER,
                media_signing_key="a signing key for the benchmark",
                key_encryption_key=KEK,
                picture_url_networks=["127.0.0.0/8"],
                picture_url_ports=[direct_url.rpartition(":")[2]],
            )
            key = asyncio.run(prepare(dsn, direct_url))

            def options() -> dict[str, Any]:
                return {"http": http_protocol(header_timeout_seconds=5, body_timeout_seconds=30), "lifespan": "on"}

            with serving(lambda: create_app(settings), options) as gateway:
                asyncio.run(until_ready(gateway[0]))
                rows = uvloop.run(run(direct_url, gateway, key, arguments.seconds, arguments.rounds))
        report(rows)
    finally:
        postgres.stop()


if __name__ == "__main__":
    main()
