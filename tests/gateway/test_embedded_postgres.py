"""The embedded PostgreSQL: durable, alone on its folder, gone with its parent, and clear about what is wrong."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from gateway.embedded.child import LAUNCHER
from gateway.embedded.data_folder import DataFolder
from gateway.embedded.errors import AlreadyRunningError, EmbeddedError
from gateway.embedded.postgres import EmbeddedPostgres, embedded_dsn

PROGRAM = Path(__file__).with_name("starts_postgres.py")


@asynccontextmanager
async def started(data_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    try:
        yield postgres
    finally:
        await postgres.stop()


async def execute(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_data_survive_a_restart_and_nothing_else_does(tmp_path: Path) -> None:
    async with started(tmp_path / "data") as postgres:
        await execute(postgres.dsn, "CREATE TABLE kept AS SELECT 7 AS seven")
        pid = postgres.pid
        assert pid is not None
    assert not psutil.pid_exists(pid)
    assert not DataFolder(tmp_path / "data").runtime.exists()
    async with started(tmp_path / "data"):
        assert await execute(embedded_dsn(tmp_path / "data"), "SELECT seven FROM kept") == 7


async def test_it_keeps_what_it_confirmed_and_listens_to_nobody_else(tmp_path: Path) -> None:
    async with started(tmp_path) as postgres:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert await execute(postgres.dsn, f"SHOW {name}") == "on"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await execute(postgres.dsn.replace("gateway:", "gateway:not"), "SELECT 1")
        assert postgres.pid is not None
        server = psutil.Process(postgres.pid)
        assert [c for c in server.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
        assert server.uids().real != 0
    assert (tmp_path / "postgres.password").stat().st_mode & 0o077 == 0


async def test_kill_9_of_the_parent_ends_it_and_the_next_start_finds_the_data(tmp_path: Path) -> None:
    program = subprocess.Popen([sys.executable, str(PROGRAM), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with program:
        assert program.stdout is not None
        server = psutil.Process(int(program.stdout.readline()))
        await execute(embedded_dsn(tmp_path), "CREATE TABLE kept AS SELECT 7 AS seven")
        program.kill()
    async with started(tmp_path) as postgres:
        assert await execute(postgres.dsn, "SELECT seven FROM kept") == 7
        assert postgres.pid != server.pid
    ended = not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert ended


async def test_a_second_one_on_the_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with started(tmp_path) as postgres:
        with pytest.raises(AlreadyRunningError, match=str(os.getpid())):
            await EmbeddedPostgres(tmp_path).start()
        assert await execute(postgres.dsn, "SELECT 1") == 1


async def test_a_pid_file_that_names_another_program_does_not_stop_it(tmp_path: Path) -> None:
    async with started(tmp_path):
        pass
    sleeper = await asyncio.create_subprocess_exec("sleep", "60")
    lines = [str(sleeper.pid), str(tmp_path / "postgres"), "1", "5432", "", "", "1 1", "ready"]
    (tmp_path / "postgres" / "postmaster.pid").write_text("\n".join(lines))
    async with started(tmp_path) as postgres:
        assert await execute(postgres.dsn, "SELECT 1") == 1
    assert sleeper.returncode is None
    sleeper.send_signal(signal.SIGTERM)
    await sleeper.wait()


async def test_half_a_first_start_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18")
    async with started(tmp_path) as postgres:
        assert await execute(postgres.dsn, "SELECT 1") == 1
    assert not (tmp_path / "postgres.new").exists()


async def test_another_version_s_folder_is_left_alone(tmp_path: Path) -> None:
    async with started(tmp_path):
        pass
    (tmp_path / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedError, match=r"PostgreSQL 15, the installed one is \d+"):
        await EmbeddedPostgres(tmp_path).start()
    assert (tmp_path / "postgres" / "PG_VERSION").read_text() == "15\n"


async def test_a_lost_password_is_said(tmp_path: Path) -> None:
    async with started(tmp_path):
        pass
    (tmp_path / "postgres.password").unlink()
    with pytest.raises(EmbeddedError, match="no database password"):
        await EmbeddedPostgres(tmp_path).start()


async def test_a_folder_with_a_long_and_odd_path_works(tmp_path: Path) -> None:
    data_dir = tmp_path / ("a long, odd näme " * 6) / ("another " * 8)
    async with started(data_dir) as postgres:
        assert await execute(postgres.dsn, "SELECT 1") == 1
        runtime = DataFolder(data_dir).runtime
        assert len(str(runtime)) < 100
    assert not runtime.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root meets folders that are closed to the database's user")
async def test_root_s_closed_folders_stay_closed_and_work(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with started(closed / "data") as postgres:
        assert await execute(postgres.dsn, "SELECT 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700
    assert closed.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up privileges")
def test_programs_in_a_closed_folder_run_without_root_and_find_their_files(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = shutil.copy("/bin/sh", closed / "sh")
    (closed / "file").write_text("", encoding="utf-8")
    order = {
        # `test -r` of most shells asks access(2), as initdb does.
        "command": [str(program), "-c", f"test -r {closed / 'file'} && id -un && (: > {closed / 'new'}) || echo no"],
        "parent_pid": os.getpid(),
        "death_signal": int(signal.SIGKILL),
        "user": "nobody",
        "reach": [str(program), str(closed)],
        "inherit": True,
        "environment": {},
    }
    launched = [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(order)]
    said = subprocess.run(launched, check=True, capture_output=True, text=True).stdout.split()
    assert said == ["nobody", "no"]


async def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="Cannot use the data folder"):
        await EmbeddedPostgres(tmp_path / "file" / "data").start()


def test_importing_or_naming_it_opens_nothing(tmp_path: Path) -> None:
    EmbeddedPostgres(tmp_path / "data")
    assert not (tmp_path / "data").exists()
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="No such file"):
        probe.connect(str(tmp_path / "data" / "run" / "postgres" / ".s.PGSQL.5432"))
