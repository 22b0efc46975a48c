"""Refuse bodies that are too large by counting what arrives, whatever the headers claim."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DISCARDED_BYTES_MAX = 64 * 1024 * 1024


class _TooLarge(HTTPException):
    """Unwinds the application when its request turns out too large; of a kind that it knows not to be its failure."""

    def __init__(self) -> None:
        super().__init__(413)


class BodyLimit:
    """Pure ASGI: answers `render(limit_bytes)` once more than `limit_bytes` have been announced or received.

    The rest of such a body is read and thrown away first, up to `DISCARDED_BYTES_MAX`: most clients read no answer
    before they have sent all, and hanging up on them would look like a broken network, which they try again. A client
    that asked whether to send at all (`Expect: 100-continue`) is told at once. The connection is closed in any case.
    """

    def __init__(self, app: ASGIApp, *, limit_bytes: int, render: Callable[[int], Response]) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"")
        announced_bytes = int(announced) if announced.isdigit() else 0
        if announced_bytes > self._limit_bytes:
            asked_first = headers.get(b"expect", b"").lower() == b"100-continue"
            if not asked_first and announced_bytes <= self._limit_bytes + DISCARDED_BYTES_MAX:
                await _discard(receive)
            await self._refuse(scope, receive, send)
            return
        await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        received_bytes, too_large, more_to_come, answered = 0, False, True, False

        async def counting() -> Message:
            nonlocal received_bytes, too_large, more_to_come
            if too_large:
                raise _TooLarge
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit_bytes:
                too_large, more_to_come = True, message.get("more_body", False)
                raise _TooLarge
            return message

        async def sending(message: Message) -> None:
            nonlocal answered
            if too_large and not answered:
                return  # the application's page for our exception; the refusal below goes out instead
            answered = True
            await send(message)

        try:
            await self._app(scope, counting, sending)
        except Exception:
            if not too_large:
                raise  # otherwise it is ours, or what the application made of it
        if too_large and not answered:
            if more_to_come:
                await _discard(receive)
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._render(self._limit_bytes)
        response.headers["connection"] = "close"
        await response(scope, receive, send)


async def _discard(receive: Receive) -> None:
    """Read on to the end of the body without keeping it. How long that may take is the protocol's business."""
    discarded_bytes = 0
    while discarded_bytes <= DISCARDED_BYTES_MAX:
        message = await receive()
        discarded_bytes += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return
