"""HTTP/1.1 with limits on how slowly and how verbosely a request may arrive; uvicorn has none of its own."""

import asyncio
import json
import secrets
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES_MAX = 32 * 1024
HEADER_LINE_BYTES = 4  # the colon, the blank and the end of a line; without them, empty lines would count for nothing
PROGRESS_BYTES_MIN = 16 * 1024


def http_protocol(
    *, header_timeout_seconds: float, body_timeout_seconds: float, header_bytes_max: int = HEADER_BYTES_MAX
) -> type[HttpToolsProtocol]:
    """A protocol class for uvicorn's `http=` that answers 408 to slow requests and 431 to huge headers.

    The header must be complete `header_timeout_seconds` after its first byte (or after the connection was made), the
    body `body_timeout_seconds` after the header, whether or not the application reads it. A client that takes hardly
    anything of its answer for `body_timeout_seconds` is hung up on, so that answers do not pile up here.
    """

    class LimitedHttpProtocol(_LimitedHttpProtocol):
        header_timeout = header_timeout_seconds
        body_timeout = body_timeout_seconds
        header_limit = header_bytes_max

    return LimitedHttpProtocol


class _Part(Enum):
    """What of a request the connection is waiting for."""

    BEGINNING = auto()
    HEADER = auto()
    BODY = auto()


class _HeaderTooLarge(Exception):
    """Stops the parser, which takes exceptions for errors of the request."""


class _LimitedHttpProtocol(HttpToolsProtocol):
    header_timeout: float
    body_timeout: float
    header_limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._part = _Part.BEGINNING
        self._begun = 0  # requests that began in the bytes at hand
        self._body_arrived = False  # in the bytes at hand
        self._arriving_bytes = 0  # of a header, or of the fields after a chunked body, that are not complete yet
        self._parsed_bytes = 0  # of the header lines that are
        self._refused = False
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_timer(self.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        self._cancel_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._part is _Part.BEGINNING and self._timer is None:
            self._set_timer(self.header_timeout)  # also for bytes that begin nothing, such as empty lines
        part, self._begun, self._body_arrived = self._part, 0, False
        super().data_received(data)
        if self._refused:
            return
        self._arriving_bytes = self._unfinished_bytes(part, len(data))
        if self._arriving_bytes > self.header_limit:
            self._refuse_header()

    def _unfinished_bytes(self, part_before: _Part, new_bytes: int) -> int:
        """How much of a header or trailer the parser is keeping back, waiting for the end of a line."""
        if self._part is _Part.HEADER:
            if part_before is _Part.HEADER and self._begun == 0:
                return self._arriving_bytes + new_bytes
            if part_before is _Part.BEGINNING and self._begun == 1:
                return new_bytes
        elif self._part is _Part.BODY and part_before is _Part.BODY and not self._body_arrived:
            return self._arriving_bytes + new_bytes
        return 0  # none, or it begins behind something else; how far behind is not known

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cancel_stall_timer()
        self._watch_stall(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._cancel_stall_timer()
        super().resume_writing()

    def _watch_stall(self, unsent_bytes: int) -> None:
        self._stall_timer = self.loop.call_later(self.body_timeout, self._require_progress, unsent_bytes)

    def _require_progress(self, unsent_bytes_before: int) -> None:
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes_before - unsent_bytes < PROGRESS_BYTES_MIN:
            self.transport.abort()
        else:
            self._watch_stall(unsent_bytes)

    def _cancel_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part = _Part.HEADER
        self._begun += 1
        self._parsed_bytes = 0
        self._set_timer(self.header_timeout)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + HEADER_LINE_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._part = _Part.BODY
        self._set_timer(self.body_timeout)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_arrived = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._part = _Part.BEGINNING
        self._set_timer(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser could not read: malformed, ambiguous in its length, or too large a header."""
        if self._parsed_bytes > self.header_limit:
            self._refuse_header()
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "malformed_request", "This is not a valid HTTP/1.1 request.")

    def _count(self, more_bytes: int) -> None:
        self._parsed_bytes += more_bytes
        if self._parsed_bytes > self.header_limit:
            raise _HeaderTooLarge

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._part is _Part.BODY and not self.pipeline:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "The body of the request arrived too slowly.")
        elif self.cycle is not None and not self.cycle.response_complete:
            # An earlier request is still being answered, which has its own bound. It is not paid for with this one.
            self._set_timer(self.header_timeout)
        elif self._part is _Part.BEGINNING:
            self.transport.close()  # nothing was asked
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "The request's header arrived too slowly.")

    def _refuse_header(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "header_too_large",
            f"The request's header has more than {self.header_limit // 1024} KiB.",
        )

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        """Say why, unless an answer is already on its way, and hang up. A running application sees a disconnect."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._set_timer(None)
        unanswered = self.cycle
        if unanswered is None or self._part is not _Part.BODY:
            may_speak = unanswered is None or unanswered.response_complete
        else:
            may_speak = not unanswered.response_started and not self.pipeline
        if may_speak:
            self.transport.write(_answer(status, code, message))
        if unanswered is not None and not unanswered.response_complete:
            unanswered.disconnected = True
            unanswered.message_event.set()
        self.transport.close()


def _answer(status: HTTPStatus, code: str, message: str) -> bytes:
    """The whole response in OpenAI's shape: no dialect is known before a request is read."""
    error = {"message": message, "type": "invalid_request_error", "code": code, "param": None}
    body = json.dumps({"error": error}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: req_{secrets.token_hex(16)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
