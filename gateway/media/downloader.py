"""Fetch customers' picture URLs without being led anywhere they could not go themselves.

The check stands where the connection is made: the name is resolved once, every answer is checked, and the connection
goes to a checked address, so a name that changes its answer in between gains nothing. TLS still verifies the name.
"""

import asyncio
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin

import httpcore
import httpx

from gateway.media.addresses import AddressBook
from gateway.media.errors import AddressBlocked, DownloadFailed, PictureTooLarge, PictureUnreadable

REDIRECTS_MAX = 3
TOTAL_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 3.0
CONNECTIONS_MAX = 64
URL_CHARACTERS_MAX = 4_096
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS: dict[bytes | str, bytes | str] = {
    "user-agent": "sam3-gateway",
    "accept": "image/*",
    "accept-encoding": "identity",  # what unpacks to more than it weighs is not asked for
}


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self._book.require_port(port)
        addresses = await self._book.look_up(host.strip("[]"), port)
        stream = await self._backend.connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)
        peer = stream.get_extra_info("server_addr")
        if peer is None or not self._book.may_connect(ip_address(peer[0])):
            await stream.aclose()
            raise AddressBlocked("The URL leads into a private or reserved network, which is never fetched from here.")
        return stream

    async def connect_unix_socket(self, *_args: Any, **_options: Any) -> httpcore.AsyncNetworkStream:
        raise AddressBlocked("Unix sockets are never fetched from here.")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Downloader:
    """Fetches bytes from the open internet. `ssl_context` replaces the system's certificates."""

    def __init__(self, book: AddressBook, *, bytes_max: int, ssl_context: ssl.SSLContext | None = None) -> None:
        self._book = book
        self._bytes_max = bytes_max
        self._pool = httpcore.AsyncConnectionPool(
            network_backend=_GuardedBackend(book),
            ssl_context=ssl_context,
            max_connections=CONNECTIONS_MAX,
            max_keepalive_connections=0,  # the next request resolves and checks anew
        )

    async def fetch(self, url: str) -> bytes:
        """The body behind `url`, following at most three redirects, each checked like the first address.

        Raises PictureUnreadable for what is no http(s) URL, AddressBlocked, DownloadFailed and PictureTooLarge.
        """
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT_SECONDS):
                for _hop in range(REDIRECTS_MAX + 1):
                    answer = await self._get(_checked(url))
                    if isinstance(answer, bytes):
                        return answer
                    url = urljoin(url, answer)
        except TimeoutError:
            raise DownloadFailed(f"The picture was not delivered within {TOTAL_TIMEOUT_SECONDS:g} seconds.") from None
        except httpcore.TimeoutException:
            raise DownloadFailed("The picture's server did not answer in time.") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError):
            raise DownloadFailed("The connection to the picture's server failed.") from None
        raise DownloadFailed(f"The picture's URL redirects more than {REDIRECTS_MAX} times.")

    async def aclose(self) -> None:
        """Close connections."""
        await self._pool.aclose()
        self._book.close()

    async def _get(self, url: str) -> bytes | str:
        """The body, or where the server redirects to."""
        timeouts = {
            "connect": CONNECT_TIMEOUT_SECONDS,
            "read": TOTAL_TIMEOUT_SECONDS,
            "write": CONNECT_TIMEOUT_SECONDS,
            "pool": CONNECT_TIMEOUT_SECONDS,
        }
        async with self._pool.stream("GET", url, headers=_HEADERS, extensions={"timeout": timeouts}) as response:
            if response.status in _REDIRECTS:
                location = dict(response.headers).get(b"location") or dict(response.headers).get(b"Location")
                if not location:
                    raise DownloadFailed("The picture's server redirects to nowhere.")
                return location.decode("latin-1")
            if response.status != 200:
                raise DownloadFailed(f"The picture's server answered with status {response.status}.")
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > self._bytes_max:
                    raise PictureTooLarge(f"The picture behind the URL has more than {self._bytes_max // 2**20} MiB.")
            return bytes(body)


def _checked(url: str) -> str:
    """`url` in ASCII, if it is a plain http(s) one."""
    if len(url) > URL_CHARACTERS_MAX:
        raise PictureUnreadable(f"The URL is longer than {URL_CHARACTERS_MAX} characters.")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise PictureUnreadable("The picture's URL cannot be parsed.") from None
    if parsed.scheme not in ("http", "https"):
        raise AddressBlocked("Pictures are fetched over http and https only.")
    if parsed.userinfo:
        raise AddressBlocked("A picture's URL may not carry a user name or password.")
    if not parsed.host:
        raise PictureUnreadable("The picture's URL names no host.")
    return str(parsed.copy_with(fragment=None))
