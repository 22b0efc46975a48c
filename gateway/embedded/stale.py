"""What a killed server left behind, and when it is safe to take it away."""

import contextlib
import os
import signal
from pathlib import Path

import psutil


def settle_stale_postmaster(cluster: Path) -> bool:
    """Take `postmaster.pid` away when no server can be behind it, or ask the server that is to stop.

    Returns True while such a server is still alive; ask again in a moment.

    PostgreSQL itself copes with a pid that is gone. It refuses for as long as the pid exists: as a zombie that
    nobody reaps, or as some other program that got the same number (a restarted container). Only to be called by
    the holder of the folder's lock, so that a live server on it can only be one whose parent is dead.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        pid = abs(int(pid_file.read_text().split("\n", 1)[0]))
    except (OSError, ValueError):
        return False
    if not psutil.pid_exists(pid):
        return False
    if _is_server(pid, cluster):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)  # fast shutdown
        return True
    if not any(_works_in(process, cluster) for process in psutil.process_iter()):
        pid_file.unlink(missing_ok=True)
    return False


def _is_server(pid: int, cluster: Path) -> bool:
    """Whether this process is alive and a server on the cluster."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and _works_in(process, cluster)
    return False


def _works_in(process: psutil.Process, cluster: Path) -> bool:
    """Servers and their backends have the cluster as working folder; those of other users cannot be seen."""
    with contextlib.suppress(psutil.Error, OSError):
        return Path(process.cwd()) == cluster
    return False
