"""A web server that says what it is told, byte for byte, and a resolver that knows the names of the tests."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.pictures import picture

Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]
PICTURE = picture()
UNROUTED = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class PictureServer:
    """Answers each path with its reply, then hangs up; `connections` counts who came, `requests` what they sent."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {"/picture.png": ok(PICTURE)}
        self.connections = 0
        self.requests: list[str] = []
        self.port = 0

    @asynccontextmanager
    async def serve(self, address: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        """Listen on a free port of a loopback address."""
        handling: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._answer(reader, writer))
            handling.add(task)
            task.add_done_callback(handling.discard)

        server = await asyncio.start_server(accept, address, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()
            for task in tuple(handling):
                task.cancel()
            await asyncio.gather(*handling, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            reply = self.replies.get(head.split()[1], UNROUTED)
            if isinstance(reply, bytes):
                writer.write(reply)
                await writer.drain()
            else:
                await reply(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the visitor left
        finally:
            writer.close()


class Names:
    """A resolver: numbers mean themselves in every spelling of the C library, names what they are given.

    A name may have several answers, which are given one after the other; the last one is given ever after.
    """

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._names = {name: list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self._names.get(host.lower().rstrip("."))
        if answers is None:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            return [str(entry[4][0]) for entry in found]
        return list(answers.pop(0) if len(answers) > 1 else answers[0])


def ok(body: bytes, *headers: str, announced_bytes: int | None = None) -> bytes:
    """A response of status 200."""
    length = len(body) if announced_bytes is None else announced_bytes
    lines = ["HTTP/1.1 200 OK", f"content-length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, *, status: int = 302, header: str = "location") -> bytes:
    """A response that sends the visitor elsewhere."""
    return f"HTTP/1.1 {status} Elsewhere\r\n{header}: {location}\r\ncontent-length: 0\r\n\r\n".encode()
