"""What arrives too slowly, too verbosely or too large is refused before it costs anything, on real sockets."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, StreamingResponse

from gateway.body_limit import BodyLimit
from gateway.http_protocol import http_protocol
from tests.running import RunningProgram

HEADER_SECONDS = 0.4
BODY_SECONDS = 0.6
MIB = 1024 * 1024
BODY_BYTES_MAX = MIB
LARGE_MIB = 32


def _application() -> Any:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/parsed")
    async def parsed(body: dict[str, Any]) -> dict[str, int]:
        return {"fields": len(body)}

    @app.post("/unread")
    async def unread() -> JSONResponse:
        return JSONResponse({"error": "no key"}, status_code=401)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.get("/large")
    async def large() -> StreamingResponse:
        return StreamingResponse(iter([bytes(MIB)] * LARGE_MIB), headers={"content-length": str(LARGE_MIB * MIB)})

    def render(limit_bytes: int) -> JSONResponse:
        return JSONResponse({"limit_bytes": limit_bytes}, status_code=413)

    return BodyLimit(app, limit_bytes=BODY_BYTES_MAX, render=render)


@pytest.fixture(scope="module")
def edge() -> Iterator[RunningProgram]:
    protocol = http_protocol(header_timeout_seconds=HEADER_SECONDS, body_timeout_seconds=BODY_SECONDS)
    with RunningProgram(_application(), http=protocol, lifespan="off") as program:
        yield program


@dataclass
class Answer:
    """One response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A client that sends exactly what it is told."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> Answer | None:
        """The next response, or None if the server hangs up without one."""
        first = self._file.readline()
        if not first:
            return None
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Answer(int(first.split()[1]), headers, self._file.read(int(headers.get("content-length", 0))))

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def is_hung_up_on(self) -> bool:
        """Whether the other side goes away before long, though nothing is read."""
        for _ in range(400):
            time.sleep(0.05)
            try:
                self.send(b"\r\n")
            except ConnectionError:
                return True
        return False

    def is_closed(self) -> bool:
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()


@contextmanager
def wire(program: RunningProgram) -> Iterator[Wire]:
    url = httpx.URL(program.base_url)
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        client = Wire(connection)
        try:
            yield client
        finally:
            client.close()


def _is_refusal(answer: Answer | None, status: int, code: str) -> bool:
    assert answer is not None
    error = json.loads(answer.body)["error"]
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"].startswith("req_")
    assert error["type"] == "invalid_request_error"
    return answer.status == status and error["code"] == code and bool(error["message"])


def test_an_ordinary_request_passes_and_the_connection_stays(edge: RunningProgram) -> None:
    with wire(edge) as client:
        for _ in range(2):
            client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
            answer = client.answer()
            assert answer is not None
            assert (answer.status, json.loads(answer.body)) == (200, {"bytes": 5})


def test_a_header_that_trickles_in_is_answered_408(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\nx-slow: ")
        assert _is_refusal(client.answer(), 408, "request_timeout")
        assert client.is_closed()


def test_a_body_that_trickles_in_is_answered_408(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nbegin")
        assert _is_refusal(client.answer(), 408, "request_timeout")
        assert client.is_closed()


def test_a_connection_that_never_asks_is_closed_without_a_word(edge: RunningProgram) -> None:
    with wire(edge) as client:
        assert client.answer() is None


def test_empty_lines_do_not_keep_a_used_connection_open(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.answer() is not None
        client.send(b"\r\n")  # ends uvicorn's own keep-alive timer and begins no request
        assert client.answer() is None


def test_a_body_left_unread_after_its_answer_is_not_answered_twice(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nbegin")
        answer = client.answer()
        assert answer is not None
        assert answer.status == 401
        assert client.answer() is None


def test_a_slow_second_request_does_not_spoil_the_answer_to_the_first(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\nx-slow: ")
        first = client.answer()
        assert first is not None
        assert (first.status, first.body) == (200, b'"hello"')
        assert _is_refusal(client.answer(), 408, "request_timeout")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /hello HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost: x\r\nx-unfinished: " + b"a" * 1_000_000,
        b"GET /hello HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(6_000)) + b"\r\n",
        b"GET /hello HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 8_000 + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["one long line", "one line without end", "many lines", "many empty lines", "long address"],
)
def test_a_huge_header_is_answered_431(edge: RunningProgram, head: bytes) -> None:
    with wire(edge) as client:
        client.send(head)
        assert _is_refusal(client.answer(), 431, "header_too_large")


@pytest.mark.parametrize(
    "trailer", [b"x-unfinished: " + b"a" * 1_000_000, b"".join(b"x-%d: y\r\n" % n for n in range(6_000)) + b"\r\n"]
)
def test_what_follows_a_chunked_body_counts_as_header(edge: RunningProgram, trailer: bytes) -> None:
    with wire(edge) as client:
        client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n")
        with contextlib.suppress(ConnectionError):  # it may be hung up on before all is sent
            client.send(trailer)
        assert _is_refusal(client.answer(), 431, "header_too_large")


def test_a_chunked_body_in_many_small_pieces_is_no_header(edge: RunningProgram) -> None:
    with wire(edge) as client:
        pieces = b"1\r\nb\r\n" * 20_000
        client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + pieces)
        client.send(b"0\r\nx-trailer: y\r\n\r\n")
        answer = client.answer()
        assert answer is not None
        assert (answer.status, json.loads(answer.body)) == (200, {"bytes": 20_000})


def test_a_client_that_takes_nothing_of_its_answer_is_hung_up_on(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.is_hung_up_on()


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received_bytes = 0
        while piece := client.read(2 * MIB):
            received_bytes += len(piece)
            time.sleep(BODY_SECONDS / 6)
        assert received_bytes > LARGE_MIB * MIB


def test_a_long_header_below_the_limit_passes_in_pieces(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"GET /hello HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 15_000)
        client.send(b"a" * 15_000 + b"\r\n\r\n")
        answer = client.answer()
        assert answer is not None
        assert answer.status == 200


def test_a_large_request_with_the_next_one_behind_it_is_no_large_header(edge: RunningProgram) -> None:
    with wire(edge) as client:
        first = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n" + b"b" * 60_000
        client.send(first + b"GET /hello HTTP/1.1\r\nhost: x\r\nx-rest: ")
        client.send(b"of it\r\n\r\n")
        answers = [client.answer(), client.answer()]
        assert [answer and answer.status for answer in answers] == [200, 200]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost : x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"not http at all\r\n\r\n",
    ],
    ids=["CL+TE", "TE+CL", "two lengths", "negative", "TE.obfuscated", "space before colon", "TLS", "nonsense"],
)
def test_ambiguous_and_malformed_requests_are_answered_400(edge: RunningProgram, request_bytes: bytes) -> None:
    with wire(edge) as client:
        client.send(request_bytes)
        assert _is_refusal(client.answer(), 400, "malformed_request")


def test_a_body_announced_too_large_gets_its_answer_after_it_was_sent(edge: RunningProgram) -> None:
    with httpx.Client(base_url=edge.base_url, trust_env=False) as client:
        response = client.post("/echo", content=b"b" * (25 * 1024 * 1024))
        assert (response.status_code, response.json()) == (413, {"limit_bytes": BODY_BYTES_MAX})
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/echo", "/parsed"])
def test_a_body_that_does_not_say_its_size_is_counted(edge: RunningProgram, path: str) -> None:
    with httpx.Client(base_url=edge.base_url, trust_env=False) as client:
        pieces = (b"[" * 64 * 1024 for _ in range(200))
        response = client.post(path, content=pieces, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()) == (413, {"limit_bytes": BODY_BYTES_MAX})


def test_a_body_of_exactly_the_limit_passes(edge: RunningProgram) -> None:
    with httpx.Client(base_url=edge.base_url, trust_env=False) as client:
        for size, status in ((BODY_BYTES_MAX, 200), (BODY_BYTES_MAX + 1, 413)):
            assert client.post("/echo", content=b"b" * size).status_code == status
            assert client.post("/echo", content=iter([b"b" * size])).status_code == status


def test_who_asks_before_sending_is_told_at_once(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\nexpect: 100-continue\r\n\r\n")
        answer = client.answer()
        assert answer is not None
        assert answer.status == 413
        assert client.is_closed()


def test_a_body_announced_as_enormous_is_not_waited_for(edge: RunningProgram) -> None:
    with wire(edge) as client:
        client.send(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
        answer = client.answer()
        assert answer is not None
        assert answer.status == 413
        assert client.is_closed()


def test_refused_bodies_leave_nothing_in_memory(edge: RunningProgram) -> None:
    process = psutil.Process()
    body = b"b" * (25 * 1024 * 1024)
    with httpx.Client(base_url=edge.base_url, trust_env=False) as client:
        client.post("/echo", content=body)
        before = process.memory_info().rss
        for _ in range(8):
            assert client.post("/echo", content=body).status_code == 413
    assert process.memory_info().rss - before < 16 * 1024 * 1024
