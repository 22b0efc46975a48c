"""Logs that can be searched by request, and the request id on every answer."""

import logging
import secrets
import sys
import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Problem

log = structlog.get_logger("gateway")


def configure_logging(*, level: str, as_json: bool) -> None:
    """Send structured lines to standard error; `level` is one of logging's names."""
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def log_problem(problem: Problem, error: Exception) -> None:
    """Record a failure on our side with its traceback, an expected refusal in one line."""
    if problem.code == "internal_error":
        log.error("internal_error", exc_info=error)
    elif problem.status >= 500:
        causes = getattr(error, "causes", {})
        log.warning(
            "call_failed",
            code=problem.code,
            error=str(error),
            causes={name: f"{type(cause).__name__}: {cause}" for name, cause in causes.items()} or None,
        )


class RequestLog:
    """Pure ASGI: gives each request an id, puts it on the answer and writes one line when the answer has left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration_ms=round((time.perf_counter() - started) * 1000, 1),
                )
