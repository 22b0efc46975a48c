"""gateway serve"""

import asyncio
import contextlib
import math
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Annotated, Any

import typer
import uvicorn
import uvloop

from gateway.app import create_app
from gateway.cli import demo
from gateway.cli.errors import CliError
from gateway.cli.operator import load_settings, open_database, peppers
from gateway.embedded.data_folder import DataFolder
from gateway.embedded.errors import EmbeddedError
from gateway.embedded.machine import complete
from gateway.http_protocol import http_protocol
from gateway.observability import configure_logging
from gateway.settings import Settings

KEEP_ALIVE_SECONDS = 75
ANSWERING_SECONDS = 5.0  # what answers may take to leave after the last call has ended or was given up


def command(
    host: Annotated[str | None, typer.Option(help="Address to listen on (GATEWAY_HOST).")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port, 0 for any free one (GATEWAY_PORT).")] = None,
    with_demo: Annotated[
        bool, typer.Option("--demo", help="Make a demo organization with $5 of credit and say how to use it.")
    ] = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM; with nothing configured, start everything it needs on this machine."""
    started_at = time.monotonic()
    settings = load_settings()
    settings = settings.model_copy(
        update={name: value for name, value in (("host", host), ("port", port)) if value is not None}
    )
    configure_logging(level=settings.log_level, as_json=_logs_as_json(settings))
    try:
        DataFolder(settings.data_dir).refuse_if_running()
        with _bound(settings) as listening:
            settings = settings.model_copy(update={"port": listening.getsockname()[1]})
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_Serving(settings, listening, with_demo, started_at).run())
    except EmbeddedError as error:
        raise CliError(str(error)) from error


def _logs_as_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())


def _bound(settings: Settings) -> socket.socket:
    """The port, taken before anything is started, so that a port in use costs nothing."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise CliError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. Set GATEWAY_PORT or GATEWAY_HOST."
        ) from error
    return listening


class _Server(uvicorn.Server):
    """uvicorn, except that it tells when it serves and when it stops, and that signals are ours: handling them itself,
    it would end the process before the database has stopped.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        announce: Callable[[], None],
        drain: Callable[[float], Coroutine[Any, Any, None]],
        drain_seconds: float,
    ) -> None:
        super().__init__(config)
        self._announce = announce
        self._drain_seconds = drain_seconds
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Calls are given up before their connections are, so that whoever waits for one is told."""
        draining = asyncio.create_task(self._drain(self._drain_seconds))
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves the application as it is
            await self._drain(0)
        await draining

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Serving:
    """One run from the first child to the last: start, serve, stop."""

    def __init__(self, settings: Settings, listening: socket.socket, with_demo: bool, started_at: float) -> None:
        self._settings = settings
        self._listening = listening
        self._with_demo = with_demo
        self._started_at = started_at
        self._server: _Server | None = None
        self._stopping = False

    async def run(self) -> None:
        """Serve until a signal comes; whatever was started has ended when this returns or raises."""
        running = asyncio.current_task()
        assert running is not None, "a coroutine runs in a task"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, running)
        try:
            async with complete(self._settings) as settings:
                await self._serve(settings)
                self._stopping = True
        except asyncio.CancelledError:
            if not self._stopping:
                raise

    def _signalled(self, running: asyncio.Task[None]) -> None:
        """The first signal ends what is going on, in order; a second one does not wait for open connections."""
        if self._server is not None:
            self._server.force_exit = self._server.should_exit
            self._server.should_exit = True
        elif not self._stopping:
            self._stopping = True
            running.cancel()

    async def _serve(self, settings: Settings) -> None:
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            http=http_protocol(
                header_timeout_seconds=settings.header_timeout_seconds,
                body_timeout_seconds=settings.body_timeout_seconds,
            ),
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout_seconds + ANSWERING_SECONDS),
        )
        instructions = await self._demo(settings) if self._with_demo else ""

        def announce() -> None:
            seconds = time.monotonic() - self._started_at
            sys.stdout.write(
                f"The SAM 3 gateway serves on {settings.base_url} (after {seconds:.1f} s).\n{instructions}"
            )
            sys.stdout.flush()

        async def drain(timeout_seconds: float) -> None:
            await app.state.resources.calls.drain(timeout_seconds)

        self._server = _Server(config, announce, drain, settings.shutdown_timeout_seconds)
        await self._server.serve(sockets=[self._listening])
        if not self._server.started:
            raise CliError("The gateway could not start; its log above says why.")

    async def _demo(self, settings: Settings) -> str:
        async with open_database(settings) as database:
            account = await demo.prepare(
                database, peppers(settings), DataFolder(settings.data_dir).demo_file, settings.base_url
            )
        return demo.instructions(account, DataFolder(settings.data_dir).demo_file)
