"""The settings that a local stack gives to each service process: the one place that writes DMP_* variables. Their
meaning is in services/runtime/settings.py.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.local.databases import database_name
from ops.local.keys import TokenKeys
from ops.local.pki import Identity
from ops.local.registrations import write_registrations
from ops.local.state import Endpoint, Ports, ServiceName, State, StateError
from services.runtime.settings import UNIX, Transport

PREFIX: Final = "DMP_"
_LONGEST_SOCKET_DIRECTORY: Final = 65
"""Bytes; the whole path of a socket may have 103 on macOS, 107 on Linux."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One field for each setting, named as in services/runtime/settings.py; None leaves the default."""

    environment: str
    transport: str
    listen: str
    tls_cert: Path
    tls_key: Path
    tls_ca: Path
    dsn_file: Path
    jwks_file: Path
    keyring_dir: Path
    identity_address: str
    consent_address: str
    document_address: str
    audit_address: str
    redis_url_file: Path
    http_listen: str | None = None
    token_key_file: Path | None = None
    public_url: str | None = None
    clients_file: Path | None = None

    def variables(self) -> dict[str, str]:
        """As DMP_* variables."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in values if value is not None}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all processes of one stack share."""

    state: State
    ports: Ports
    replicas: Mapping[ServiceName, int]
    tokens: TokenKeys
    transport: Transport = "grpcio"

    def socket(self, service: ServiceName, replica: int) -> Path:
        """Where a native replica listens, behind the terminator that has its port."""
        return self._sockets / f"{service}-{replica}.sock"

    @contextmanager
    def sockets_made(self) -> Iterator[None]:
        """The private directory of the sockets, for as long as the stack runs."""
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._sockets.is_symlink() or self._sockets.stat().st_uid != os.geteuid():
            raise StateError(f"{self._sockets} belongs to another user")
        self._sockets.chmod(0o700)
        try:
            yield
        finally:
            shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def _sockets(self) -> Path:
        """Beside the rest of the state, or a short one when that path is too long for a socket."""
        directory = self.state.root / "sockets"
        if len(os.fsencode(directory)) <= _LONGEST_SOCKET_DIRECTORY:
            return directory
        return Path(tempfile.gettempdir()) / f"dmp-{self.state.instance}-sockets"

    def target(self, service: ServiceName) -> str:
        """gRPC target of a service: one address, or all its replicas for round-robin."""
        addresses = [self.ports.address(Endpoint(service, number)) for number in range(self.replicas[service])]
        return addresses[0] if len(addresses) == 1 else "ipv4:" + ",".join(addresses)

    def settings(self, service: ServiceName, replica: int, identity: Identity) -> Settings:
        """Settings of one replica. Replicas share certificate, database and keyring."""
        gateway = service == "gateway"
        return Settings(
            environment="demo",
            transport=self.transport,
            listen=self._listen(service, replica),
            http_listen=self.ports.address(Endpoint(service, replica, "http")) if gateway else None,
            tls_cert=identity.certificate,
            tls_key=identity.key,
            tls_ca=identity.authority,
            dsn_file=self.state.secret(f"{database_name(service)}.dsn"),
            jwks_file=self.tokens.key_set,
            token_key_file=self.tokens.signing_key if gateway else None,
            public_url=f"https://{self.ports.address(Endpoint(service, replica, 'http'))}" if gateway else None,
            clients_file=write_registrations(self.state) if gateway else None,
            keyring_dir=self.state.keyring(service),
            identity_address=self.target("identity"),
            consent_address=self.target("consent"),
            document_address=self.target("document"),
            audit_address=self.target("audit"),
            redis_url_file=self.state.secret("redis.url"),
        )

    def _listen(self, service: ServiceName, replica: int) -> str:
        if self.transport == "native":
            return f"{UNIX}{self.socket(service, replica)}"
        return self.ports.address(Endpoint(service, replica))


def process_environment(settings: Settings, overrides: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service process: ours without its DMP_* variables, the settings, then the overrides."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {"PYTHONUNBUFFERED": "1"} | settings.variables() | dict(overrides)


def endpoints(replicas: Mapping[ServiceName, int], known: Sequence[ServiceName]) -> list[Endpoint]:
    """All that the services of a stack listen on: gRPC for each replica, and HTTP for those of the gateway.

    Services that are `known` but not started keep one address, for the settings of those that name them.
    """
    found = [Endpoint(service, number) for service in known for number in range(max(1, replicas.get(service, 0)))]
    return found + [Endpoint("gateway", number, "http") for number in range(max(1, replicas.get("gateway", 0)))]
