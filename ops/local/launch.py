"""The few instructions that run in a child between fork and exec. Run as a script, never imported by the stack.

A child of the stack may neither outlive it (`kill -9` of the supervisor included) nor, for PostgreSQL, run as root.
Both must be set inside the new process; doing it here rather than in a `preexec_fn` keeps Python code out of the fork
of a process that has gRPC's threads. The order matters: a change of user clears the parent-death signal.

    python -I -S launch.py PARENT_PID ORPHAN_SIGNAL UID:GID|- PROGRAM [ARGUMENT…]
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
CANNOT_LAUNCH = 127


def drop_to(account: str) -> None:
    """Becomes the user and group of `UID:GID`, without supplementary groups; `-` stays what it is."""
    if account == "-":
        return
    uid, gid = (int(number) for number in account.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int, orphan_signal: int) -> None:
    """Asks the kernel for `orphan_signal` when the parent's thread ends; leaves at once if it already has.

    Only Linux has this call. Elsewhere a killed stack leaves children, which the next start on the same state ends.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, orphan_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(CANNOT_LAUNCH)


def main(arguments: list[str]) -> None:
    parent, orphan_signal, account, *command = arguments
    try:
        drop_to(account)
        die_with(int(parent), int(orphan_signal))
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
