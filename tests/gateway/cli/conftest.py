"""A gateway started as its users start it, with a pool that only plays one, and commands run beside it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.pool import FakePool
from tests.running import RunningProgram

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 60.0
COMMAND_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


@dataclass
class Machine:
    """A data folder, the pool to use, and what runs on it."""

    data_dir: Path
    pool_url: str
    settings: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None

    @property
    def environment(self) -> dict[str, str]:
        """What a program sees: our PATH, and this machine's settings."""
        return {
            "PATH": os.environ["PATH"],
            "GATEWAY_DATA_DIR": str(self.data_dir),
            "GATEWAY_PORT": "0",
            "GATEWAY_POOL_URLS": self.pool_url,
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
            **self.settings,
        }

    def run(self, *arguments: str, **settings: str) -> Ended:
        """One `gateway …` command, to its end."""
        ended = subprocess.run(
            [sys.executable, "-m", "gateway.cli", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self.environment | settings,
            timeout=COMMAND_TIMEOUT_SECONDS,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def start(self) -> str:
        """Start `gateway serve --demo` and return what it prints, to its last line."""
        log_path = self.data_dir.parent / "gateway.log"
        with log_path.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "serve", "--demo"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
            )
        assert self.process.stdout is not None
        printed = ""
        for line in self.process.stdout:
            printed += line
            if line.startswith("Ctrl-C"):
                return printed
        raise RuntimeError(f"the gateway ended with {self.process.wait()}: {printed}{log_path.read_text()}")

    @property
    def demo(self) -> dict[str, str]:
        """What demo.json holds."""
        found: dict[str, str] = json.loads((self.data_dir / "demo.json").read_text())
        return found

    def family(self) -> list[psutil.Process]:
        """The gateway's process and all that it has started."""
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def signal(self, number: int) -> int:
        """Send a signal and wait for the end of the gateway itself; its exit status."""
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            return process.wait(STOP_TIMEOUT_SECONDS)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()


def remaining(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run when they have had time to end; dead ones that nobody has reaped do not."""
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while True:
        left = [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pool() -> Iterator[RunningProgram]:
    """A pool without a model."""
    with RunningProgram(FakePool().app) as running:
        yield running


@pytest.fixture(scope="module")
def machine(pool: RunningProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway that runs for the tests of a file."""
    machine = Machine(tmp_path_factory.mktemp("machine") / "data", pool.base_url)
    machine.start()
    yield machine
    machine.signal(15)


@pytest.fixture
def stopped(pool: RunningProgram, tmp_path: Path) -> Iterator[Machine]:
    """A machine on which nothing runs yet; whatever a test starts on it is ended."""
    machine = Machine(tmp_path / "data", pool.base_url)
    yield machine
    if machine.process is not None:
        machine.signal(9)
