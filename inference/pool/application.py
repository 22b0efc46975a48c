"""The pool over HTTP: a plain ASGI application with three routes.

    POST /segment   a task frame in, a result or error frame out (inference/wire.py)
    GET  /health    JSON; 200 when ready, 503 while loading or draining
    GET  /metrics   Prometheus text

A request is refused before its body is read if there is no room or its deadline is too near.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from inference.errors import (
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
)
from inference.frames import WireError
from inference.pool.metrics import PoolMetrics
from inference.wire import (
    DEADLINE_HEADER,
    MEDIA_TYPE,
    RETRY_AFTER_HEADER,
    TASK_BYTES_MAX,
    decode_task,
    encode_error,
    encode_result,
)

if TYPE_CHECKING:  # these import torch, which takes seconds, and /health is to answer meanwhile
    from inference.pool.job import Job
    from inference.pool.models import LoadedModels
    from inference.pool.pipeline import Pipeline

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class PoolState(StrEnum):
    """What /health says first."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class _TooLarge(Exception):
    """The body exceeds TASK_BYTES_MAX."""


class _CallerGone(Exception):
    """The connection ended before the answer."""


_STATUS: tuple[tuple[type[InferenceError], HTTPStatus], ...] = (
    (InputRejected, HTTPStatus.BAD_REQUEST),
    (ModelUnavailable, HTTPStatus.NOT_FOUND),
    (ProviderSaturated, HTTPStatus.SERVICE_UNAVAILABLE),
    (ProviderTimedOut, HTTPStatus.GATEWAY_TIMEOUT),
    (InferenceError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


class PoolApplication:
    """ASGI callable. It starts without weights; `serve` hands them over once they are loaded."""

    def __init__(self, *, default_deadline_seconds: float) -> None:
        self.state = PoolState.LOADING
        self.metrics = PoolMetrics()
        self._default_deadline_seconds = default_deadline_seconds
        self._models: LoadedModels | None = None
        self._pipeline: Pipeline | None = None
        self._checkpoint = ""
        self._started = time.monotonic()

    def serve(self, models: "LoadedModels", pipeline: "Pipeline", checkpoint: str) -> None:
        """Begin to accept requests."""
        self._models, self._pipeline, self._checkpoint = models, pipeline, checkpoint
        if self.state is PoolState.LOADING:
            self.state = PoolState.READY

    def close(self, timeout_seconds: float) -> None:
        """End the stages' threads; what is still held after `timeout_seconds` is left behind."""
        if self._pipeline is not None:
            self._pipeline.close(timeout_seconds)

    @property
    def held(self) -> int:
        """Requests admitted and not yet answered."""
        return self._pipeline.held if self._pipeline else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event of the server."""
        if scope["type"] != "http":
            raise RuntimeError(f"the pool speaks HTTP only, not {scope['type']}")
        match scope["method"], scope["path"]:
            case "POST", "/segment":
                await self._segment(scope, receive, send)
            case "GET", "/health":
                ready = self.state is PoolState.READY
                body = json.dumps(self.health()).encode()
                await _respond(send, 200 if ready else 503, body, "application/json")
            case "GET", "/metrics":
                page = self.metrics.render(self._gauges()).encode()
                await _respond(send, 200, page, "text/plain; version=0.0.4; charset=utf-8")
            case _:
                body = encode_error(ProviderFailed(f"no route {scope['method']} {scope['path']}"))
                await _respond(send, 404, body, MEDIA_TYPE)

    # --- segment ------------------------------------------------------------------------------------------------------

    async def _segment(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            deadline = time.monotonic() + self._deadline_seconds(headers)
            pipeline, models = self._admit(headers, deadline)
            body = await _read_body(receive, TASK_BYTES_MAX)
            task = decode_task(body)
            checkpoint = models.checkpoint_of(task.model)
            job = pipeline.submit(task, checkpoint=checkpoint, nbytes=len(body), deadline=deadline)
            del body
            result = await _answer(job, receive)
            answer, status = await asyncio.to_thread(encode_result, result), HTTPStatus.OK
        except _CallerGone:
            self.metrics.count_request("abandoned")
            return
        except _TooLarge:
            error: InferenceError = InputRejected(
                f"The picture is larger than {TASK_BYTES_MAX // 1024 // 1024} MiB.", field="picture"
            )
            await self._refuse(send, error, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except WireError as defect:
            await self._refuse(send, ProviderFailed(f"The task frame is malformed: {defect}"), HTTPStatus.BAD_REQUEST)
        except InferenceError as refusal:
            status = next(status for kind, status in _STATUS if isinstance(refusal, kind))
            await self._refuse(send, refusal, status)
        else:
            self.metrics.count_request("ok")
            await _respond(send, status, answer, MEDIA_TYPE)

    def _deadline_seconds(self, headers: dict[bytes, bytes]) -> float:
        """How long the caller still waits. Raises WireError unless the header is a whole number of milliseconds."""
        value = headers.get(DEADLINE_HEADER.encode())
        if value is None:
            return self._default_deadline_seconds
        if not value.isdigit() or len(value) > 9:
            raise WireError(f"{DEADLINE_HEADER} is not a whole number of milliseconds")
        return int(value) / 1000

    def _admit(self, headers: dict[bytes, bytes], deadline: float) -> "tuple[Pipeline, LoadedModels]":
        if self.state is not PoolState.READY or self._pipeline is None or self._models is None:
            raise ProviderSaturated(f"The pool is {self.state}.", retry_after_seconds=1.0)
        announced = headers.get(b"content-length", b"0")
        nbytes = int(announced) if announced.isdigit() else 0
        if nbytes > TASK_BYTES_MAX:
            raise _TooLarge
        self._pipeline.check_room(nbytes=nbytes, deadline=deadline)
        return self._pipeline, self._models

    async def _refuse(self, send: Send, error: InferenceError, status: HTTPStatus) -> None:
        self.metrics.count_request(type(error).__name__)
        extra: list[tuple[bytes, bytes]] = []
        if isinstance(error, ProviderSaturated):
            milliseconds = max(1, round(error.retry_after_seconds * 1000))
            extra = [
                (RETRY_AFTER_HEADER.encode(), str(milliseconds).encode()),
                (b"retry-after", str(-(-milliseconds // 1000)).encode()),
            ]
        await _respond(send, status, encode_error(error), MEDIA_TYPE, extra)

    # --- reports ------------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """The body of /health."""
        models, pipeline = self._models, self._pipeline
        return {
            "status": self.state,
            "checkpoint": self._checkpoint,
            "device": models.device if models else None,
            "memory_bytes": sum(b.memory_bytes() for b in models.backends.values()) if models else None,
            "models": sorted(models.checkpoints) if models else [],
            "unavailable": dict(models.unavailable) if models else {},
            "queue_length": pipeline.held if pipeline else 0,
            "estimated_wait_ms": round(pipeline.estimated_wait_seconds() * 1000, 1) if pipeline else None,
            "cached_bytes": pipeline.cache.bytes_held if pipeline else 0,
            "up_seconds": round(time.monotonic() - self._started, 1),
        }

    def _gauges(self) -> dict[str, float]:
        pipeline = self._pipeline
        gauges = {"ready": float(self.state is PoolState.READY)}
        if pipeline:
            gauges["queue_requests"] = pipeline.held
            gauges["estimated_wait_seconds"] = pipeline.estimated_wait_seconds()
            gauges["cache_bytes"] = pipeline.cache.bytes_held
            gauges["cache_hits"] = pipeline.cache.hits
            gauges["cache_misses"] = pipeline.cache.misses
        return gauges


async def _answer(job: "Job", receive: Receive) -> Any:
    """The job's result. Raises its error, or _CallerGone if the connection ends first; the job is then dropped."""
    answer = asyncio.wrap_future(job.future)
    gone = asyncio.ensure_future(_disconnected(receive))
    both: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise _CallerGone
    finally:
        gone.cancel()
        job.abandoned = True  # of no consequence once it is answered
        if not answer.done():
            # The job belongs to its stage, which will answer into the void; it must not find the future cancelled.
            answer.add_done_callback(lambda future: future.cancelled() or future.exception())


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(receive: Receive, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _CallerGone
        part = message.get("body", b"")
        total += len(part)
        if total > bytes_max:
            raise _TooLarge
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _respond(
    send: Send, status: int, body: bytes, media_type: str, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *(extra or ()),
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
