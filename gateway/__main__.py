"""The gateway's composition root: one process, FHIR and OAuth on one port, the gRPC relay on another."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server as HttpServer
from grpc_health.v1 import health_pb2
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from dmp.audit.v1 import audit_pb2
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from gateway.admission import Admission
from gateway.backend import PlatformBackend
from gateway.callers import Callers
from gateway.clients import Clients
from gateway.external_ids import ExternalIds
from gateway.fhir.routes import exception_handlers
from gateway.fhir.routes import routes as fhir_routes
from gateway.http_metrics import HttpMetrics
from gateway.oauth.assertion import Assertions
from gateway.oauth.routes import routes as oauth_routes
from gateway.oauth.tokens import Tokens
from gateway.registration import Registration
from gateway.relay import Relay
from gateway.settings import GatewaySettings
from gateway.store import Store
from services.runtime import limits
from services.runtime.access import methods_of
from services.runtime.health import health_port
from services.runtime.observation import Calls, SecurityLog
from services.runtime.server import (
    Service,
    StartRefused,
    background_work,
    open_service,
    run,
    settle,
    stop_on_signals,
)
from services.runtime.tokens import TokenIssuer
from services.runtime.transport import listen

_MIGRATIONS = Path(__file__).parent / "migrations"
_DESCRIPTORS = {
    "identity": identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    "consent": consent_pb2.DESCRIPTOR.services_by_name["ConsentService"],
    "document": document_pb2.DESCRIPTOR.services_by_name["DocumentService"],
    "audit": audit_pb2.DESCRIPTOR.services_by_name["AuditService"],
}
_PURGE_EVERY = 60.0
_KEPT_AFTER_EXPIRY = timedelta(minutes=10)


async def main() -> None:
    """Open, serve until told to stop, close."""
    async with open_service("gateway", GatewaySettings, _MIGRATIONS) as service:
        store = Store(service.pool)
        await store.put_clients(_registrations(service.settings.clients_file))
        clients = Clients(store)
        methods = methods_of(_DESCRIPTORS.values())
        calls, security = Calls(service.telemetry), SecurityLog(service.telemetry)
        callers = Callers(service.token_verifier(), clients, service.trail)
        backend = PlatformBackend(
            callers, {name: service.peer(name) for name in ("identity", "consent", "document", "audit")}, security
        )
        limit = limits.measured(_bounds(service.settings), service.telemetry.metrics)
        relay = Relay(
            methods.values(),
            lambda path: service.peer(path.split(".")[1]),
            callers,
            calls,
            security,
            limit,
            known_first=service.settings.transport == "grpcio",
        )
        stop = stop_on_signals()
        settle()
        relay_server, health = await listen(service.settings, relay, serving=False, client_certificate=False)
        http_server = _http_server(service, Admission(_application(service, store, clients, backend), limit))
        async with (
            health_port(service.settings.health_listen, health),
            background_work([http_server.serve, lambda: _purge(store)], stop),
        ):
            await _serving(service.settings, stop)
            await health.set("", health_pb2.HealthCheckResponse.SERVING)
            await stop.wait()
            await health.enter_graceful_shutdown()
            http_server.stop()  # type: ignore[no-untyped-call]  # the library types nothing here
            await relay_server.stop(service.settings.drain_seconds)
        await backend.close()
        await clients.close()


def _bounds(settings: GatewaySettings) -> limits.Bounds:
    """What takes long here waits at a service, which has a limit of its own: only the gateway's own lag counts."""
    return replace(limits.Bounds.of(settings), seconds=math.inf)


def _application(
    service: Service[GatewaySettings], store: Store, clients: Clients, backend: PlatformBackend
) -> Starlette:
    settings = service.settings
    base_url = settings.public_url.rstrip("/")
    assertions = Assertions(clients, store, frozenset({f"{base_url}/token", base_url}))
    issuer = TokenIssuer(settings.token_key_file, None, settings.token_issuer)
    tokens = Tokens(assertions, issuer, settings.token_audience, settings.token_seconds)
    scopes = frozenset(scope for method in methods_of(_DESCRIPTORS.values()).values() for scope in method.scopes)
    if settings.jwks_file is None:
        raise StartRefused("DMP_JWKS_FILE: required")
    return Starlette(
        routes=[
            *oauth_routes(tokens, base_url, settings.jwks_file, scopes),
            *fhir_routes(backend, ExternalIds(service.keyring), base_url, max_body_bytes=settings.max_message_bytes),
        ],
        exception_handlers=exception_handlers(),
        middleware=[Middleware(HttpMetrics, metrics=service.telemetry.metrics)],
    )


def _http_server(service: Service[GatewaySettings], application: ASGIApp) -> HttpServer:
    settings = service.settings
    host, _, port = settings.http_listen.rpartition(":")
    certificate, key, _ = settings.tls_files()
    logging.getLogger("granian").setLevel(logging.WARNING)
    return HttpServer(
        application,
        address=host.strip("[]"),
        port=int(port),
        interface=Interfaces.ASGI,
        http=HTTPModes.auto,
        websockets=False,
        backlog=1024,
        log_enabled=False,
        ssl_cert=certificate,
        ssl_key=key,
    )


async def _serving(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Return when the HTTP port accepts connections, or when the process is to stop."""
    host, _, port = settings.http_listen.rpartition(":")
    while not stop.is_set():
        try:
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return


async def _purge(store: Store) -> None:
    while True:
        await asyncio.sleep(_PURGE_EVERY)
        await store.purge_assertions(datetime.now(UTC) - _KEPT_AFTER_EXPIRY)


def _registrations(file: Path | None) -> list[Registration]:
    """The declared registrations; StartRefused naming what is wrong with them."""
    if file is None:
        return []
    try:
        return TypeAdapter(list[Registration]).validate_python(json.loads(file.read_bytes()))
    except (ValidationError, json.JSONDecodeError) as error:
        detail = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in (
                error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else ()
            )
        )
        raise StartRefused(f"DMP_CLIENTS_FILE: {detail or 'not JSON'}") from error


if __name__ == "__main__":
    run(main)
