"""Fetch customers' picture URLs without being led anywhere they could not go themselves.

The check stands where the connection is made: the name is resolved once, every answer is checked, and the connection
goes to a checked address, so a name that changes its answer in between gains nothing. TLS still verifies the name.
"""

import asyncio
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import httpcore
import httpx

from gateway.media.addresses import AddressBook
from gateway.media.errors import AddressBlocked, DownloadFailed, PictureTooLarge, PictureUnreadable
from gateway.refusals import Overloaded

REDIRECTS_MAX = 3
TOTAL_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 3.0
CONNECTIONS_MAX = 64
ADDRESSES_TRIED_MAX = 3
URL_CHARACTERS_MAX = 4_096
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PRIVATE = "The URL leads into a private or reserved network, which is never fetched from here."


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only; unix sockets it has none (the base class refuses them)."""

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
        addresses = await self._book.look_up(host, port)
        failure: Exception | None = None
        for address in addresses[:ADDRESSES_TRIED_MAX]:  # a host may have IPv6 addresses where we have no IPv6
            try:
                stream = await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            peer = stream.get_extra_info("server_addr")
            if peer is None or not self._book.may_connect(ip_address(peer[0])):
                await stream.aclose()
                raise AddressBlocked(_PRIVATE)
            return _ClosingStream(stream)
        assert failure is not None, "a name that is looked up has at least one address"
        raise failure


class _ClosingStream(httpcore.AsyncNetworkStream):
    """A connection that is closed too when its TLS handshake is given up; httpcore closes only those that fail."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except asyncio.CancelledError:
            await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class Downloader:
    """Fetches bytes from the open internet, at most CONNECTIONS_MAX at once.

    `ssl_context` replaces the certificates that servers are verified with; by default those of certifi, or what
    SSL_CERT_FILE names.
    """

    def __init__(
        self,
        book: AddressBook,
        *,
        bytes_max: int,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        total_timeout_seconds: float = TOTAL_TIMEOUT_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._book = book
        self._bytes_max = bytes_max
        self._total_timeout_seconds = total_timeout_seconds
        self._timeouts = {
            "connect": connect_timeout_seconds,
            "read": total_timeout_seconds,
            "write": connect_timeout_seconds,
            "pool": connect_timeout_seconds,
        }
        self._pool = httpcore.AsyncConnectionPool(
            network_backend=_GuardedBackend(book),
            ssl_context=ssl_context or httpx.create_ssl_context(),  # left out, httpcore reads them anew for each call
            max_connections=connections_max,
            max_keepalive_connections=0,  # the next request resolves and checks anew
        )

    async def fetch(self, url: str) -> bytes:
        """The body behind `url`, following at most three redirects, each checked like the first address.

        Raises PictureUnreadable for what is no http(s) URL, AddressBlocked, DownloadFailed and PictureTooLarge, and
        Overloaded while too many others are being fetched.
        """
        target = _checked(url)
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                for _hop in range(REDIRECTS_MAX + 1):
                    answer = await self._get(target)
                    if isinstance(answer, bytes):
                        return answer
                    target = _checked(answer, base=target)
        except TimeoutError:
            raise DownloadFailed(
                f"The picture was not delivered within {self._total_timeout_seconds:g} seconds."
            ) from None
        except httpcore.PoolTimeout:
            raise Overloaded("Too many pictures are being fetched at this moment. Send the call again.") from None
        except httpcore.TimeoutException:
            raise DownloadFailed("The picture's server did not answer in time.") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
            raise DownloadFailed("The connection to the picture's server failed.") from None
        raise DownloadFailed(f"The picture's URL redirects more than {REDIRECTS_MAX} times.")

    async def aclose(self) -> None:
        """Close connections."""
        await self._pool.aclose()
        self._book.close()

    async def _get(self, url: httpx.URL) -> bytes | str:
        """The body, or where the server redirects to."""
        # Handed over in parts, so that nobody parses the text a second time and finds another host in it.
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers: list[tuple[bytes, bytes]] = [
            (b"host", url.netloc),
            (b"user-agent", b"sam3-gateway"),
            (b"accept", b"image/*"),
            (b"accept-encoding", b"identity"),  # what unpacks to more than it weighs is not asked for
        ]
        async with self._pool.stream("GET", target, headers=headers, extensions={"timeout": self._timeouts}) as answer:
            received = {name.lower(): value for name, value in answer.headers}
            if answer.status in _REDIRECTS:
                location = received.get(b"location", b"").strip()
                if not location:
                    raise DownloadFailed("The picture's server redirects to nowhere.")
                return location.decode("utf-8", errors="replace")
            if answer.status != 200:
                raise DownloadFailed(f"The picture's server answered with status {answer.status}.")
            announced = received.get(b"content-length", b"")
            if announced.isdigit() and int(announced) > self._bytes_max:
                raise self._too_large()
            body = bytearray()
            async for chunk in answer.aiter_stream():
                body += chunk
                if len(body) > self._bytes_max:
                    raise self._too_large()
            return bytes(body)

    def _too_large(self) -> PictureTooLarge:
        return PictureTooLarge(f"The picture behind the URL has more than {self._bytes_max // 2**20} MiB.")


def _checked(url: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """`url`, which may be relative to `base`, if it is a plain http(s) one."""
    if len(url) > URL_CHARACTERS_MAX:
        raise PictureUnreadable(f"The URL is longer than {URL_CHARACTERS_MAX} characters.")
    try:
        parsed = httpx.URL(url) if base is None else base.join(url)
    except (httpx.InvalidURL, ValueError):
        raise PictureUnreadable("The picture's URL cannot be parsed.") from None
    if parsed.scheme not in ("http", "https"):
        raise AddressBlocked("Pictures are fetched over http and https only.")
    if parsed.userinfo:
        raise AddressBlocked("A picture's URL may not carry a user name or password.")
    if not parsed.host or parsed.port == 0:  # httpcore takes port 0 for the usual one
        raise PictureUnreadable("The picture's URL names no host, or port 0.")
    return parsed
