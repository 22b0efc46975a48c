"""The network beneath httpx's clients for upstream providers: aiohttp's connections, at a fraction of the CPU.

`tests/benchmarks/upstream_client.py` has the figures. The errors are kept strictly apart, because what may be sent
again depends on them: ConnectError and ConnectTimeout say that nothing was sent, everything else that it may have been.
"""

import io
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import httpx

CONNECTIONS_MAX = 1024
KEEP_ALIVE_SECONDS = 30.0  # well below the pool's, so that no request is sent into a connection that is being closed
CHUNK_BYTES = 64 * 1024
WHOLE_BYTES_MAX = 256 * 1024  # more is written piece by piece, so that others get their turn

AddressCheck = Callable[[str, int], bool]
"""Whether this IP address and port may be connected to."""


class AddressRefused(OSError):
    """The address may not be connected to."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Connections that live as long as this object, to TCP addresses or to one unix socket; the first call opens them.

    With `may_connect` every address is checked where its socket is made, after the name was resolved: a name that
    changes its answer, a literal address and one in an odd spelling all come by here. `ssl_context` replaces the
    system's certificates. Proxies named in the environment are not used and cookies are not kept.
    """

    def __init__(
        self,
        *,
        may_connect: AddressCheck | None = None,
        ssl_context: ssl.SSLContext | None = None,
        unix_socket: str | None = None,
    ) -> None:
        assert unix_socket is None or may_connect is None, "a unix socket has no address to check"
        self._may_connect = may_connect
        self._ssl_context = ssl_context
        self._unix_socket = unix_socket
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; nothing is repeated and no redirect followed."""
        timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        body = await request.aread()
        try:
            answer = await self._opened().request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=io.BytesIO(body) if len(body) > WHOLE_BYTES_MAX else body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=timeouts.get("connect"), sock_read=timeouts.get("read")
                ),
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _translated(error, request) from error
        return httpx.Response(answer.status, headers=answer.raw_headers, stream=_Body(answer), request=request)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made inside the event loop that it belongs to."""
        if self._session is None:
            connector: aiohttp.BaseConnector
            if self._unix_socket is not None:
                connector = aiohttp.UnixConnector(
                    self._unix_socket, limit=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_SECONDS
                )
            else:
                connector = aiohttp.TCPConnector(
                    limit=CONNECTIONS_MAX,
                    keepalive_timeout=KEEP_ALIVE_SECONDS,
                    ssl=self._ssl_context or True,
                    socket_factory=self._checked_socket if self._may_connect is not None else None,
                )
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
            )
        return self._session

    def _checked_socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, target = address
        assert self._may_connect is not None, "without a check aiohttp makes its own sockets"
        if not self._may_connect(str(target[0]), int(target[1])):
            raise AddressRefused("the address lies in a private or reserved network")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


class _Body(httpx.AsyncByteStream):
    """The answer's bytes as they come."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._answer.content.iter_chunked(CHUNK_BYTES):
                yield chunk
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(str(error)) from error

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        self._answer.release() if self._answer.content.at_eof() else self._answer.close()


def _translated(error: Exception, request: httpx.Request) -> httpx.TransportError:
    """httpx's name for what went wrong before the answer's headers were there."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout(str(error), request=request)
        case aiohttp.ClientConnectorError() | aiohttp.InvalidURL() | AddressRefused():
            return httpx.ConnectError(str(error), request=request)
        case TimeoutError():
            return httpx.ReadTimeout(str(error), request=request)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientResponseError():
            return httpx.RemoteProtocolError(str(error), request=request)
        case _:
            return httpx.ReadError(str(error), request=request)
