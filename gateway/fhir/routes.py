"""The routes of the FHIR front, made from the table of interactions. The only module that the gateway's app imports."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_METHOD_NOT_FOUND
from gateway.external_ids import ExternalIds
from gateway.fhir import negotiation
from gateway.fhir.backend import Backend
from gateway.fhir.bodies import BodyBudget
from gateway.fhir.capability import capability_statement
from gateway.fhir.documentation import page
from gateway.fhir.endpoints.bulk import Bulk
from gateway.fhir.endpoints.changes import Changes
from gateway.fhir.endpoints.consents import Consents
from gateway.fhir.endpoints.directory import Directory
from gateway.fhir.endpoints.documents import Documents
from gateway.fhir.endpoints.host_exports import HostExports
from gateway.fhir.endpoints.imports import Imports
from gateway.fhir.endpoints.lists import Lists
from gateway.fhir.endpoints.operations import Operations
from gateway.fhir.endpoints.people import People
from gateway.fhir.endpoints.traces import Traces
from gateway.fhir.exchange import (
    Answer,
    Endpoint,
    Handler,
    OpenHandler,
    Operation,
    correlate,
    query_of,
    refusal,
    render,
)
from gateway.fhir.interactions import INTERACTIONS
from gateway.fhir.ledger import ExportJobs, ImportLedger
from gateway.fhir.openapi import openapi
from gateway.fhir.refusals import ProtocolRefusal
from services.runtime.errors import DmpError

DEFAULT_MAX_BODY_BYTES: Final = 48 * 1024 * 1024
"""A document of 32 MiB in base64, and its metadata."""
_BODIES_AT_ONCE: Final = 4
_NOT_SERVED: Final = "No such resource or operation: GET /metadata lists what is served, in these very letters."
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def routes(
    backend: Backend,
    external_ids: ExternalIds,
    base_url: str,
    ledger: ImportLedger,
    jobs: ExportJobs,
    *,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    max_bodies_bytes: int | None = None,
    version: str = "0.1.0",
) -> list[Route]:
    """The routes under the path of `base_url` (which may end in a path, such as `/fhir`). `ledger` keeps imports and
    `jobs` exports of whole hosts.

    `max_body_bytes` bounds one body, `max_bodies_bytes` all bodies that the process holds (default: four of them).
    """
    base_url = base_url.rstrip("/")
    prefix = urlsplit(base_url).path
    budget = BodyBudget(max_bodies_bytes or _BODIES_AT_ONCE * max_body_bytes)
    handlers = _handlers(backend, external_ids, base_url, ledger, jobs)
    opened = _open_handlers(base_url, version)
    by_path: dict[str, dict[str, Operation]] = {}
    for interaction in INTERACTIONS:
        name = interaction.name
        operation = (
            Operation(interaction, handlers[name])
            if interaction.rpc is not None
            else Operation(interaction, open_handler=opened[name])
        )
        by_path.setdefault(interaction.path, {})[interaction.method] = operation
    found = []
    for path, operations in by_path.items():
        endpoint = Endpoint(operations, backend, budget, max_body_bytes)
        found += [Route(form, endpoint) for form in _forms(prefix, path)]
    return sorted(found, key=lambda route: "{" in route.path)


def exception_handlers() -> Mapping[Any, Any]:
    """For Starlette(exception_handlers=…): paths and methods that no route has, as OperationOutcomes."""
    return {HTTPException: _http_exception}


def _handlers(
    backend: Backend, external_ids: ExternalIds, base_url: str, ledger: ImportLedger, jobs: ExportJobs
) -> Mapping[str, Handler]:
    found: dict[str, Handler] = {}
    for area in (People, Documents, Changes, Lists, Consents, Operations, Directory, Traces, Bulk):
        found |= area(backend, external_ids, base_url).handlers()
    found |= HostExports(backend, external_ids, base_url, jobs).handlers()
    return {**found, **Imports(backend, external_ids, base_url, ledger, found).handlers()}


def _open_handlers(base_url: str, version: str) -> Mapping[str, OpenHandler]:
    """What needs no caller, made once."""
    statement, description = capability_statement(base_url, version), openapi(base_url, version)
    written, shown = orjson.dumps(description), page(description)
    return {
        "capabilities": lambda: Answer(statement),
        "openapi": lambda: Response(written, media_type="application/json"),
        "documentation": lambda: HTMLResponse(shown, headers={"Content-Security-Policy": _POLICY}),
    }


def _forms(prefix: str, path: str) -> list[str]:
    """The paths of an interaction; the base is served with and without its final slash."""
    if path == "/":
        return [prefix, f"{prefix}/"] if prefix else ["/"]
    return [prefix + path]


async def _http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    found: DmpError = (
        ProtocolRefusal(405, "method", "this path has other methods")
        if status == 405
        else DmpError(ERROR_REASON_METHOD_NOT_FOUND, _NOT_SERVED)
    )
    request.state.request_id = negotiation.correlation_id(request.headers)
    request.state.traceparent = negotiation.trace_parent(request.headers)
    request.state.format = "json"
    with suppress(DmpError):
        formats = [value for name, value in query_of(request) if name == "_format"]
        request.state.format = negotiation.answer_format(request.headers, formats)
    response = render(request, refusal(found))
    correlate(request, response)
    return response
