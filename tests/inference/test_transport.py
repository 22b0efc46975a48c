"""The transport beneath upstream clients: what each failure is called, and where it refuses to go."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from inference.transport import AiohttpTransport

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[str]:
    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await handle(reader, writer)
        writer.close()

    listening = await asyncio.start_server(whole, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


def answering(answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return handle


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", httpx.ReadError),
        (b"\x00\x01\x02\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
async def test_a_connection_that_breaks_never_looks_as_if_nothing_was_sent(
    answer: bytes, expected: type[httpx.TransportError]
) -> None:
    async with server(answering(answer)) as url, httpx.AsyncClient(transport=AiohttpTransport()) as client:
        with pytest.raises(expected):
            await client.post(url, content=b"work")


async def test_nothing_there_is_a_connect_error() -> None:
    async with httpx.AsyncClient(transport=AiohttpTransport()) as client:
        for url in ("http://127.0.0.1:1/", "http://name.invalid/"):
            with pytest.raises(httpx.ConnectError):
                await client.get(url)


async def test_silence_is_a_read_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(silent) as url, httpx.AsyncClient(transport=AiohttpTransport()) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(url, timeout=httpx.Timeout(0.1, connect=5))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
async def test_an_address_that_may_not_be_connected_to_is_not(host: str) -> None:
    visits: list[int] = []

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(1)

    def is_public(address: str, _port: int) -> bool:
        return ipaddress.ip_address(address).is_global

    async with server(visited) as url:
        port = url.rpartition(":")[2]
        async with httpx.AsyncClient(transport=AiohttpTransport(may_connect=is_public)) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://{host}:{port}/")
    assert visits == []


async def test_redirects_are_not_followed_and_cookies_not_kept() -> None:
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: /x\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    transport = AiohttpTransport()
    async with server(handle) as url:
        for _ in range(2):
            answer = await transport.handle_async_request(httpx.Request("GET", url))
            assert answer.status_code == 302
            await answer.aread()
    await transport.aclose()
    assert len(seen) == 2
    assert b"cookie" not in seen[1].lower()
