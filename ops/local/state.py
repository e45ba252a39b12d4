"""The state directory of a local stack: where each file lies, which ports it uses, and the lock that keeps two stacks
apart. Only paths, ports and the lock; what is in the files belongs to `pki`, `keys`, `postgres` and `redis`.

    .dmp/
      lock                    held while a stack runs; names its process
      instance                random name of this state, for what must lie elsewhere
      ports.json              chosen once, kept while they are free
      processes/<name>        process id and birth of each child, to end what a killed stack has left
      log/<name>.log          output of each process
      pki/                    certificate authority and certificates       (see `pki`)
      tokens/ keyring/ clients/   keys                                     (see `keys`)
      secrets/                passwords, DSNs and the Redis URL, one a file
      postgres/               data directory, unless PostgreSQL's user cannot reach it (see `postgres`)
      redis/                  configuration
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast

ServiceName = Literal["identity", "consent", "document", "audit", "gateway"]
Part = Literal["identity", "consent", "document", "audit", "gateway", "postgres", "redis", "openid", "witness"]
Channel = Literal["tcp", "grpc", "peers", "http", "mutual-tls", "operator"]

SERVICES: Final[tuple[ServiceName, ...]] = ("audit", "consent", "identity", "document", "gateway")
"""In the order of their calls: each is stopped before those that it calls."""

LOOPBACK: Final = "127.0.0.1"
DEFAULT_STATE: Final = Path(__file__).resolve().parents[2] / ".dmp"
PORT_RANGE: Final = range(20_000, 32_000)
"""Below the ephemeral ports of Linux and macOS, which outgoing connections borrow."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


class StateError(Exception):
    """The state directory cannot be used: taken by another stack, not ours, or damaged."""


def checked_name(name: str) -> str:
    """`name` if it can be one component of a path and of a SPIFFE id; ValueError otherwise."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of lower-case letters, digits, '.', '_' and '-'")
    return name


def write_private(path: Path, content: bytes | str) -> None:
    """Puts `content` at `path`, readable by its owner only, whole or not at all; parents are made private as well."""
    write_whole(path, content, mode=0o600)


def write_whole(path: Path, content: bytes | str, *, mode: int) -> None:
    """Replaces `path` in one step, so that a reader sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something that listens: a database, or one replica of a service on one of its channels."""

    part: Part
    replica: int = 0
    channel: Channel = "grpc"

    def __str__(self) -> str:
        return f"{self.part}/{self.replica}/{self.channel}"


def _endpoint(written: str) -> Endpoint:
    """The endpoint that `str` wrote."""
    part, replica, channel = written.split("/")
    return Endpoint(cast("Part", part), int(replica), cast("Channel", channel))


POSTGRES: Final = Endpoint("postgres", channel="tcp")
REDIS: Final = Endpoint("redis", channel="tcp")
OPENID: Final = Endpoint("openid", channel="http")

PREFERRED_PORTS: Final[Mapping[Endpoint, int]] = {
    Endpoint("gateway", channel="http"): 8443,
    Endpoint("gateway", channel="grpc"): 8444,
    Endpoint("gateway", channel="mutual-tls"): 8445,
    Endpoint("gateway", channel="operator"): 8446,
    OPENID: 8447,
}
"""What a demo tries first, so that its addresses are easy to remember. Tests choose at random."""


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on 127.0.0.1, one for each endpoint."""

    numbers: Mapping[Endpoint, int]

    def __getitem__(self, endpoint: Endpoint) -> int:
        return self.numbers[endpoint]

    def address(self, endpoint: Endpoint) -> str:
        """`127.0.0.1:port`."""
        return f"{LOOPBACK}:{self.numbers[endpoint]}"


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now (connections still closing do not count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _free_port(taken: set[int], chance: random.Random) -> int:
    for _ in range(1_000):
        port = chance.choice(PORT_RANGE)
        if port not in taken and is_free(port):
            return port
    raise StateError(f"no free port found between {PORT_RANGE.start} and {PORT_RANGE.stop - 1}")


@dataclass(frozen=True, slots=True)
class State:
    """An opened state directory. `State.open` makes it; the properties only name paths."""

    root: Path
    instance: str = field(repr=False)

    @classmethod
    def open(cls, root: Path | None = None) -> State:
        """Opens `root`, else the directory named by DMP_STATE, else `.dmp` in the checkout; creates it if needed.

        Errors: StateError when it belongs to another user, whose keys we could neither read nor safely replace.
        """
        chosen = root or Path(os.environ.get("DMP_STATE") or DEFAULT_STATE)
        chosen = chosen.expanduser().resolve()
        # Others may pass through (PostgreSQL's user must reach its data), not list; each part protects its own files.
        chosen.mkdir(parents=True, exist_ok=True)
        owner = chosen.stat().st_uid
        if owner != os.geteuid():
            raise StateError(f"{chosen} belongs to user {owner}, not to {os.geteuid()}; choose another with DMP_STATE")
        chosen.chmod(0o711)
        instance = chosen / "instance"
        if not instance.exists():
            write_private(instance, secrets.token_hex(8))
        return cls(chosen, checked_name(instance.read_text(encoding="ascii").strip()))

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def clients(self) -> Path:
        return self.root / "clients"

    @property
    def openid(self) -> Path:
        return self.root / "openid"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    def keyring(self, service: ServiceName) -> Path:
        return self.root / "keyring" / service

    def log(self, name: str) -> Path:
        return self.root / "log" / f"{name}.log"

    def process_file(self, name: str) -> Path:
        return self.root / "processes" / name

    def process_files(self) -> list[Path]:
        """One file for each child that was started and not seen to stop."""
        return sorted((self.root / "processes").glob("[a-z]*"))

    def secret(self, name: str) -> Path:
        return self.root / "secrets" / name

    def password(self, name: str) -> str:
        """The password called `name`, made at first use: 192 random bits in hexadecimal."""
        path = self.secret(f"{name}.password")
        if not path.exists():
            write_private(path, secrets.token_hex(24))
        return path.read_text(encoding="ascii").strip()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the state for this process. The kernel lets go when the process ends, however it ends.

        Errors: StateError, naming the process that holds it.
        """
        with (self.root / "lock").open("a+", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "another"
                raise StateError(
                    f"{self.root} is in use by process {holder}; stop that stack or choose another with DMP_STATE"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def holder(self) -> str | None:
        """Process id of the stack that runs on this state; None when none does."""
        with (self.root / "lock").open("a+", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                return lock.read().strip() or "unknown"
            return None

    def recorded_ports(self) -> Ports:
        """The ports chosen last: where a running stack listens. For commands beside it, which choose none."""
        return Ports({_endpoint(written): port for written, port in self._known_ports().items()})

    def _known_ports(self) -> dict[str, int]:
        path = self.root / "ports.json"
        if not path.exists():
            return {}
        known: dict[str, int] = json.loads(path.read_text(encoding="ascii"))
        return known

    def ports(
        self,
        wanted: Iterable[Endpoint],
        *,
        preferred: Mapping[Endpoint, int] | None = None,
        chance: random.Random | None = None,
    ) -> Ports:
        """A free port for each endpoint: the one of last time, else the preferred one, else a random one; remembered.

        To be called with the state locked and its former processes gone.
        """
        known = self._known_ports()
        chance = chance or random.SystemRandom()
        chosen: dict[Endpoint, int] = {}
        for endpoint in wanted:
            taken = set(chosen.values())
            candidates = (known.get(str(endpoint)), (preferred or {}).get(endpoint))
            kept = next((p for p in candidates if p is not None and p not in taken and is_free(p)), None)
            chosen[endpoint] = kept if kept is not None else _free_port(taken | set(known.values()), chance)
        known.update({str(endpoint): port for endpoint, port in chosen.items()})
        write_private(self.root / "ports.json", json.dumps(known, indent=2, sort_keys=True))
        return Ports(chosen)
