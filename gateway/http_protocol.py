"""HTTP/1.1 with limits on how slowly and how verbosely a request may arrive; uvicorn has none of its own."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES_MAX = 32 * 1024


def http_protocol(*, header_timeout_seconds: float, body_timeout_seconds: float) -> type[HttpToolsProtocol]:
    """A protocol class for uvicorn's `http=` that answers 408 to slow requests and 431 to huge headers."""

    class LimitedHttpProtocol(_LimitedHttpProtocol):
        header_timeout = header_timeout_seconds
        body_timeout = body_timeout_seconds

    return LimitedHttpProtocol


class _LimitedHttpProtocol(HttpToolsProtocol):
    header_timeout: float
    body_timeout: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_timer(self.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        self._set_timer(self.header_timeout)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(b"431 Request Header Fields Too Large")
        elif not self._refused:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._set_timer(self.body_timeout)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        self._set_timer(None)
        super().on_message_complete()

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        """Say why and hang up. What was read of the request is forgotten; a running application sees a disconnect."""
        if not self._refused and not self.transport.is_closing():
            self._refused = True
            self._set_timer(None)
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
