"""The embedded pool: ready when it says so, back when it dies, gone with us."""

import asyncio
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.embedded.errors import StartError
from gateway.embedded.pool import EmbeddedPool, PoolOptions

PROGRAM = Path(__file__).with_name("stands_for_pool.py")
BACK_TIMEOUT_SECONDS = 30


def options(*arguments: str) -> PoolOptions:
    return PoolOptions(device="cpu", checkpoint=Path("/weights"), command=(sys.executable, str(PROGRAM), *arguments))


async def health(url: str) -> dict[str, object]:
    transport = httpx.AsyncHTTPTransport(uds=url.removeprefix("unix://"))
    async with httpx.AsyncClient(transport=transport) as client:
        answer: dict[str, object] = (await client.get("http://pool/health")).json()
        return answer


async def test_it_is_ready_when_started_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEY_PEPPER", "not for the pool")
    pool = EmbeddedPool(tmp_path, options())
    (url,) = await pool.start()
    seen = (await health(url))["seen"]
    assert seen == {
        "GATEWAY_POOL_DEVICE": "cpu",
        "GATEWAY_POOL_SOCKET": url.removeprefix("unix://"),
        "GATEWAY_POOL_CHECKPOINT": "/weights",
    }
    (pid,) = pool.pids
    await pool.stop()
    assert not psutil.pid_exists(pid)
    assert not Path(url.removeprefix("unix://")).exists()


async def test_one_that_dies_is_started_again(tmp_path: Path) -> None:
    pool = EmbeddedPool(tmp_path, options())
    (url,) = await pool.start()
    (first,) = pool.pids
    psutil.Process(first).kill()

    async def other() -> object:
        while True:
            try:
                if (found := (await health(url))["pid"]) != first:
                    return found
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)

    second = await asyncio.wait_for(other(), BACK_TIMEOUT_SECONDS)
    assert pool.pids == [second]
    await pool.stop()
    assert not psutil.pid_exists(int(str(second)))


async def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    pool = EmbeddedPool(tmp_path, options("refuse"))
    with pytest.raises(StartError, match="the weights are not there"):
        await pool.start()
    assert pool.pids == []
