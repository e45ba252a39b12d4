"""The routes of the FHIR front, made from the table of interactions. The only module that the gateway's app imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_METHOD_NOT_FOUND
from gateway.external_ids import ExternalIds
from gateway.fhir import negotiation
from gateway.fhir.backend import Backend
from gateway.fhir.bodies import BodyBudget
from gateway.fhir.capability import capability_statement
from gateway.fhir.exchange import Endpoint, Handler, Operation, correlate, error_response, json_response
from gateway.fhir.handlers import Handlers
from gateway.fhir.interactions import INTERACTIONS, Name
from gateway.fhir.refusals import ProtocolRefusal
from services.runtime.errors import DmpError

DEFAULT_MAX_BODY_BYTES: Final = 48 * 1024 * 1024
"""A document of 32 MiB in base64, and its metadata."""
_BODIES_AT_ONCE: Final = 4


def routes(
    backend: Backend,
    external_ids: ExternalIds,
    base_url: str,
    *,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    max_bodies_bytes: int | None = None,
    version: str = "0.1.0",
) -> list[Route]:
    """The routes under the path of `base_url` (which may end in a path, such as `/fhir`).

    `max_body_bytes` bounds one body, `max_bodies_bytes` all bodies that the process holds (default: four of them).
    """
    base_url = base_url.rstrip("/")
    prefix = urlsplit(base_url).path
    budget = BodyBudget(max_bodies_bytes or _BODIES_AT_ONCE * max_body_bytes)
    handlers = _handlers(Handlers(backend, external_ids, base_url))
    statement = capability_statement(base_url, version)
    by_path: dict[str, dict[str, Operation]] = {}
    for interaction in INTERACTIONS:
        operation = (
            Operation(interaction, handlers[interaction.name])
            if interaction.rpc
            else Operation(interaction, open_handler=lambda: json_response(statement))
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


def _handlers(handlers: Handlers) -> Mapping[Name, Handler]:
    return {
        "patient-search": handlers.patient_search,
        "patient-read": handlers.patient_read,
        "provide-bundle": handlers.provide_bundle,
        "simplified-publish": handlers.simplified_publish,
        "document-search": handlers.document_search,
        "document-read": handlers.document_read,
        "binary-read": handlers.binary_read,
    }


def _forms(prefix: str, path: str) -> list[str]:
    """The paths of an interaction; the base is served with and without its final slash."""
    if path == "/":
        return [prefix, f"{prefix}/"] if prefix else ["/"]
    return [prefix + path]


async def _http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    refusal: DmpError = (
        ProtocolRefusal(405, "method", "this path has other methods")
        if status == 405
        else DmpError(ERROR_REASON_METHOD_NOT_FOUND, "No such resource or operation.")
    )
    request.state.request_id = negotiation.correlation_id(request.headers)
    request.state.traceparent = negotiation.trace_parent(request.headers)
    response = error_response(refusal)
    correlate(request, response)
    return response
