"""One HTTP exchange: from a request to a handler and back, every error as an OperationOutcome. No FHIR content here.

Order (design: order of checks): method and media types, authentication, scope, then the handler, which reads the
routing fields before the rest. A body is read after authentication only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

import orjson
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_DEADLINE_EXCEEDED, ERROR_REASON_INTERNAL
from gateway.fhir import negotiation, shape
from gateway.fhir.backend import Backend, Caller
from gateway.fhir.bodies import BodyBudget, BodyReader
from gateway.fhir.conditional import is_known
from gateway.fhir.interactions import Interaction
from gateway.fhir.json_body import check_resource, parse_json
from gateway.fhir.node import JsonObject, Node
from gateway.fhir.outcome import headers_of, ignored_parameters, outcome, status_of
from gateway.fhir.parameters import Parameters, known, parse_query
from gateway.fhir.refusals import ProtocolRefusal
from gateway.fhir.xml_body import parse_xml
from gateway.fhir.xml_write import to_xml
from services.runtime.errors import DmpError

_log = structlog.get_logger("gateway.fhir")

MOST_FORM_BYTES = 64 * 1024
_READS: Final = frozenset({"read", "vread"})


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
        return self._known(query_of(self.request), names)

    async def parameters(self, names: frozenset[str]) -> Parameters:
        """The search parameters of the query and, for a POST, of the form."""
        pairs = query_of(self.request)
        if self.request.method == "POST":
            if "content-type" in self.request.headers:
                negotiation.check_content_type(self.request.headers, negotiation.FORM)
            form = await self.body.read(MOST_FORM_BYTES)
            if form:  # all may stand in the URL
                negotiation.check_content_type(self.request.headers, negotiation.FORM)
                pairs += parse_query(form, "body")
            if any(name == "_format" for name, _ in pairs):
                self.request.state.format = _format(self.request, pairs)
        found = self._known(pairs, names | shape.NAMES)
        self.request.state.shape = shape.read_shape(found.pairs, self.interaction.resource, search=True)
        return found

    def wants(self, formats: list[str]) -> None:
        """Answer in the format that a body names, where it names one; 406 for one that is not served."""
        if formats:
            self.request.state.format = negotiation.answer_format(self.request.headers, formats)

    def _known(self, pairs: list[tuple[str, str]], names: Set[str]) -> Parameters:
        handling = negotiation.preference(self.request.headers, "handling").lower()
        found = known(pairs, names, strict=handling == "strict")
        if handling == "lenient":
            self.request.state.ignored = found.ignored
        return found


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
                answer = self._refusal(request, error)
            except TimeoutError:
                answer = self._refusal(request, DmpError(ERROR_REASON_DEADLINE_EXCEEDED))
            except Exception as error:  # noqa: BLE001 (the boundary: a defect is logged by type, never shown)
                _log.error("request_failed", error_type=type(error).__name__, exc_info=error)
                answer = self._refusal(request, DmpError(ERROR_REASON_INTERNAL))
        response = answer if isinstance(answer, Response) else render(request, answer)
        if request.method in ("GET", "HEAD") and response.status_code == 200:
            response = _unless_known(request, response)
        correlate(request, response)
        await response(scope, receive, _without_body(send) if request.method == "HEAD" else send)

    async def _answer(self, request: Request, body: BodyReader) -> Answer | Response:
        operation = self.operations.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            raise ProtocolRefusal(405, "method", f"the methods of this path are {self._allowed()}")
        interaction = operation.interaction
        if interaction.answer == "FHIR":
            request.state.format = _format(request, query_of(request))
        if operation.open_handler is not None:
            return operation.open_handler()
        caller = await self.backend.caller(request)
        access = interaction.access
        await self.backend.require_scope(caller, interaction.scopes, access.audit_action, access.transaction)
        if operation.handler is None:
            raise TypeError("an operation has a handler")
        if interaction.code in _READS:
            request.state.shape = shape.read_shape(query_of(request), interaction.resource, search=False)
        answer = await operation.handler(Exchange(request, caller, body, interaction))
        if isinstance(answer, Answer) and answer.status == 200 and hasattr(request.state, "shape"):
            shown = with_ignored(request.state.shape.of(answer.resource), getattr(request.state, "ignored", ()))
            return Answer(shown, 200, answer.headers)
        return answer

    def _refusal(self, request: Request, error: DmpError) -> Answer:
        answer = refusal(error)
        operation = self.operations.get(request.method)
        if answer.status == 422 and operation is not None and operation.interaction.code == "transaction":
            return Answer(answer.resource, 400, answer.headers)  # R4, transactions: "an HTTP 400 or 500 type response"
        if answer.status == 405 and "Allow" not in answer.headers:
            return Answer(answer.resource, 405, {**answer.headers, "Allow": self._allowed()})
        return answer

    def _allowed(self) -> str:
        return ", ".join(sorted({*self.operations, *(("HEAD",) if "GET" in self.operations else ())}))


def query_of(request: Request) -> list[tuple[str, str]]:
    """The pairs of the query string."""
    return parse_query(request.scope["query_string"], "query")


def with_ignored(resource: JsonObject, ignored: Sequence[str]) -> JsonObject:
    """The searchset with an entry that names the parameters that were not used, where there are any."""
    if not ignored or resource.get("type") != "searchset":
        return resource
    entry = {"resource": ignored_parameters(ignored), "search": {"mode": "outcome"}}
    return {**resource, "entry": [*resource.get("entry", ()), entry]}


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


def _format(request: Request, pairs: Sequence[tuple[str, str]]) -> negotiation.Format:
    return negotiation.answer_format(request.headers, [value for name, value in pairs if name == "_format"])


def _unless_known(request: Request, response: Response) -> Response:
    """The answer, or 304 where the client has this version already. The read has been made, and recorded, all the
    same: that nothing has changed is an answer too. (A content as it streams answers for itself.)"""
    if isinstance(response, StreamingResponse):
        return response
    headers = response.headers
    if not is_known(request.headers, headers.get("etag", ""), headers.get("last-modified", "")):
        return response
    kept = {name: headers[name] for name in ("etag", "last-modified", "cache-control") if name in headers}
    return Response(status_code=304, headers=kept)


def _without_body(send: Send) -> Send:
    """What HEAD is answered with: the headers of the GET, whose Content-Length they keep."""

    async def headers_alone(message: Message) -> None:
        if message["type"] == "http.response.body":
            if message.get("more_body", False):
                return
            message = {**message, "body": b""}
        await send(message)

    return headers_alone


def correlate(request: Request, response: Response) -> None:
    """Send the request's correlation back."""
    response.headers["X-Request-Id"] = request.state.request_id
    if request.state.traceparent:
        response.headers["traceparent"] = request.state.traceparent
