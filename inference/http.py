"""Calls to upstream providers: every time limited, every answer bounded, every failure named for what it allows.

What may be tried elsewhere hangs on the class raised: ProviderUnreachable says that nothing was sent, ProviderFailed
and ProviderTimedOut that the work may have been done.
"""

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from inference.errors import (
    CredentialRefused,
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
    ProviderUnreachable,
)
from inference.wording import clean

ANSWER_BYTES_MAX = 64 * 1024 * 1024
PICTURE_BYTES_MAX = 64 * 1024 * 1024
INLINE_BYTES_MAX = 64 * 1024  # parsing and encoding less than this costs less than a change of thread
RETRY_AFTER_SECONDS_MAX = 60.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long an upstream may take to be connected to, and between one byte and the next; the deadline bounds all."""

    connect_seconds: float = 5.0
    first_byte_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, whatever its status."""

    provider: str
    status: int
    headers: httpx.Headers
    body: bytes

    async def json(self) -> Any:
        """The body as JSON. Raises ProviderFailed for anything else."""
        try:
            return await off_loop(json.loads, self.body, size_bytes=len(self.body))
        except (ValueError, RecursionError):
            raise ProviderFailed(f"{self.provider} answered with something that is not JSON.") from None

    async def json_object(self) -> dict[str, Any]:
        """The body as a JSON object. Raises ProviderFailed for anything else."""
        found = await self.json()
        if not isinstance(found, dict):
            raise ProviderFailed(f"{self.provider} answered with something that is not a JSON object.")
        return found

    @property
    def retry_after_seconds(self) -> float:
        """What the answer says about when to come back: 1 to 60 seconds."""
        try:
            seconds = float(self.headers.get("retry-after", ""))
        except ValueError:
            seconds = 1.0
        return min(max(seconds, 1.0), RETRY_AFTER_SECONDS_MAX) if math.isfinite(seconds) else 1.0


class UpstreamClient:
    """One way out to the network, with connections that live as long as it does.

    `transport` is where the bytes go; a guarded one makes this client fit for addresses that others name.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, *, timeouts: Timeouts | None = None) -> None:
        self._timeouts = timeouts or Timeouts()
        self._client = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)

    async def send(
        self,
        provider: str,
        method: str,
        url: str,
        *,
        deadline: float,
        headers: Mapping[str, str] | None = None,
        document: object = None,
        content: bytes | None = None,
        fields: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """The answer to one request; `document` is sent as JSON, `fields` and `files` as a form, `content` as it is.

        Raises ProviderUnreachable, ProviderTimedOut after `deadline` (event loop's clock), else ProviderFailed: also
        for an answer of more than `bytes_max`.
        """
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise ProviderTimedOut(f"The deadline had passed before {provider} was asked.")
        sent = {"accept-encoding": "identity", "user-agent": "sam3-gateway", **(headers or {})}
        if document is not None:
            size = sum(len(v) for v in document.values() if isinstance(v, str)) if isinstance(document, dict) else 0
            content = await off_loop(lambda: json.dumps(document, separators=(",", ":")).encode(), size_bytes=size)
            sent["content-type"] = "application/json"
        waits = httpx.Timeout(
            min(left, self._timeouts.first_byte_seconds), connect=min(left, self._timeouts.connect_seconds)
        )
        try:
            request = self._client.build_request(
                method, url, headers=sent, content=content, data=dict(fields) if fields else None, files=files,
                timeout=waits,
            )  # fmt: skip
            async with asyncio.timeout(left):
                response = await self._client.send(request, stream=True)
                try:
                    return Answer(provider, response.status_code, response.headers, await _read(response, bytes_max))
                finally:
                    await response.aclose()
        except _TooMuch:
            raise ProviderFailed(f"{provider} answered with more than {bytes_max} bytes.") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol):
            raise ProviderUnreachable(f"{provider} cannot be reached.") from None
        except (httpx.TimeoutException, TimeoutError):
            raise ProviderTimedOut(f"{provider} did not answer in time.") from None
        except (httpx.HTTPError, httpx.InvalidURL):
            raise ProviderFailed(f"The connection to {provider} broke.") from None

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a provider lives: `base_url` without a trailing slash, the client for it, and a guarded one for the rest.

    `outside` is used for every address that the provider's answers name on another host; keys never go there.
    """

    base_url: str
    client: UpstreamClient
    outside: UpstreamClient

    def client_for(self, url: str) -> UpstreamClient:
        """The client that may be sent to `url`: the upstream's own for its own host and port, else the guarded one."""
        return self.client if _origin(url) == _origin(self.base_url) else self.outside

    async def fetch(self, provider: str, url: str, *, deadline: float) -> bytes:
        """The picture that an answer points to, no redirects. Raises ProviderFailed and what `send` raises."""
        if _origin(url) is None:
            raise ProviderFailed(f"{provider} answered with an address that is none.")
        try:
            answer = await self.client_for(url).send(
                provider, "GET", url, deadline=deadline, bytes_max=PICTURE_BYTES_MAX
            )
        except ProviderUnreachable:  # the work is done, so this must not pass for work that never began
            raise ProviderFailed(f"{provider} answered with an address that cannot be fetched.") from None
        if answer.status != httpx.codes.OK:
            raise ProviderFailed(f"{provider} answered with an address that gives status {answer.status}.")
        return answer.body


def refusal(answer: Answer, said: str, *, secret: str) -> InferenceError:
    """What an answer other than success means, where the protocol says nothing more special; `said` its words."""
    words = clean(said, secrets=[secret]) or f"status {answer.status}"
    match answer.status:
        case 401 | 402 | 403:
            return CredentialRefused(answer.provider, words)
        case 404:
            return ModelUnavailable(f"{answer.provider} does not offer this model: {words}")
        case 429 | 503:
            return ProviderSaturated(
                f"{answer.provider} is busy: {words}", retry_after_seconds=answer.retry_after_seconds
            )
        case 400 | 413 | 415 | 422:
            return InputRejected(f"{answer.provider} refused the input: {words}")
        case _:
            return ProviderFailed(f"{answer.provider} failed with status {answer.status}: {words}")


def error_document(body: bytes) -> dict[str, Any]:
    """The JSON object that explains an error; empty for anything else, because the status says enough."""
    try:
        found = json.loads(body) if len(body) <= INLINE_BYTES_MAX else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


async def off_loop(work: Callable[..., _T], *arguments: object, size_bytes: int) -> _T:
    """The result of `work`, in another thread where it is large enough to hold up everybody else."""
    if size_bytes <= INLINE_BYTES_MAX:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


class _TooMuch(Exception):
    """The answer does not end."""


async def _read(response: httpx.Response, bytes_max: int) -> bytes:
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > bytes_max:
        raise _TooMuch
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise httpx.DecodingError("compressed although that was not asked for")  # it may unpack to any size
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > bytes_max:
            raise _TooMuch
    return bytes(body)


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an http(s) URL without credentials; None for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port
