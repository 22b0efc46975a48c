"""Run ASGI programs on real sockets, in a thread with an event loop of its own."""

import asyncio
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

START_TIMEOUT_SECONDS = 30.0


class RunningProgram:
    """An ASGI program served by uvicorn on a free loopback port, or on a unix socket.

    `loop` is the event loop it runs on, for tests that look inside.
    """

    def __init__(
        self, app: Any, *, unix_socket: Path | None = None, listening: socket.socket | None = None, **options: Any
    ) -> None:
        self._socket = listening or listen(unix_socket)
        address = self._socket.getsockname()
        self.base_url = f"unix://{unix_socket}" if unix_socket else f"http://127.0.0.1:{address[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, **options))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_SECONDS) or not self._server.started:
            raise RuntimeError("the program did not start; its log says why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(START_TIMEOUT_SECONDS)

    def run(self, coroutine: Any) -> Any:
        """The coroutine's result, run on the program's own loop."""
        assert self.loop is not None, "the program is not running"
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(START_TIMEOUT_SECONDS)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        self._started.set()
        await serving


def listen(unix_socket: Path | None = None) -> socket.socket:
    """A listening socket on a free loopback port, or at a path."""
    if unix_socket is not None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(unix_socket))
    else:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening
