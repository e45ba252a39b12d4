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
from ops.local.keys import TokenKeys, ensure_log_keys
from ops.local.national_identities import write_national_identities
from ops.local.pki import Identity
from ops.local.providers import write_providers
from ops.local.registrations import write_registrations
from ops.local.state import OPENID, Channel, Endpoint, Ports, ServiceName, State, StateError
from services.runtime.settings import UNIX, Transport

PREFIX: Final = "DMP_"
GATEWAY_CHANNELS: Final[tuple[Channel, ...]] = ("http", "mutual-tls", "operator")
"""What a gateway listens on beside its relay."""
_CALLED_AT: Final[Mapping[bool, tuple[Channel, ...]]] = {False: ("grpc", "peers"), True: ("grpc",)}
"""Where gRPC is served; True is the gateway, which no service calls. Without a terminator all call at the first."""
LOG_ORIGIN: Final = "dmp.local/log"
"""What the origins of the audit logs begin with."""
_LONGEST_SOCKET_DIRECTORY: Final = 65
"""Bytes; the whole path of a socket may have 103 on macOS, 107 on Linux."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One field for each setting, named as in services/runtime/settings.py; None leaves the default."""

    environment: str
    transport: str
    listen: str
    peer_listen: str | None
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
    mutual_tls_listen: str | None = None
    mutual_tls_url: str | None = None
    operator_listen: str | None = None
    openid_file: Path | None = None
    audit_log_keys_dir: Path | None = None
    audit_witness_policy_file: Path | None = None
    insi_simulator_file: Path | None = None

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
    witness_policy: Path | None = None
    """The witnesses of the audit log, if it has any."""

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
        return self._all(service, "grpc")

    def peers(self, service: ServiceName) -> str:
        """As `target`, where the other services call it: not through its terminator, where it has one."""
        return self._all(service, "peers" if self.transport == "native" else "grpc")

    def _all(self, service: ServiceName, channel: Channel) -> str:
        numbers = range(self.replicas[service])
        addresses = [self.ports.address(Endpoint(service, number, channel)) for number in numbers]
        return addresses[0] if len(addresses) == 1 else "ipv4:" + ",".join(addresses)

    def settings(self, service: ServiceName, replica: int, identity: Identity) -> Settings:
        """Settings of one replica. Replicas share certificate, database and keyring."""
        settings = self._common(service, replica, identity)
        return self._of_gateway(settings, replica) if service == "gateway" else settings

    def _of_gateway(self, settings: Settings, replica: int) -> Settings:
        """What the gateway is told besides: its other ports, its signing key, its clients, who signs people in."""
        http, mutual_tls, operators = (
            self.ports.address(Endpoint("gateway", replica, channel)) for channel in GATEWAY_CHANNELS
        )
        return dataclasses.replace(
            settings,
            http_listen=http,
            token_key_file=self.tokens.signing_key,
            public_url=f"https://{http}",
            clients_file=write_registrations(self.state),
            mutual_tls_listen=mutual_tls,
            mutual_tls_url=f"https://{mutual_tls}",
            operator_listen=operators,
            openid_file=write_providers(self.state, self.ports.address(OPENID)),
        )

    def _common(self, service: ServiceName, replica: int, identity: Identity) -> Settings:
        audit = service == "audit"
        return Settings(
            environment="demo",
            transport=self.transport,
            listen=self._listen(service, replica),
            peer_listen=self._peer_listen(service, replica),
            tls_cert=identity.certificate,
            tls_key=identity.key,
            tls_ca=identity.authority,
            dsn_file=self.state.secret(f"{database_name(service)}.dsn"),
            jwks_file=self.tokens.key_set,
            keyring_dir=self.state.keyring(service),
            audit_log_keys_dir=ensure_log_keys(self.state, LOG_ORIGIN) if audit else None,
            audit_witness_policy_file=self.witness_policy if audit else None,
            insi_simulator_file=write_national_identities(self.state) if service == "identity" else None,
            identity_address=self.peers("identity"),
            consent_address=self.peers("consent"),
            document_address=self.peers("document"),
            audit_address=self.peers("audit"),
            redis_url_file=self.state.secret("redis.url"),
        )

    def _listen(self, service: ServiceName, replica: int) -> str:
        if self.transport == "native":
            return f"{UNIX}{self.socket(service, replica)}"
        return self.ports.address(Endpoint(service, replica))

    def _peer_listen(self, service: ServiceName, replica: int) -> str | None:
        if self.transport != "native" or service == "gateway":
            return None
        return self.ports.address(Endpoint(service, replica, "peers"))


def process_environment(settings: Settings | None, overrides: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process: ours without its DMP_* variables, a service's settings, then the overrides."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    variables = {} if settings is None else settings.variables()
    return inherited | {"PYTHONUNBUFFERED": "1"} | variables | dict(overrides)


def endpoints(replicas: Mapping[ServiceName, int], known: Sequence[ServiceName]) -> list[Endpoint]:
    """All that the services of a stack may listen on: gRPC for each replica, for clients and for the other services,
    the gateway's other ports, and the OpenID provider.

    Services that are `known` but not started keep one address, for the settings of those that name them.
    """
    found = [
        Endpoint(service, number, channel)
        for service in known
        for number in range(max(1, replicas.get(service, 0)))
        for channel in _CALLED_AT[service == "gateway"]
    ]
    gateways = range(max(1, replicas.get("gateway", 0)))
    found += [Endpoint("gateway", number, channel) for number in gateways for channel in GATEWAY_CHANNELS]
    return [*found, OPENID]
