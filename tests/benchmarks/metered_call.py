"""What a metered call costs the gateway itself: keys, limits, hold, capture and record, around a provider that takes
no time.

    python -m tests.benchmarks.metered_call [--seconds 4] [--in-flight 1 16 64 256] [--json]

Everything is real but the provider: PostgreSQL with fsync on, the HTTP server, the OpenAI dialect, the ledger. Beside
it in the same run stands a bare ASGI program under the same server, which is what any Python gateway costs at least.
CPU is user + system seconds per 1,000 calls of the gateway's process, and of PostgreSQL's processes.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
import uvicorn

from billing import wallets
from gateway.app import create_app
from gateway.database import Database
from gateway.http_protocol import http_protocol
from gateway.observability import configure_logging
from gateway.settings import Settings
from gateway.tenants.accounts import open_account
from gateway.tenants.api_keys import issue_key
from gateway.tenants.key_format import Peppers
from inference.provider import EVERYTHING, Capabilities, Credential
from inference.task import Mask, SegmentResult, SegmentTask
from tests.pictures import data_uri, picture
from tests.postgres import PostgresServer
from tests.running import listen

PEPPER = "a pepper for benchmarks, of more than 32 characters"
CREDIT_MICROS = 10**12
LIMIT = 10_000_000


class InstantProvider:
    """Finds one mask in no time."""

    def capabilities(self, model: str) -> Capabilities | None:
        """Everything."""
        return EVERYTHING

    async def segment(
        self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        mask = Mask(rle="1 10", score=0.9, box=(0.0, 0.0, 10.0, 1.0))
        return SegmentResult(masks=(mask,), width=task.picture.width, height=task.picture.height)


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """The floor: read the body, answer a few bytes of JSON."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


def serve(what: str, dsn: str, folder: str) -> None:
    """The child: one gateway process, or the bare program. Says its port on standard output."""
    listening = listen()
    configure_logging(level="warning", as_json=True)
    settings = Settings.model_validate(
        {
            "data_dir": folder,
            "database_url": dsn,
            "pool_urls": ["http://127.0.0.1:1"],
            "key_pepper": PEPPER,
            "media_signing_key": "benchmark",
            "organization_requests_per_minute": LIMIT,
        }
    )
    app = bare if what == "bare" else create_app(settings, provider=InstantProvider())
    protocol: Any = "httptools" if what == "bare" else http_protocol(header_timeout_seconds=5, body_timeout_seconds=30)
    config = uvicorn.Config(
        app,
        http=protocol,
        loop="uvloop",
        lifespan="off" if what == "bare" else "on",
        log_level="error",
        access_log=False,
    )
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listening])


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement."""

    target: str
    in_flight: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    gateway_cpu_s_per_1000: float
    postgres_cpu_s_per_1000: float


async def load(port: int, request: bytes, *, in_flight: int, seconds: float) -> list[float]:
    """Latencies in seconds of every call that `in_flight` connections made, each one call at a time."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head + await reader.read(500)
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(in_flight)))
    return latencies


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of a process and its children, also of those that have ended."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
        if each is process:
            total += times.children_user + times.children_system
    return total


def measure(target: str, port: int, request: bytes, processes: list[psutil.Process], options: Any, width: int) -> Row:
    """One row of the table."""
    asyncio.run(load(port, request, in_flight=width, seconds=0.5))
    before = [cpu_seconds(process) for process in processes]
    started = time.perf_counter()
    latencies = asyncio.run(load(port, request, in_flight=width, seconds=options.seconds))
    elapsed = time.perf_counter() - started
    spent = [cpu_seconds(process) - then for process, then in zip(processes, before, strict=True)]
    percentiles = statistics.quantiles(latencies, n=100)
    thousands = len(latencies) / 1000
    return Row(
        target=target,
        in_flight=width,
        requests_per_second=len(latencies) / elapsed,
        p50_ms=percentiles[49] * 1000,
        p99_ms=percentiles[98] * 1000,
        gateway_cpu_s_per_1000=spent[0] / thousands,
        postgres_cpu_s_per_1000=spent[1] / thousands,
    )


@contextmanager
def child(what: str, dsn: str, folder: str) -> Iterator[tuple[int, psutil.Process]]:
    """A serving child, its port and process."""
    command = [sys.executable, "-m", "tests.benchmarks.metered_call", "--serve", what, "--dsn", dsn, "--folder", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            wait_for(port)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    """Return once somebody answers."""

    async def answered() -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = await reader.read()
        except OSError:
            return False
        return answer.startswith(b"HTTP/1.1 200")

    for _ in range(300):
        if asyncio.run(answered()):
            return
        time.sleep(0.1)
    raise RuntimeError("the program did not start")


async def account(dsn: str) -> str:
    """A key of an organization with much money."""
    database = await Database.connect(dsn, pool_size=2)
    async with database.writing() as session:
        organization = await open_account(session, "benchmark")
        issued = await issue_key(
            session, organization.id, peppers=Peppers([PEPPER]), name="benchmark", requests_per_minute=LIMIT
        )
    await database.aclose()
    connection = await asyncpg.connect(dsn)
    await wallets.credit(
        connection,
        organization.id,
        CREDIT_MICROS,
        kind=wallets.CreditKind.PROMOTIONAL,
        reference=str(uuid4()),
        reason="benchmark",
        actor="benchmark",
    )
    await connection.close()
    return issued.key


def request_bytes(key: str) -> bytes:
    """One call for run lengths of a small picture, as a client sends it."""
    body = json.dumps({"model": "meta/sam-3-image-rle", "prompt": "red circle", "image": data_uri(picture())})
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def run(options: Any) -> list[Row]:
    """All rows, target by target."""
    server = PostgresServer(durable=True)
    server.start()
    try:
        dsn = asyncio.run(server.migrated_database())
        request = request_bytes(asyncio.run(account(dsn)))
        rows = []
        postgres = psutil.Process(server.pid)
        with tempfile.TemporaryDirectory() as folder:
            for what in ("bare", "gateway"):
                with child(what, dsn, folder) as (port, process):
                    rows += [
                        measure(what, port, request, [process, postgres], options, width) for width in options.in_flight
                    ]
        return rows
    finally:
        server.stop()


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=["bare", "gateway"], help=argparse.SUPPRESS)
    parser.add_argument("--dsn", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.dsn, options.folder)
        return
    rows = run(options)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    print("target     in flight   calls/s   p50 ms   p99 ms   CPU ms per call: gateway   PostgreSQL")
    for row in rows:
        print(
            f"{row.target:<10} {row.in_flight:>9} {row.requests_per_second:>9.0f} {row.p50_ms:>8.1f} {row.p99_ms:>8.1f}"
            f"   {row.gateway_cpu_s_per_1000:>24.3f} {row.postgres_cpu_s_per_1000:>12.3f}"
        )


if __name__ == "__main__":
    main()
