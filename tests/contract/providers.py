"""Every upstream provider with a small program that speaks its protocol."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from inference.http import Timeouts, Upstream, UpstreamClient
from inference.provider import KeyedProvider
from inference.providers.fal import Fal
from inference.providers.openai import OpenAIImages
from inference.providers.wavespeed import WaveSpeed
from inference.transport import AiohttpTransport
from tests.fakes import upstream as fake
from tests.fakes.fal_upstream import FalUpstream
from tests.fakes.openai_upstream import OpenAIUpstream
from tests.fakes.wavespeed_upstream import WaveSpeedUpstream
from tests.running import RunningProgram


@dataclass(frozen=True)
class Kind:
    """A provider and the program to try it on."""

    name: str
    upstream: Callable[[], Any]
    provider: Callable[[Upstream], KeyedProvider]
    path: str = ""

    def __repr__(self) -> str:
        return self.name


KINDS = (
    Kind("openai", OpenAIUpstream, lambda upstream: OpenAIImages(upstream, generates=True), "/v1"),
    Kind("fal", FalUpstream, Fal),
    Kind("wavespeed", WaveSpeedUpstream, WaveSpeed),
)


@dataclass(frozen=True)
class Pair:
    """A provider, and the upstream that it speaks to."""

    kind: Kind
    provider: KeyedProvider
    upstream: fake.Upstream


@asynccontextmanager
async def pair_of(kind: Kind, *, timeouts: Timeouts | None = None) -> AsyncIterator[Pair]:
    """Both, on a real socket. Addresses outside of the upstream's own are refused altogether."""
    upstream = kind.upstream()
    client = UpstreamClient(AiohttpTransport(), timeouts=timeouts)
    outside = UpstreamClient(AiohttpTransport(may_connect=lambda _address, _port: False))
    try:
        with RunningProgram(upstream.app) as program:
            try:
                yield Pair(kind, kind.provider(Upstream(f"{program.base_url}{kind.path}", client, outside)), upstream)
            finally:
                upstream.release()
                await client.aclose()
    finally:
        await outside.aclose()
