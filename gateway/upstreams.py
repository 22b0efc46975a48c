"""The providers behind this installation: its own deployments from the settings, and ways for customers' keys."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from gateway.catalog import MODELS
from gateway.deployments import POOL
from gateway.media.addresses import AddressBook
from gateway.media.errors import AddressBlocked
from gateway.settings import Settings, UpstreamSettings
from inference.http import Timeouts, Upstream, UpstreamClient
from inference.provider import Credential, Deployment, KeyedProvider, Provider
from inference.providers.fal import Fal
from inference.providers.openai import OpenAIImages
from inference.providers.wavespeed import WaveSpeed
from inference.transport import AddressCheck, AiohttpTransport


class Upstreams:
    """Providers with connections that live as long as this object. Opened inside a running event loop.

    Addresses that the operator named are connected to as they are; those that a customer or a provider's answer named
    only as far as `book` allows.
    """

    def __init__(self, settings: Settings, book: AddressBook) -> None:
        self._settings = settings
        self._direct = AiohttpTransport()
        self._guarded = AiohttpTransport(may_connect=_check(book))
        self._outside = UpstreamClient(self._guarded)
        self._client = UpstreamClient(self._direct)

    def of_customer(self, provider: str, base_url: str | None) -> KeyedProvider:
        """The provider that a customer's own key is for; at an address that the customer named, if it is one."""
        if provider == "fal":
            return Fal(Upstream(self._settings.fal_url.rstrip("/"), self._client, self._outside))
        if provider == "wavespeed":
            return WaveSpeed(Upstream(self._settings.wavespeed_url.rstrip("/"), self._client, self._outside))
        assert base_url is not None, "only openai is left, and it has an address"
        return OpenAIImages(Upstream(base_url, self._outside, self._outside), generates=True)

    def deployments(self, pool: Provider) -> dict[str, list[Deployment]]:
        """The installation's deployments by model, in the order that the settings give for it."""
        every = [Deployment(POOL, pool, priority=self._settings.pool_priority)]
        every += [self._deployment(name, upstream) for name, upstream in self._settings.upstreams.items()]
        return {model.id: self._chain(model.id, every) for model in MODELS}

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()
        await self._outside.aclose()

    def _deployment(self, name: str, settings: UpstreamSettings) -> Deployment:
        timeouts = Timeouts(
            connect_seconds=settings.connect_timeout_seconds, first_byte_seconds=settings.first_byte_timeout_seconds
        )
        upstream = Upstream(
            self._settings.upstream_url(settings), UpstreamClient(self._direct, timeouts=timeouts), self._outside
        )
        provider: Provider
        match settings.kind:
            case "fal":
                provider = Fal(upstream, **({"apps": settings.names} if settings.names else {}))
            case "wavespeed":
                provider = WaveSpeed(upstream, **({"apps": settings.names} if settings.names else {}))
            case "openai":
                provider = OpenAIImages(
                    upstream, segments=settings.segments, generates=settings.generates, models=settings.names
                )
        return Deployment(
            name, provider, Credential(f"installation-{name}", settings.key.get_secret_value()), settings.priority
        )

    def _chain(self, model: str, every: Sequence[Deployment]) -> list[Deployment]:
        order = self._settings.deployment_order.get(model)
        if order is not None:
            by_name = {deployment.name: deployment for deployment in every}
            return [
                Deployment(name, by_name[name].provider, by_name[name].credential, priority)
                for priority, name in enumerate(order)
            ]
        return [
            deployment
            for deployment in every
            if deployment.provider.capabilities(model) is not None and self._serves(deployment.name, model)
        ]

    def _serves(self, name: str, model: str) -> bool:
        upstream = self._settings.upstreams.get(name)
        return upstream is None or upstream.models is None or model in upstream.models


def address_book(settings: Settings) -> AddressBook:
    """Where addresses that customers name may lead: the public internet, and what the settings open besides."""
    return AddressBook(
        allow_networks=[ip_network(network) for network in settings.picture_url_networks],
        allow_ports=[int(port) for port in settings.picture_url_ports],
    )


def _check(book: AddressBook) -> AddressCheck:
    def may_connect(address: str, port: int) -> bool:
        try:
            book.require_port(port)
        except AddressBlocked:
            return False
        return book.may_connect(ip_address(address.partition("%")[0]))

    return may_connect
