"""Become another program that dies with its parent and, where asked, is not root.

Run by path (`python -I -S launch.py …`), so that nothing of the gateway is imported: preparing a child in the
forked copy of a threaded process is not safe, a small program of its own is. Its one argument is a JSON object::

    {"command": [...], "parent_pid": 1, "death_signal": 2, "user": "nobody" | null, "reach": ["/path", ...],
     "inherit": true, "environment": {"NAME": "value", ...}}

`environment` comes on top of ours where `inherit` is true; the gateway's own settings, secrets among them, stay behind.
`reach` names what the other user has to be able to use. Folders above a path are never changed. If they are closed
to that user (a checkout below /root), the child keeps one capability: the smallest that opens the way.
"""

import ctypes
import json
import os
import pwd
import sys
from collections.abc import Callable
from typing import Any

# linux/prctl.h and linux/capability.h
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1  # read, write, enter and run in spite of permission bits
CAP_DAC_READ_SEARCH = 2  # read and enter only
CAPABILITY_VERSION_3 = 0x20080522

CANNOT_REACH = 77  # our exit status; the parent turns it into a sentence
libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Raise OSError with errno's text when a C call failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def become(user: str, capability: int | None) -> None:
    """Change to `user` for good, keeping at most one capability, which also survives exec."""
    entry = pwd.getpwnam(user)
    if capability is not None:
        # Else capabilities would go with the change of user, and access(2), by which initdb looks for its programs,
        # would answer as if there were none.
        checked(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "keep capabilities")
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    if capability is None:
        return
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    checked(libc.capset(header, sets), "set capabilities")
    checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0), "raise ambient capability")


def succeeds(attempt: Callable[[], bool]) -> bool:
    """What `attempt` answers in a forked copy, so that the privileges it gives up are not ours."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if attempt() else 1)
        except (OSError, KeyError):
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def usable(path: str) -> bool:
    """Whether the present user may run this file, or enter and list this folder."""
    mode = os.R_OK | os.X_OK if os.path.isdir(path) else os.X_OK  # noqa: PTH112
    return os.access(path, mode)


def drop_privileges(user: str, reach: list[str]) -> None:
    """Become `user` with the least that still reaches every path, or exit with a status that says so."""

    def reaches(capability: int | None) -> bool:
        become(user, capability)
        return all(usable(path) for path in reach)

    for capability in (None, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if succeeds(lambda capability=capability: reaches(capability)):  # type: ignore[misc]
            become(user, capability)
            return
    sys.stderr.write(f"user {user} cannot use one of: {', '.join(reach)}\n")
    sys.exit(CANNOT_REACH)


def prepared_environment(order: dict[str, Any]) -> dict[str, str]:
    """What the command sees: nothing but the order's variables, or ours without the gateway's and the order's."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if order["inherit"] and (name.startswith("GATEWAY_POOL_") or not name.startswith("GATEWAY_"))
    }
    given: dict[str, str] = order["environment"]
    return inherited | given


def main() -> None:
    """Read the order, change user, tie our life to the parent's, become the command."""
    order = json.loads(sys.argv[1])
    command = order["command"]
    if order["user"] is not None:
        drop_privileges(order["user"], order["reach"])
    if sys.platform == "linux":
        # After the change of user, which would clear it.
        checked(libc.prctl(PR_SET_PDEATHSIG, order["death_signal"], 0, 0, 0), "set parent death signal")
        if os.getppid() != order["parent_pid"]:  # it died before we asked to be told
            sys.exit(1)
    os.umask(0o077)
    os.execve(command[0], command, prepared_environment(order))  # noqa: S606


if __name__ == "__main__":
    main()
