"""The SAM 3 pool of this machine: one child per device, started again when it dies."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog

from gateway.embedded.child import Child
from gateway.embedded.data_folder import DataFolder
from gateway.embedded.errors import EmbeddedError, StartError

log = structlog.get_logger(__name__)

START_TIMEOUT_SECONDS = 600.0  # full weights may come from a slow disk
STOP_TIMEOUT_SECONDS = 35.0  # a little longer than the pool drains
HEALTH_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_AFTER_SECONDS = 60.0  # having run this long, a pool that dies is started again at once
EXIT_UNUSABLE = 78  # the pool's word for: starting again without a change will not help
DRIVER_DEVICES = Path("/proc/driver/nvidia/gpus")
COUNT_DEVICES = "import torch; print(torch.cuda.device_count())"
COUNT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """What the pool is told; None leaves the choice to it. `command` is replaced in tests."""

    device: str = "auto"
    checkpoint: Path | None = None
    checkpoint_3_1: Path | None = None
    command: Sequence[str] = (sys.executable, "-m", "inference.pool")

    def environment(self, device: str, socket: Path) -> dict[str, str]:
        """The pool's settings for one device."""
        given = {"CHECKPOINT": self.checkpoint, "CHECKPOINT_3_1": self.checkpoint_3_1}
        return {
            "GATEWAY_POOL_DEVICE": device,
            "GATEWAY_POOL_SOCKET": str(socket),
            **{f"GATEWAY_POOL_{name}": str(value) for name, value in given.items() if value is not None},
        }


class EmbeddedPool:
    """Pools on this machine's devices for as long as this process lives.

    `start` returns when every one is ready. After that a pool that dies is started again, with growing pauses.
    Nothing of it outlives this process, even after kill -9.
    """

    def __init__(self, data_dir: Path, options: PoolOptions | None = None) -> None:
        self._folder = DataFolder(data_dir)
        self._options = options or PoolOptions()
        self._members: list[_Member] = []

    @property
    def urls(self) -> list[str]:
        """`unix:///path.sock` of each pool."""
        return [f"unix://{member.socket}" for member in self._members]

    @property
    def pids(self) -> list[int]:
        """Process ids of the pools that run now."""
        return [member.child.pid for member in self._members if member.child is not None]

    async def start(self) -> list[str]:
        """Start a pool on each device and return their URLs once all are ready.

        Raises:
            StartError: one ended or did not get ready in time; the text has its log's end.
        """
        folder = self._folder.prepare()
        devices = await _devices(self._options.device)
        self._members = [_Member(folder, self._options, number, name) for number, name in enumerate(devices)]
        try:
            await asyncio.gather(*(member.start() for member in self._members))
        except BaseException:
            await self.stop()
            raise
        return self.urls

    async def stop(self) -> None:
        """Let each finish what runs (bounded), then end it."""
        await asyncio.gather(*(member.stop() for member in self._members))
        self._members = []
        self._folder.remove_runtime()


class _Member:
    """One pool process and the task that watches it."""

    def __init__(self, folder: DataFolder, options: PoolOptions, number: int, device: str) -> None:
        self.socket = folder.runtime / f"pool-{number}.sock"
        self.child: Child | None = None
        self._folder = folder
        self._options = options
        self._device = device
        self._log_name = f"pool-{number}.log"
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run it until it is ready, then keep it running."""
        self.child = await self._launch()
        await self._ready(self.child)
        self._watcher = asyncio.create_task(self._keep_running(self.child), name=self._log_name)

    async def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        if self.child is not None:
            await self.child.stop((signal.SIGTERM,), timeout_seconds=STOP_TIMEOUT_SECONDS)
            self.child = None
        self.socket.unlink(missing_ok=True)

    async def _launch(self) -> Child:
        self.socket.unlink(missing_ok=True)
        return await Child.start(
            self._options.command,
            folder=self._folder,
            log_name=self._log_name,
            environment=self._options.environment(self._device, self.socket),
            inherit=True,
            death_signal=signal.SIGKILL,  # without us nobody reads what it would still compute
        )

    async def _ready(self, child: Child) -> None:
        """Wait until it says that it is ready. Raises StartError."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_SECONDS
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(self.socket))) as client:
            while asyncio.get_running_loop().time() < deadline:
                if child.returncode is not None:
                    raise StartError(
                        f"The SAM 3 pool ended with status {child.returncode} while starting.\n{child.log_tail()}"
                    )
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.get("http://pool/health", timeout=HEALTH_TIMEOUT_SECONDS)
                    if answer.status_code == httpx.codes.OK:
                        return
                await asyncio.sleep(POLL_SECONDS)
        raise StartError(f"The SAM 3 pool did not get ready in {START_TIMEOUT_SECONDS:.0f} s.\n{child.log_tail()}")

    async def _keep_running(self, child: Child) -> None:
        """Start it again whenever it ends, for as long as we run, with pauses that grow up to their bound."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = loop.time()
            status = await child.wait()
            if status == EXIT_UNUSABLE:
                log.error("pool_unusable", device=self._device, log=child.log_tail())
                return
            if loop.time() - started > STEADY_AFTER_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.error("pool_ended", device=self._device, status=status, restart_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            child = self.child = await self._launch()


async def _devices(device: str) -> list[str]:
    """Which devices get a pool: the one that was named; every GPU where there are several; else what the pool finds."""
    number = await asyncio.to_thread(_count_gpus) if device == "auto" else 1
    return [f"cuda:{index}" for index in range(number)] if number > 1 else [device]


def _count_gpus() -> int:
    """GPUs that torch may use, asked of it (the gateway does not import it) only where the driver knows several.

    Raises EmbeddedError where it does not answer.
    """
    if not DRIVER_DEVICES.is_dir() or len(list(DRIVER_DEVICES.iterdir())) < 2:
        return 1
    command = [sys.executable, "-c", COUNT_DEVICES]
    try:
        asked = subprocess.run(  # noqa: S603 - our own interpreter
            command, check=True, capture_output=True, text=True, timeout=COUNT_TIMEOUT_SECONDS
        )
        return int(asked.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise EmbeddedError("The machine's GPUs cannot be counted; name one in GATEWAY_POOL_DEVICE.") from error


def running_pool_urls(folder: DataFolder) -> list[str]:
    """`unix:///path.sock` of each pool that was started on this data folder and not stopped. Changes nothing."""
    return [f"unix://{socket}" for socket in sorted(folder.runtime.glob("pool-*.sock"))]
