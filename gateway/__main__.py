"""The gateway's composition root: one process, FHIR and OAuth on one port, the gRPC relay on another."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server as HttpServer
from grpc_health.v1 import health_pb2
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from dmp.audit.v1 import audit_pb2
from dmp.consent.v1 import consent_pb2, rights_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.identity.v1 import identity_pb2
from gateway import reflection
from gateway.admission import Admission
from gateway.backend import PlatformBackend
from gateway.callers import Callers
from gateway.clients import Clients
from gateway.connections import ConnectionBounds, Connections
from gateway.denials import Denials
from gateway.early_refusals import EarlyRefusals, OverQuota
from gateway.external_ids import ExternalIds
from gateway.fairness import Fairness
from gateway.fhir.routes import exception_handlers
from gateway.fhir.routes import routes as fhir_routes
from gateway.http_metrics import HttpMetrics
from gateway.limits import HttpLimits
from gateway.log import LogPages
from gateway.oauth.assembly import OAuth, assemble
from gateway.oauth.mutual_tls import mutual_tls_port
from gateway.oauth.routes import ServerNames
from gateway.oauth.routes import routes as oauth_routes
from gateway.operators import PARTNER_SERVICE, operator_port
from gateway.own_methods import own_methods
from gateway.partners.service import PartnerServicer
from gateway.quotas import Quotas
from gateway.registration import QuotaRegistration, Registration
from gateway.relay import Relay
from gateway.settings import GatewaySettings
from gateway.store import Exports, Imports, SignIns, Store, UsageStore
from gateway.usage import Usage
from services.runtime import limits
from services.runtime.access import methods_of
from services.runtime.health import health_port
from services.runtime.observation import Calls, SecurityLog
from services.runtime.paging import PageTokens
from services.runtime.redis import Redis
from services.runtime.server import (
    Background,
    Service,
    StartRefused,
    background_work,
    open_service,
    run,
    settle,
    stop_on_signals,
)
from services.runtime.tls import TlsFiles
from services.runtime.transport import listen

_MIGRATIONS = Path(__file__).parent / "migrations"
_METHODS = methods_of(
    descriptor
    for file in (identity_pb2, consent_pb2, rights_pb2, document_pb2, clinical_pb2, audit_pb2)
    for descriptor in file.DESCRIPTOR.services_by_name.values()
)
"""The methods of the services, each behind the service that its package is named for."""
_OWN = methods_of([PARTNER_SERVICE])
_PURGE_EVERY = 60.0
_KEPT_AFTER_EXPIRY = timedelta(minutes=10)
_IMPORTS_KEPT = timedelta(days=30)


async def main() -> None:
    """Open, serve until told to stop, close."""
    async with open_service("gateway", GatewaySettings, _MIGRATIONS) as service:
        await Store(service.pool).declare_clients(_registrations(service.settings.clients_file))
        shared = Redis(service.settings.redis())
        try:
            await _serve(service, shared)
        finally:
            await shared.close()


async def _serve(service: Service[GatewaySettings], shared: Redis) -> None:
    settings, pool = service.settings, service.pool
    store, usage = Store(pool), Usage(UsageStore(pool))
    clients, outbox = Clients(store), service.outbox_relay()
    calls, security = Calls(service.telemetry), SecurityLog(service.telemetry)
    quotas = Quotas(shared, _default_quota(settings), gateways=settings.gateways)
    callers = Callers(service.token_verifier(), clients, service.trail, quotas)
    denials = Denials(store, _targets(settings), settings)

    async def changed() -> None:
        outbox.kick()
        await denials.tell()

    oauth = assemble(service, clients, quotas, lambda method, reason: security.refused(method, reason, ""), changed)
    limit = limits.measured(_bounds(settings), service.telemetry.metrics)
    fairness = Fairness(limit)
    everything = [*_METHODS.values(), *_OWN.values()]
    partners = PartnerServicer(
        pool, store, UsageStore(pool), denials, service.trail, PageTokens(service.keyring), everything, outbox.kick
    )
    relay = Relay(
        _METHODS.values(),
        lambda path: service.peer(path.split(".")[1]),
        callers,
        calls,
        security,
        limit,
        fairness,
        usage,
        known_first=settings.transport == "grpcio",
        own=own_methods(partners, _OWN.values(), callers),
        bidirectional=reflection.handlers(everything, callers, security),
    )
    peers = {name: service.peer(name) for name in ("identity", "consent", "document", "audit")}
    over_quota = OverQuota(quotas)
    backend = PlatformBackend(callers, peers, security, over_quota)
    served = HttpLimits(Admission(_application(service, oauth, backend), fairness, usage))
    prefix = urlsplit(settings.public_url.rstrip("/")).path
    http = EarlyRefusals(served, over_quota, usage, service.telemetry.metrics, prefix)
    purged = (SignIns(pool), Imports(pool), Exports(pool))
    background = [denials.run, usage.run, outbox.run, _connections(settings).run, lambda: _purge(store, *purged)]
    async with (
        mutual_tls_port(settings.mutual_tls_listen, TlsFiles(*settings.tls_files()), oauth.forms.by_path),
        operator_port(service, partners, calls, security),
    ):
        await _listen(service, relay, _http_server(service, http), background)
    await usage.flush()
    await oauth.close()
    await backend.close()
    await clients.close()


async def _listen(
    service: Service[GatewaySettings], relay: Relay, http_server: HttpServer, background: Sequence[Background]
) -> None:
    """Serve HTTP and the relay until told to stop, and end what is under way."""
    settings, stop = service.settings, stop_on_signals()
    closed = settings.model_copy(update={"reflection": False})  # the relay's own asks who wants to know
    settle()
    relay_server, health = await listen(closed, relay, serving=False, client_certificate=False)
    async with (
        health_port(settings.health_listen, health),
        background_work([http_server.serve, *background], stop),
    ):
        await _serving(settings, stop)
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        await stop.wait()
        await health.enter_graceful_shutdown()
        http_server.stop()  # type: ignore[no-untyped-call]  # the library types nothing here
        await relay_server.stop(settings.drain_seconds)
        await relay.close()


def _bounds(settings: GatewaySettings) -> limits.Bounds:
    """What takes long here waits at a service, which has a limit of its own: only the gateway's own lag counts."""
    return replace(limits.Bounds.of(settings), seconds=math.inf)


def _connections(settings: GatewaySettings) -> Connections:
    port = int(settings.http_listen.rpartition(":")[2])
    return Connections(port, ConnectionBounds(most=settings.http_connections))


def _default_quota(settings: GatewaySettings) -> QuotaRegistration:
    return QuotaRegistration(requests_per_second=settings.quota_requests_per_second, burst=settings.quota_burst)


def _targets(settings: GatewaySettings) -> dict[str, str]:
    """Where each service is, for what all of its processes are to be told."""
    return {
        "identity": settings.identity_address,
        "consent": settings.consent_address,
        "document": settings.document_address,
        "audit": settings.audit_address,
    }


def _application(service: Service[GatewaySettings], oauth: OAuth, backend: PlatformBackend) -> Starlette:
    settings = service.settings
    base_url = settings.public_url.rstrip("/")
    if settings.jwks_file is None:
        raise StartRefused("DMP_JWKS_FILE: required")
    scopes = frozenset(scope for method in (*_METHODS.values(), *_OWN.values()) for scope in method.scopes)
    names = ServerNames(base_url, settings.mutual_tls_url.rstrip("/"), scopes, signs_in=bool(oauth.providers))
    application = Starlette(
        routes=[
            *LogPages(service.peer("audit")).routes(),
            *oauth_routes(oauth.forms, oauth.pages, names, settings.jwks_file),
            *fhir_routes(
                backend,
                ExternalIds(service.keyring),
                base_url,
                Imports(service.pool),
                Exports(service.pool),
                max_body_bytes=settings.max_message_bytes,
            ),
        ],
        exception_handlers=exception_handlers(),
        middleware=[Middleware(HttpMetrics, metrics=service.telemetry.metrics)],
    )
    application.router.redirect_slashes = False  # it would send people to whatever host their request names
    return application


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
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=64 << 10),
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


async def _purge(store: Store, sign_ins: SignIns, imports: Imports, exports: Exports) -> None:
    while True:
        await asyncio.sleep(_PURGE_EVERY)
        before = datetime.now(UTC) - _KEPT_AFTER_EXPIRY
        await store.purge_assertions(before)
        await sign_ins.purge(before)
        await imports.purge(before - _IMPORTS_KEPT)
        await exports.purge(before)


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
