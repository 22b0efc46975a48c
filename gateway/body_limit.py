"""Refuse bodies that are too large by counting what arrives, whatever the headers claim."""

import contextlib
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _TooLarge(Exception):
    """Unwinds the application when its request turns out too large."""


class BodyLimit:
    """Pure ASGI: answers `render(limit_bytes)` once more than `limit_bytes` have been announced or received."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int, render: Callable[[int], Response]) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"")
        received_bytes = int(announced) if announced.isdigit() and int(announced) > self._limit_bytes else 0
        too_large, answered = received_bytes > 0, False

        async def count(receive: Receive = receive) -> Message:
            nonlocal received_bytes, too_large
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit_bytes:
                too_large = True
                raise _TooLarge
            return message

        async def send_unless_too_large(message: Message) -> None:
            nonlocal answered
            if too_large and not answered:
                return  # the application's page for our exception; the refusal below goes out instead
            answered = True
            await send(message)

        if not too_large:
            with contextlib.suppress(_TooLarge):
                await self._app(scope, count, send_unless_too_large)
        if too_large and not answered:
            response = self._render(self._limit_bytes)
            response.headers["connection"] = "close"  # the rest of the body is not read
            await response(scope, receive, send)
