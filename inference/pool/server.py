"""The pool as a program: `python -m inference.pool`, settings from GATEWAY_POOL_*.

It listens at once, says "loading" until the weights are on the device and warm, and drains on SIGTERM: no new requests,
the running ones to their end, then exit.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType

import uvicorn

from inference.pool.application import PoolApplication, PoolState
from inference.pool.settings import PoolSettings

_log = logging.getLogger("inference.pool")

EXIT_UNUSABLE = 78  # EX_CONFIG: starting again without a change will not help
EXIT_DEVICE_LOST = 70  # EX_SOFTWARE: whoever supervises the pool is to start it again
_PR_SET_PDEATHSIG = 1
_KEEP_ALIVE_SECONDS = 75  # longer than any client of ours keeps an idle connection, so that it is never cut mid-request
_PARENT_POLL_SECONDS = 1.0
_DRAIN_POLL_SECONDS = 0.02
_CLOSE_TIMEOUT_SECONDS = 2.0


class _PoolServer(uvicorn.Server):
    """uvicorn, except that the first signal drains before it stops."""

    def __init__(self, config: uvicorn.Config, application: PoolApplication, drain_timeout_seconds: float) -> None:
        super().__init__(config)
        self._application = application
        self._drain_timeout_seconds = drain_timeout_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self.exit_code = 0

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, leave at once on the second."""
        if self._application.state is PoolState.DRAINING or self._loop is None:
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._begin_drain)

    def stop(self, exit_code: int) -> None:
        """End the process soon with `exit_code`. Safe in any thread."""
        self.exit_code = exit_code
        self.should_exit = True

    def _begin_drain(self) -> None:
        if self._draining is None:
            self._application.state = PoolState.DRAINING
            _log.info("draining: %d requests still run", self._application.held)
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        give_up = time.monotonic() + self._drain_timeout_seconds
        # Jobs end in threads that know nothing of this loop, so it looks.
        while self._application.held and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        self.should_exit = True


def main(settings: PoolSettings | None = None) -> int:
    """Run the pool until it is told to stop; returns the exit code."""
    settings = settings or PoolSettings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if settings.exit_with_parent:
        _exit_with_parent()
    if settings.socket is not None:
        settings.socket.unlink(missing_ok=True)
    application = PoolApplication(default_deadline_seconds=settings.default_deadline_seconds)
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        uds=None if settings.socket is None else str(settings.socket),
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(settings.drain_timeout_seconds)),
        ws="none",
    )
    server = _PoolServer(config, application, settings.drain_timeout_seconds)
    threading.Thread(target=_load, args=(settings, application, server), name="load", daemon=True).start()
    server.run()
    application.close(_CLOSE_TIMEOUT_SECONDS)
    _log.info("stopped")
    return server.exit_code


def _load(settings: PoolSettings, application: PoolApplication, server: _PoolServer) -> None:
    """Bring the weights up beside the listening server. Without them there is nothing to serve, so failing ends it."""
    started = time.monotonic()
    try:
        # torch and transformers take seconds to import, and the server is to answer /health meanwhile.
        from inference.pool.models import checkpoint_name, load_models  # noqa: PLC0415
        from inference.pool.pipeline import Pipeline  # noqa: PLC0415

        models = load_models(settings)
        pipeline = Pipeline(
            models.backends,
            metrics=application.metrics,
            max_queue=settings.max_queue,
            max_queue_bytes=settings.max_queue_bytes,
            max_batch=settings.max_batch,
            max_rows=settings.max_rows,
            cache_bytes=settings.cache_bytes,
            picture_threads=settings.picture_threads or settings.cores,
            on_device_lost=lambda: server.stop(EXIT_DEVICE_LOST),
        )
    except Exception as error:
        _log.error("the pool cannot start: %s", error, exc_info=type(error).__name__ != "CheckpointUnusable")
        server.stop(EXIT_UNUSABLE)
        return
    name = checkpoint_name(settings.checkpoint)
    application.serve(models, pipeline, name)
    _log.info(
        "ready on %s: %s on %s, models %s, after %.1f s",
        settings.socket or f"{settings.host}:{settings.port}",
        name,
        models.device,
        ", ".join(sorted(models.checkpoints)),
        time.monotonic() - started,
    )


def _exit_with_parent() -> None:
    """Have SIGTERM sent to this process when its parent ends: by the kernel on Linux, elsewhere by looking."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os.kill(os.getpid(), signal.SIGTERM)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
