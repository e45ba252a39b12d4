"""One HTTP exchange: from a request to a handler and back, every error as an OperationOutcome. No FHIR content here.

Order (design: order of checks): method and media types, authentication, scope, then the handler, which reads the
routing fields before the rest. A body is read after authentication only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import orjson
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_DEADLINE_EXCEEDED, ERROR_REASON_INTERNAL
from gateway.fhir import negotiation
from gateway.fhir.backend import Backend, Caller
from gateway.fhir.bodies import BodyBudget, BodyReader
from gateway.fhir.interactions import Interaction
from gateway.fhir.json_body import check_resource, parse_json
from gateway.fhir.node import JsonObject, Node
from gateway.fhir.outcome import headers_of, outcome, status_of
from gateway.fhir.parameters import Parameters, known, parse_query
from gateway.fhir.refusals import ProtocolRefusal
from gateway.fhir.xml_body import parse_xml
from gateway.fhir.xml_write import to_xml
from services.runtime.errors import DmpError

_log = structlog.get_logger("gateway.fhir")

MOST_FORM_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A FHIR resource as an answer, in whatever format was asked for."""

    resource: JsonObject
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An authenticated request on its way through a handler."""

    request: Request
    caller: Caller
    body: BodyReader
    interaction: Interaction

    async def resource(self, *expected: str) -> Node:
        """The FHIR resource in the body, JSON or XML; its type is one of `expected`."""
        parse = parse_json if negotiation.body_format(self.request.headers) == "json" else parse_xml
        return check_resource(parse(await self.body.read()), *expected)

    async def query(self, names: frozenset[str]) -> Parameters:
        """The parameters of the query alone."""
        strict = negotiation.preference(self.request.headers, "handling") == "strict"
        return known(query_of(self.request), names, strict=strict)

    async def parameters(self, names: frozenset[str]) -> Parameters:
        """The search parameters of the query and, for a POST, of the form."""
        pairs = query_of(self.request)
        if self.request.method == "POST":
            negotiation.check_content_type(self.request.headers, negotiation.FORM)
            form = await self.body.read(MOST_FORM_BYTES)
            pairs += parse_query(form, "body")
        strict = negotiation.preference(self.request.headers, "handling") == "strict"
        return known(pairs, names, strict=strict)


Handler = Callable[[Exchange], Awaitable[Answer | Response]]
OpenHandler = Callable[[], Answer | Response]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a method of a path does. `open_handler` is for what needs no caller."""

    interaction: Interaction
    handler: Handler | None = None
    open_handler: OpenHandler | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The ASGI application of one path: its operations by HTTP method."""

    operations: Mapping[str, Operation]
    backend: Backend
    budget: BodyBudget
    max_body_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request.state.request_id = negotiation.correlation_id(request.headers)
        request.state.traceparent = negotiation.trace_parent(request.headers)
        request.state.format = "json"
        with BodyReader(request, self.budget, self.max_body_bytes) as body:
            try:
                answer = await self._answer(request, body)
            except ClientDisconnect:
                return
            except DmpError as error:
                answer = self._refusal(error)
            except TimeoutError:
                answer = self._refusal(DmpError(ERROR_REASON_DEADLINE_EXCEEDED))
            except Exception as error:  # noqa: BLE001 (the boundary: a defect is logged by type, never shown)
                _log.error("request_failed", error_type=type(error).__name__, exc_info=error)
                answer = self._refusal(DmpError(ERROR_REASON_INTERNAL))
        response = answer if isinstance(answer, Response) else render(request, answer)
        correlate(request, response)
        await response(scope, receive, send)

    async def _answer(self, request: Request, body: BodyReader) -> Answer | Response:
        operation = self.operations.get(request.method)
        if operation is None:
            allowed = ", ".join(sorted(self.operations))
            raise ProtocolRefusal(405, "method", f"the methods of this path are {allowed}")
        interaction = operation.interaction
        if interaction.answer == "FHIR":
            formats = [value for name, value in query_of(request) if name == "_format"]
            request.state.format = negotiation.answer_format(request.headers, formats)
        if operation.open_handler is not None:
            return operation.open_handler()
        caller = await self.backend.caller(request)
        access = interaction.access
        await self.backend.require_scope(caller, interaction.scopes, access.audit_action, access.transaction)
        if operation.handler is None:
            raise TypeError("an operation has a handler")
        return await operation.handler(Exchange(request, caller, body, interaction))

    def _refusal(self, error: DmpError) -> Answer:
        answer = refusal(error)
        if answer.status == 405 and "Allow" not in answer.headers:
            return Answer(answer.resource, 405, {**answer.headers, "Allow": ", ".join(sorted(self.operations))})
        return answer


def query_of(request: Request) -> list[tuple[str, str]]:
    """The pairs of the query string."""
    return parse_query(request.scope["query_string"], "query")


def render(request: Request, answer: Answer) -> Response:
    """An answer in the format that the request wants. Nothing that the platform answers may be kept by a cache."""
    xml = request.state.format == "xml"
    body = to_xml(answer.resource) if xml else orjson.dumps(answer.resource)
    response = Response(body, answer.status, media_type=negotiation.FHIR_XML if xml else negotiation.FHIR_JSON)
    response.headers.update({"Cache-Control": "no-store", **answer.headers})
    return response


def refusal(error: DmpError) -> Answer:
    """The OperationOutcome of an error as an answer."""
    return Answer(outcome(error), status_of(error), headers_of(error))


def correlate(request: Request, response: Response) -> None:
    """Send the request's correlation back."""
    response.headers["X-Request-Id"] = request.state.request_id
    if request.state.traceparent:
        response.headers["traceparent"] = request.state.traceparent
