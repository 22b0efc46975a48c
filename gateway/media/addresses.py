"""Which addresses on the internet customers' URLs may lead to."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from gateway.media.errors import AddressBlocked, DownloadFailed

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

PORTS = frozenset({80, 443})
RESOLVE_TIMEOUT_SECONDS = 3.0
RESOLVER_THREADS = 8
ANSWERS_MAX = 32

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that is given out (IANA, "IPv6 Global Unicast Address Assignments")
_PUBLIC_BY_NAME_ONLY: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments; Python's releases differ about them
        "192.31.196.0/24",  # AS112, answers of last resort for names that should not have been asked for
        "192.52.193.0/24",  # AMT relays
        "192.88.99.0/24",  # 6to4 relays
        "192.175.48.0/24",  # AS112
        "2001::/23",  # among them Teredo, whose addresses carry an IPv4 one that need not be public
        "2002::/16",  # 6to4: likewise
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
"""Special-purpose networks (registries of RFC 6890) that `is_global` takes for public, at least in some releases."""


def is_public(address: Address) -> bool:
    """Whether the address belongs to the open internet in whatever way it is written."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in _GLOBAL_UNICAST:
            return False
    if any(address in network for network in _PUBLIC_BY_NAME_ONLY):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class AddressBook:
    """Turns a host name into addresses that may be connected to.

    `allow_networks` and `allow_ports` open more than the public internet, for installations whose pictures lie on
    their own network. `resolve` stands in for the system's resolver. Resolving blocks a thread, so it has a few of
    its own: a name server that hangs cannot use up anybody else's.
    """

    def __init__(
        self,
        *,
        allow_networks: Sequence[Network] = (),
        allow_ports: Sequence[int] = (),
        resolve: Resolve | None = None,
        resolve_timeout_seconds: float = RESOLVE_TIMEOUT_SECONDS,
    ) -> None:
        self._allow_networks = tuple(allow_networks)
        self._ports = PORTS | set(allow_ports)
        self._resolve = resolve or _system_resolve
        self._resolve_timeout_seconds = resolve_timeout_seconds
        self._executor = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolve")

    def may_connect(self, address: Address) -> bool:
        """Whether this address may be connected to."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return is_public(address) or any(address in network for network in self._allow_networks)

    def require_port(self, port: int) -> None:
        """Raise AddressBlocked for a port that pictures are not fetched from."""
        if port not in self._ports:
            raise AddressBlocked(f"Pictures are not fetched from port {port}; use https on its usual port.")

    async def look_up(self, host: str, port: int) -> list[Address]:
        """Every address of `host`, all of which may be connected to.

        One private address among public ones refuses them all: which of them is used later is not left to chance.
        Raises AddressBlocked, or DownloadFailed where the name has no address or none is told in time.
        """
        try:
            async with asyncio.timeout(self._resolve_timeout_seconds):
                loop = asyncio.get_running_loop()
                answers = await loop.run_in_executor(self._executor, self._resolve, host, port)
        except TimeoutError:
            raise DownloadFailed(f"The name '{host[:100]}' could not be resolved in time.") from None
        except (OSError, ValueError):  # ValueError: no name at all, such as one with a label of 64 letters
            raise DownloadFailed(f"The name '{host[:100]}' cannot be resolved.") from None
        addresses = [ip_address(answer) for answer in answers[:ANSWERS_MAX]]
        if not addresses:
            raise DownloadFailed(f"The name '{host[:100]}' has no address.")
        if not all(self.may_connect(address) for address in addresses):
            raise AddressBlocked("The URL leads into a private or reserved network, which is never fetched from here.")
        return addresses

    def close(self) -> None:
        """Let the resolver's threads go."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _system_resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
