"""One program that lives no longer than the process that started it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from gateway.embedded.data_folder import DataFolder

LAUNCHER = Path(__file__).with_name("launch.py")
LOG_TAIL_BYTES = 16_384


class Child:
    """A child in a process group of its own, so that Ctrl-C reaches only us and we end it in our order.

    The kernel signals it when the *thread* that started it ends: start children from the event loop of the main
    thread.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path, log_start: int) -> None:
        self._process = process
        self._log = log
        self._log_start = log_start

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        folder: DataFolder,
        log_name: str,
        environment: Mapping[str, str],
        inherit: bool = False,
        death_signal: signal.Signals,
        user: str | None = None,
        reach: Sequence[Path] = (),
    ) -> Self:
        """Run `command` with its output in the folder's log `log_name`; as `user`, if given, who needs to be able to
        use the paths in `reach`. It sees `environment`, on top of ours if `inherit`. `death_signal` is what it gets
        when we die without having stopped it.
        """
        order = {
            "command": list(command),
            "parent_pid": os.getpid(),
            "death_signal": int(death_signal),
            "user": user,
            "reach": [str(path) for path in reach],
            "inherit": inherit,
            "environment": dict(environment),
        }
        with folder.open_log(log_name) as log:
            log_start = log.seek(0, os.SEEK_END)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(LAUNCHER),
                json.dumps(order),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return cls(process, folder.logs / log_name, log_start)

    @property
    def pid(self) -> int:
        """The process id; the launcher becomes the program, so it never changes."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status (negative: the signal), None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""
        return await self._process.wait()

    async def stop(self, signals: Sequence[signal.Signals], *, timeout_seconds: float) -> None:
        """Send each signal in turn, waiting up to `timeout_seconds` after each, at last SIGKILL."""
        for number in (*signals, signal.SIGKILL):
            if self.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), timeout_seconds)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that it wrote to its log, for an error message."""
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
