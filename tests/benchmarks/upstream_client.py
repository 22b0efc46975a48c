"""What a call to an upstream costs: plain httpx, httpx over aiohttp's connections (ours), and aiohttp alone.

    python -m tests.benchmarks.upstream_client [--seconds 3] [--rounds 3]

The upstream is a process of its own that reads the body and answers with 2 KiB. CPU is that of the calling process
per 1,000 calls, which load from neighbours does not distort; the best of the rounds, taken in turn, is shown.
"""

import argparse
import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import aiohttp
import httpx
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from inference.transport import AiohttpTransport
from tests.running import listen

ANSWER = json.dumps({"rle": "1 1 " * 500}).encode()
BODIES_BYTES = (1_000, 200_000)
IN_FLIGHT = (1, 32)

Post = Callable[[bytes], Awaitable[int]]


@dataclass(frozen=True)
class Measured:
    """One client under one load."""

    client: str
    body_bytes: int
    in_flight: int
    calls_per_second: float
    cpu_seconds_per_1000: float


async def upstream(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, answer the same to everybody."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def serve(listening: socket.socket) -> None:
    """The upstream's process."""
    config = uvicorn.Config(upstream, log_level="warning", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listening])


async def measure(name: str, post: Post, body_bytes: int, in_flight: int, seconds: float) -> Measured:
    """`in_flight` callers, one call after another each, for `seconds`."""
    body = b"x" * body_bytes
    await asyncio.gather(*(post(body) for _ in range(in_flight)))
    calls, end = 0, time.perf_counter() + seconds
    started, cpu = time.perf_counter(), time.process_time()

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < end:
            assert await post(body) == len(ANSWER)
            calls += 1

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    spent = time.process_time() - cpu
    return Measured(name, body_bytes, in_flight, calls / (time.perf_counter() - started), spent * 1000 / calls)


async def run(url: str, seconds: float, rounds: int) -> list[Measured]:
    """Every client under every load; the best of `rounds` by CPU."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    best: dict[tuple[str, int, int], Measured] = {}
    async with (
        httpx.AsyncClient(limits=limits, trust_env=False) as plain,
        httpx.AsyncClient(transport=AiohttpTransport()) as ours,
        aiohttp.ClientSession() as alone,
    ):

        async def with_aiohttp(body: bytes) -> int:
            async with alone.post(url, data=body) as answer:
                return len(await answer.read())

        def with_httpx(client: httpx.AsyncClient) -> Post:
            async def post(body: bytes) -> int:
                return len((await client.post(url, content=body)).content)

            return post

        clients = {"httpx": with_httpx(plain), "httpx over aiohttp": with_httpx(ours), "aiohttp": with_aiohttp}
        for _ in range(rounds):
            for body_bytes in BODIES_BYTES:
                for in_flight in IN_FLIGHT:
                    for name, post in clients.items():
                        measured = await measure(name, post, body_bytes, in_flight, seconds)
                        key = (name, body_bytes, in_flight)
                        if key not in best or measured.cpu_seconds_per_1000 < best[key].cpu_seconds_per_1000:
                            best[key] = measured
    return list(best.values())


def main() -> None:
    """Print a table and, as the last line, the same as JSON."""
    parser = argparse.ArgumentParser(description="CPU of a call to an upstream, by client")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    listening = listen()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(listening,), daemon=True)
    process.start()
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        rows = uvloop.run(run(url, arguments.seconds, arguments.rounds))
    finally:
        process.terminate()
        process.join()
    print(f"{'client':<20}{'body':>9}{'in flight':>11}{'calls/s':>10}{'CPU s / 1,000':>15}")
    for row in rows:
        print(
            f"{row.client:<20}{row.body_bytes:>9}{row.in_flight:>11}{row.calls_per_second:>10.0f}"
            f"{row.cpu_seconds_per_1000:>15.3f}"
        )
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
