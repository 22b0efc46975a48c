"""The folder that holds all state of an all-in-one gateway: who may use it, and where its parts lie."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import IO, Self

from gateway.embedded.errors import AlreadyRunningError, EmbeddedError

# A unix socket's path has to fit into 108 bytes with its final zero (sys/un.h); names of ours take up to 24 of them.
SOCKET_FOLDER_MAXIMUM_BYTES = 80
# Everything that needs no quoting in a DSN, in postgresql.conf or in a URL.
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")
LOCK_RECORD_MAXIMUM_BYTES = 4096
LOCK_ATTEMPTS = 4
LOCK_PAUSE_SECONDS = 0.05
LOG_MAXIMUM_BYTES = 10 * 1024 * 1024


class FolderLock:
    """An advisory lock that the kernel takes back when its holder dies, however it dies.

    The holder leaves a record in the file; the one who comes too late gets it to say who was first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self, record: dict[str, object]) -> dict[str, object] | None:
        """Take the lock and return None, or return the holder's record (empty if unreadable) and change nothing."""
        file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8")
        for attempt in range(LOCK_ATTEMPTS):  # more than one: `running_gateway` holds it for an instant to ask
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOCK_PAUSE_SECONDS if attempt < LOCK_ATTEMPTS - 1 else 0)
                continue
            file.truncate(0)
            file.write(json.dumps(record))
            file.flush()
            self._file = file
            return None
        with file:
            return _parsed(file.read(LOCK_RECORD_MAXIMUM_BYTES))

    def release(self) -> None:
        """Let the next one in. The file stays: removing it would let two processes lock two files of one name."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def _parsed(text: str) -> dict[str, object]:
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


class DataFolder:
    """Paths of one data folder. Creating the object touches nothing; `prepare` makes the folders."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path).expanduser().resolve()
        self.logs = self.path / "logs"
        self.cluster = self.path / "postgres"
        self.password_file = self.path / "postgres.password"
        self.secrets_file = self.path / "secrets.json"
        self.demo_file = self.path / "demo.json"

    @property
    def runtime(self) -> Path:
        """Where sockets live: in the data folder, or below /tmp where its path is too long or too odd for one."""
        inside = self.path / "run"
        if len(os.fsencode(inside)) <= SOCKET_FOLDER_MAXIMUM_BYTES and PLAIN_PATH.fullmatch(str(inside)):
            return inside
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path("/tmp") / f"sam3-gateway-{digest}"  # noqa: S108 - _make_private checks whose it is

    def prepare(self) -> Self:
        """Make the folders that are missing.

        Raises:
            EmbeddedError: a folder cannot be made, or the one in /tmp is somebody else's.
        """
        # Root's PostgreSQL runs as another user, who has to pass through; every file in here is closed on its own.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            if not self.path.is_dir():
                self.path.mkdir(parents=True)
                self.path.chmod(mode)
            _make_private(self.logs, 0o700)
            _make_private(self.runtime, mode)
        except OSError as error:
            raise EmbeddedError(f"Cannot use the data folder {self.path}: {error.strerror}.") from error
        return self

    def open_log(self, name: str) -> IO[bytes]:
        """A log to append to; one that has grown past its limit over many starts begins anew."""
        file = os.fdopen(os.open(self.logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
        if file.seek(0, os.SEEK_END) > LOG_MAXIMUM_BYTES:
            file.truncate(0)
        return file

    def lock(self, base_url: str) -> "FolderLock":
        """Claim the folder for this process for as long as it lives.

        Raises:
            AlreadyRunningError: another gateway serves from it; nothing was touched.
        """
        lock = FolderLock(self.path / "gateway.lock")
        holder = lock.acquire({"pid": os.getpid(), "base_url": base_url})
        if holder is not None:
            raise self._already_running(holder)
        return lock

    def refuse_if_running(self) -> None:
        """Raise AlreadyRunningError where `lock` would now; changes nothing."""
        holder = running_gateway(self)
        if holder is not None:
            raise self._already_running(holder)

    def _already_running(self, holder: dict[str, object]) -> AlreadyRunningError:
        return AlreadyRunningError(
            f"A gateway is already running on the data folder {self.path}: "
            f"{holder.get('base_url', 'address unknown')} (pid {holder.get('pid', 'unknown')})."
        )

    def remove_runtime(self) -> None:
        """Take away the empty runtime folder at the end; one that still holds something stays."""
        with contextlib.suppress(OSError):
            self.runtime.rmdir()


def running_gateway(folder: DataFolder) -> dict[str, object] | None:
    """The record (`pid`, `base_url`) of the gateway that serves from this folder, or None. Changes nothing."""
    try:
        file = (folder.path / "gateway.lock").open(encoding="utf-8")
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parsed(file.read(LOCK_RECORD_MAXIMUM_BYTES))
    return None


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user reads, replacing what was there."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _make_private(path: Path, mode: int) -> None:
    """A folder of this user that nobody else could have put there."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(mode)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        # Root may use the folders of the user whose gateway it starts.
        if os.geteuid() == 0 and stat.S_ISDIR(found.st_mode) and path.parent != Path("/tmp"):  # noqa: S108
            return
        raise EmbeddedError(f"{path} belongs to another user; remove it or choose another GATEWAY_DATA_DIR.")
