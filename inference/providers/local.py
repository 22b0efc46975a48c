"""The SAM 3 pools of this installation, over HTTP on a unix socket or a TCP address."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from inference.errors import (
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
    ProviderUnreachable,
)
from inference.frames import WireError
from inference.provider import EVERYTHING, Capabilities, Credential
from inference.task import SegmentResult, SegmentTask
from inference.transport import AiohttpTransport
from inference.wire import (
    DEADLINE_HEADER,
    MEDIA_TYPE,
    RESULT_BYTES_MAX,
    RETRY_AFTER_HEADER,
    decode_error,
    decode_result,
    encode_task,
)

_CONNECT_TIMEOUT_SECONDS = 2.0
_HEALTH_TIMEOUT_SECONDS = 2.0
_RETRY_AFTER_SECONDS_MAX = 60.0
_UNREACHABLE_RETRY_SECONDS = 1.0


class _Endpoint:
    """One pool process: its address, its connections, and how many calls it is working on for us."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None) -> None:
        self.url = url
        self.in_flight = 0
        address = urlsplit(url)
        if transport is None:
            path = address.path if address.scheme == "unix" else None
            if address.scheme not in ("http", "https", "unix") or path == "":
                raise ValueError(f"a pool's URL is http://host:port or unix:///path, not '{url}'")
            transport = AiohttpTransport(unix_socket=path)
        base_url = "http://pool" if address.scheme == "unix" else url
        # trust_env=False: a proxy meant for the internet must not carry pictures to the machine next door.
        self.client = httpx.AsyncClient(
            base_url=base_url, transport=transport, timeout=_HEALTH_TIMEOUT_SECONDS, trust_env=False
        )


class LocalPool:
    """Spreads calls over this installation's pools, least busy first. Connections live as long as it does."""

    def __init__(self, urls: Sequence[str], *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`urls` are http://host:port or unix:///path.sock; `transport` replaces the network. Raises ValueError."""
        if not urls:
            raise ValueError("a local pool needs at least one URL")
        self._endpoints = [_Endpoint(url, transport) for url in urls]

    def capabilities(self, model: str) -> Capabilities | None:
        """See Provider: everything. Which models a pool has weights for, it says when it is asked."""
        return EVERYTHING

    async def segment(
        self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        """Do `task` before `deadline` (seconds on the event loop's monotonic clock).

        A pool that certainly did not begin (unreachable, full, without the model) is passed over for the next one.
        Raises InputRejected, ProviderFailed, ProviderTimedOut, ProviderSaturated or ModelUnavailable.
        """
        body = encode_task(task)
        refusals: list[ProviderSaturated | ModelUnavailable] = []
        for endpoint in sorted(self._endpoints, key=lambda endpoint: endpoint.in_flight):
            endpoint.in_flight += 1
            try:
                return await _call(endpoint, body, deadline)
            except (ProviderSaturated, ModelUnavailable) as refusal:
                refusals.append(refusal)
            finally:
                endpoint.in_flight -= 1
        saturated = [refusal for refusal in refusals if isinstance(refusal, ProviderSaturated)]
        if saturated:
            raise min(saturated, key=lambda refusal: refusal.retry_after_seconds)
        raise refusals[0]

    async def health(self) -> list[dict[str, Any]]:
        """What each pool's /health says, with its "url"; {"url", "status": "unreachable"} where nothing answers."""
        return list(await asyncio.gather(*(_health(endpoint) for endpoint in self._endpoints)))

    async def aclose(self) -> None:
        """Close connections."""
        for endpoint in self._endpoints:
            await endpoint.client.aclose()


async def _call(endpoint: _Endpoint, body: bytes, deadline: float) -> SegmentResult:
    left = deadline - asyncio.get_running_loop().time()
    if left <= 0:
        raise ProviderTimedOut("The deadline had passed before the pool was asked.")
    headers = {"content-type": MEDIA_TYPE, DEADLINE_HEADER: str(int(left * 1000))}
    timeout = httpx.Timeout(left, connect=min(left, _CONNECT_TIMEOUT_SECONDS))
    try:
        async with (
            asyncio.timeout(left),
            endpoint.client.stream("POST", "/segment", content=body, headers=headers, timeout=timeout) as response,
        ):
            answer = await _read(response)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ProviderUnreachable(
            "The SAM 3 pool cannot be reached.", retry_after_seconds=_UNREACHABLE_RETRY_SECONDS
        ) from error
    except (TimeoutError, httpx.TimeoutException) as error:
        raise ProviderTimedOut("The SAM 3 pool did not answer in time.") from error
    except httpx.HTTPError as error:
        raise ProviderFailed("The connection to the SAM 3 pool broke off.") from error
    if response.status_code == httpx.codes.OK:
        try:
            return decode_result(answer)
        except WireError as error:
            raise ProviderFailed("The SAM 3 pool's answer cannot be read.") from error
    raise _refusal(response, answer)


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    total = 0
    async for part in response.aiter_bytes():
        total += len(part)
        if total > RESULT_BYTES_MAX:
            raise ProviderFailed("The SAM 3 pool's answer is too large.")
        parts.append(part)
    return b"".join(parts)


def _refusal(response: httpx.Response, answer: bytes) -> InferenceError:
    """The error that an answer other than 200 stands for."""
    try:
        error = decode_error(answer)
    except WireError:
        error = ProviderFailed(f"The SAM 3 pool answered with status {response.status_code}.")
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        milliseconds = response.headers.get(RETRY_AFTER_HEADER, "")
        seconds = int(milliseconds) / 1000 if milliseconds.isdigit() and len(milliseconds) < 10 else 1.0
        return ProviderSaturated(error.message, retry_after_seconds=min(seconds, _RETRY_AFTER_SECONDS_MAX))
    if response.is_client_error and isinstance(error, InputRejected | ModelUnavailable):
        return error
    return error if isinstance(error, ProviderFailed) else ProviderFailed(error.message)


async def _health(endpoint: _Endpoint) -> dict[str, Any]:
    try:
        response = await endpoint.client.get("/health")
        report = response.json()
        if not isinstance(report, dict):
            raise ValueError("not an object")
    except (httpx.HTTPError, ValueError):
        return {"url": endpoint.url, "status": "unreachable"}
    return {"url": endpoint.url, **report}
