"""Settings: what a workload is told by its environment, typed, checked once, before anything starts.

Every variable is `DMP_` and the field's name in capitals. Secrets come as files only (keys, key sets, a DSN or Redis
URL with a password), so that no listing of an environment or of these settings shows one. Each workload subclasses
`ServiceSettings`, adds what is its own, and narrows to required what it cannot do without:

    class ConsentSettings(ServiceSettings):
        audit_address: Target

Unknown `DMP_` variables are errors: a misspelt setting never passes for a default. (In Kubernetes set
`enableServiceLinks: false`, else it adds variables of its own for services named `dmp-…`.) Nothing here opens a
connection or knows a business rule.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, FilePath, ValidationError, field_validator, model_validator
from pydantic.types import DirectoryPath
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX: Final = "DMP_"
EXIT_CODE: Final = 2
"""What a process exits with when its settings are wrong."""

Environment = Literal["production", "demo", "test"]
Transport = Literal["grpcio", "native"]
LogLevel = Literal["debug", "info", "warning", "error"]

UNIX: Final = "unix:"
"""What the address of a Unix socket begins with; its absolute path follows."""
_LONGEST_SOCKET_PATH: Final = 90
"""Bytes; the kernel takes 103 (macOS) or 107, and sockets beside it have a suffix."""
_HOST_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_Settings = TypeVar("_Settings", bound="ServiceSettings")


class SettingsError(Exception):
    """One or more settings are wrong; the message has a line for each, naming the variable and the rule."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(["wrong settings:", *(f"  {problem}" for problem in problems)]))


def _host_port(value: str) -> str:
    match = _HOST_PORT.fullmatch(value)
    if match is None or int(match[2]) > 65535:
        raise ValueError("must be host:port")
    return value


def _host_port_or_socket(value: str) -> str:
    if not value.startswith(UNIX):
        return _host_port(value)
    path = value.removeprefix(UNIX)
    if not path.startswith("/") or len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"must be unix: and an absolute path of at most {_LONGEST_SOCKET_PATH} bytes")
    return value


def _target(value: str) -> str:
    if value.startswith(("dns:///", "unix:/")):
        return value
    for address in value.removeprefix("ipv4:").removeprefix("ipv6:").split(","):
        _host_port(address)
    return value


def _without_password(value: str) -> str:
    if "password" in value.lower() or urlsplit(value).password is not None:
        raise ValueError("must not hold a password; give the whole URL in a file (the same name with _FILE)")
    return value


Address = Annotated[str, AfterValidator(_host_port)]
"""`host:port` to listen on; port 0 takes a free one."""
Listen = Annotated[str, AfterValidator(_host_port_or_socket)]
"""As `Address`, or `unix:/path`."""
Target = Annotated[str, AfterValidator(_target)]
"""Where a peer is: `host:port`, several with commas, or a gRPC target (`dns:///…`, `ipv4:…`)."""
Url = Annotated[str, AfterValidator(_without_password)]
"""A DSN or URL that holds no password."""


class ServiceSettings(BaseSettings):
    """What every workload may be told. Construct it only by `load`, or with explicit arguments in tests."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    environment: Environment = "production"
    log_level: LogLevel = "info"

    listen: Listen = "127.0.0.1:0"
    """`host:port` with mutual TLS; with the native transport `unix:/path`, where the TLS terminator connects."""
    peer_listen: Address | None = None
    """`host:port` where a native service serves the platform's other services with mutual TLS in process, without the
    terminator: their calls are few and large, and a terminator costs such a call more time than its work."""
    http_listen: Address | None = None
    """Where HTTP is served, by workloads that do (the gateway)."""
    health_listen: Address | None = None
    """Where health checks, and nothing else, are answered without TLS: for probes that show no certificate."""
    transport: Transport = "grpcio"
    """`grpcio` has TLS itself; `native` is faster and stands behind a TLS terminator on the same machine."""
    reflection: bool = False
    drain_seconds: float = Field(default=10, ge=0, le=300)
    """How long calls under way may take once the process is asked to stop."""
    max_message_bytes: int = Field(default=48 << 20, ge=64 << 10, le=256 << 20)
    max_document_bytes: int = Field(default=32 << 20, ge=1 << 10, le=128 << 20)

    concurrency_min: int = Field(default=16, ge=1, le=4096)
    """Calls that may be worked on at once, however slow the process is. More wait, then are refused."""
    concurrency_max: int = Field(default=256, ge=1, le=4096)
    """Calls that may be worked on at once, however quick it is; emergencies have as many places of their own."""
    concurrency_lag_ms: float = Field(default=10, gt=0, le=1000)
    """Mean delay of the event loop by its own work, in milliseconds, above which fewer calls are let in."""
    concurrency_target_ms: float = Field(default=100, gt=0, le=60_000)
    """How long half of the calls may be worked on, in milliseconds, before fewer are let in. Not for the gateway."""
    streams_per_connection: int = Field(default=256, ge=1, le=1 << 16)
    """Calls that one connection may have under way; more wait at the client (grpcio; else the TLS terminator's)."""
    waiting_max: int = Field(default=1024, ge=0, le=1 << 16)
    """Calls of one traffic class that may wait to be let in."""
    waiting_seconds: float = Field(default=5, ge=0, le=60)
    """How long one may wait."""
    stream_stall_seconds: float = Field(default=20, gt=0, le=600)
    """How long a client may take for the next message of a stream that it sends."""
    batch_share: float = Field(default=0.25, gt=0, le=1)
    """The part of the calls worked on at once that batch work may have."""

    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None
    tls_ca: FilePath | None = None
    jwks_file: FilePath | None = None
    """Public keys that verify platform tokens (a JWK set)."""
    token_issuer: str = Field(default="https://dmp.local", min_length=1)
    token_audience: str = Field(default="dmp", min_length=1)
    keyring_dir: DirectoryPath | None = None

    dsn: Url | None = None
    dsn_file: FilePath | None = None
    database_pool_size: int = Field(default=6, ge=1, le=64)
    redis_url: Url | None = None
    redis_url_file: FilePath | None = None

    identity_address: Target | None = None
    consent_address: Target | None = None
    document_address: Target | None = None
    audit_address: Target | None = None

    otlp_endpoint: str | None = None
    """Where traces and metrics go (OTLP over gRPC); nothing is exported without it."""
    trace_ratio: float = Field(default=0.01, ge=0, le=1)

    fault_points: Annotated[frozenset[str], NoDecode] = frozenset()
    """Names of faults that tests switch on, separated by commas; refused in production."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library calls it by these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in counts: `load` reads the environment, and an object in a test depends on none."""
        return (init_settings,)

    @field_validator("fault_points", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return frozenset(filter(None, value.split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tls = (self.tls_cert, self.tls_key, self.tls_ca)
        if any(tls) and not all(tls):
            raise ValueError("DMP_TLS_CERT, DMP_TLS_KEY and DMP_TLS_CA go together")
        if (self.transport == "native") != self.listen.startswith(UNIX):
            raise ValueError("DMP_LISTEN is unix:/path with DMP_TRANSPORT=native, and only then")
        if self.peer_listen is not None and self.transport != "native":
            raise ValueError("DMP_PEER_LISTEN is for DMP_TRANSPORT=native alone: grpcio serves everyone at DMP_LISTEN")
        for name in ("dsn", "redis_url"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                raise ValueError(f"{PREFIX}{name.upper()} and {PREFIX}{name.upper()}_FILE exclude each other")
        if self.concurrency_min > self.concurrency_max:
            raise ValueError("DMP_CONCURRENCY_MIN must not be larger than DMP_CONCURRENCY_MAX")
        if self.max_document_bytes >= self.max_message_bytes:
            raise ValueError("DMP_MAX_MESSAGE_BYTES must be larger than DMP_MAX_DOCUMENT_BYTES")
        if self.environment == "production" and self.fault_points:
            raise ValueError("DMP_FAULT_POINTS is not for production")
        return self

    def database_dsn(self) -> str:
        """The DSN, from DMP_DSN_FILE or DMP_DSN. Raises SettingsError when neither is set."""
        return self._required("dsn")

    def redis(self) -> str | None:
        """The Redis URL, from DMP_REDIS_URL_FILE or DMP_REDIS_URL; None when there is no Redis."""
        return self._secret("redis_url")

    def tls_files(self) -> tuple[Path, Path, Path]:
        """Certificate, key and CA. Raises SettingsError when TLS is not set up: no unauthenticated mode exists."""
        if self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            raise SettingsError(["DMP_TLS_CERT, DMP_TLS_KEY and DMP_TLS_CA: required"])
        return self.tls_cert, self.tls_key, self.tls_ca

    def redacted(self) -> dict[str, str]:
        """Every setting by the name of its variable, for printing. Secrets are files, and only their paths show."""
        return {_variable(name): _shown(getattr(self, name)) for name in type(self).model_fields}

    def _secret(self, name: str) -> str | None:
        file: Path | None = getattr(self, f"{name}_file")
        if file is None:
            plain: str | None = getattr(self, name)
            return plain
        return file.read_text("utf-8").strip()

    def _required(self, name: str) -> str:
        value = self._secret(name)
        if not value:
            raise SettingsError([f"{PREFIX}{name.upper()} or {PREFIX}{name.upper()}_FILE: required"])
        return value


class _GivenEnvironment(EnvSettingsSource):
    """The environment handed over, not the process's own."""

    def __init__(self, settings_cls: type[BaseSettings], environment: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.env_vars = {name.lower(): value for name, value in environment.items() if value != ""}


def load(settings: type[_Settings], env: Mapping[str, str] | None = None) -> _Settings:
    """The settings in `env` (by default this process's environment), an empty variable counting as absent.

    Raises SettingsError that lists every wrong, missing or unknown variable at once.
    """
    environment = os.environ if env is None else env
    problems = _unknown(settings, environment)
    try:
        loaded = settings(**_GivenEnvironment(settings, environment)())
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            message = problem["msg"].removeprefix("Value error, ")
            name = ".".join(str(part) for part in problem["loc"])
            problems.append(f"{_variable(name)}: {message[:1].lower()}{message[1:]}" if name else message)
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return loaded


def load_or_exit(settings: type[_Settings], env: Mapping[str, str] | None = None) -> _Settings:
    """As `load`; wrong settings are printed to stderr and end the process with EXIT_CODE."""
    try:
        return load(settings, env)
    except SettingsError as error:
        exit_with(error)


def exit_with(error: SettingsError) -> NoReturn:
    """Print what is wrong, and end the process as every workload does when its settings are."""
    sys.stderr.write(f"{error}\n")
    raise SystemExit(EXIT_CODE)


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _unknown(settings: type[BaseSettings], environment: Mapping[str, str]) -> list[str]:
    known = [_variable(name) for name in settings.model_fields]
    problems = []
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
            problems.append(f"{name}: unknown" + (f"; did you mean {near[0]}?" if near else ""))
    return problems


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
