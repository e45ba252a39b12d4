"""The port of operators: gRPC with mutual TLS, on which the registrations are kept. Served as a service serves its own
methods: certificate, token, caller, scope, trail (`services.runtime.dispatcher`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dmp.gateway.v1 import partner_pb2
from gateway.settings import GatewaySettings
from services.runtime import limits
from services.runtime.access import methods_of
from services.runtime.authentication import Authenticator
from services.runtime.dispatcher import Dispatcher
from services.runtime.observation import Calls, SecurityLog
from services.runtime.server import Service
from services.runtime.transport import listen

PARTNER_SERVICE = partner_pb2.DESCRIPTOR.services_by_name["PartnerService"]


@asynccontextmanager
async def operator_port(
    service: Service[GatewaySettings], servicer: object, calls: Calls, security: SecurityLog
) -> AsyncIterator[None]:
    """Serve PartnerService at DMP_OPERATOR_LISTEN during the body; without an address, do nothing."""
    settings = service.settings
    if settings.operator_listen is None:
        yield
        return
    dispatcher = Dispatcher(
        methods_of([PARTNER_SERVICE]),
        {PARTNER_SERVICE.full_name: servicer},
        Authenticator(service.token_verifier()),
        service.trail,
        calls,
        security,
        limits.Limit(limits.Bounds.of(settings)),
    )
    own = settings.model_copy(update={"listen": settings.operator_listen, "transport": "grpcio", "reflection": False})
    server, _ = await listen(own, dispatcher, [PARTNER_SERVICE.full_name])
    try:
        yield
    finally:
        await server.stop(settings.drain_seconds)
