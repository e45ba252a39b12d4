"""TD3.3: the PATCH of a DocumentReference, by id or by its identifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1.document_pb2 import (
    ChangeDocumentRequest,
    Document,
    GetDocumentRequest,
    ResolveUniqueIdRequest,
)
from gateway.fhir import negotiation, search
from gateway.fhir.document_change import change_of, check_touched
from gateway.fhir.document_out import write_document
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.identifiers import parse_token, unique_id_of
from gateway.fhir.json_body import check_resource, parse_json
from gateway.fhir.node import JsonObject
from gateway.fhir.patch.fhirpath_patch import places_of, read_fhirpath_patch
from gateway.fhir.patch.json_patch import parse_patch_json, read_json_patch
from gateway.fhir.patch.operations import Operation, apply, touched
from gateway.fhir.patch.xml_patch import parse_xml_patch, read_xml_patch, selected
from gateway.fhir.refusals import ProtocolRefusal, invalid
from gateway.fhir.tables import documents as table
from gateway.fhir.versions import etag, version_of
from gateway.fhir.xml_body import parse_xml
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name, dossier_name

MOST_BYTES = 64 * 1024

Reader = Callable[[JsonObject], Sequence[Operation]]


class Changes(Endpoints):
    """The endpoints that change documents."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {"document-patch": self.patch, "document-patch-conditional": self.patch_conditional}

    async def patch(self, exchange: Exchange) -> Answer:
        """By the id of the DocumentReference."""
        reader = await _reader(exchange)
        name = document_name(*await self._read_id(exchange, "DocumentReference"))
        return await self._change(exchange, name, reader)

    async def patch_conditional(self, exchange: Exchange) -> Answer:
        """By `identifier`: 404 when nothing matches, 412 when more than one does."""
        reader = await _reader(exchange)
        parameters = await exchange.query(frozenset({"identifier"} | search.PATIENT_NAMES))
        text = parameters.single("identifier")
        if not text:
            raise invalid("identifier", "required", "the document is named: identifier=system|value")
        request = ResolveUniqueIdRequest(unique_id=unique_id_of(*parse_token(text, "identifier"), "identifier"))
        if any(parameters.single(name) for name in search.PATIENT_NAMES):
            link = search.read_patient_parameter(parameters, self._links.base_url)
            request.parent = dossier_name(await self._health_id(exchange, link))
        found = (await self._backend.call(exchange.caller, table.RESOLVE, request)).documents
        if len(found) > 1:
            raise _precondition("identifier", "several documents match: name the patient too")
        if not found:
            await self._refuse(exchange, DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND))
        return await self._change(exchange, found[0].name, reader)

    async def _change(self, exchange: Exchange, name: str, reader: Reader) -> Answer:
        headers = exchange.request.headers
        expected = version_of(headers.get("if-match", ""), "If-Match")
        key = negotiation.idempotency_key(headers)
        current = (await self._backend.call(exchange.caller, table.GET, GetDocumentRequest(name=name))).document
        if expected and expected != current.version:
            raise _precondition("If-Match", "the document has another version")
        before = write_document(current, self._links)
        change = change_of(before, apply(before, reader(before)))
        if change is None:
            return self._answer(current)
        request = ChangeDocumentRequest(
            name=name, change=change, expected_version=expected or current.version, request_id=key
        )
        try:
            changed = (await self._backend.call(exchange.caller, table.CHANGE, request)).document
        except DmpError as error:
            if expected and error.reason == reasons.ERROR_REASON_CONCURRENT_CHANGE:
                raise _precondition("If-Match", "the document has another version") from None
            raise
        return self._answer(changed)

    def _answer(self, document: Document) -> Answer:
        return Answer(write_document(document, self._links), 200, {"ETag": etag(document.version)})


async def _reader(exchange: Exchange) -> Reader:
    """The patch in the body, checked as far as it can be without the document; what it does to the document's JSON."""
    headers = exchange.request.headers
    json_kinds, xml_kinds = negotiation.media_types("json"), negotiation.media_types("xml")
    kind = negotiation.check_content_type(
        headers, negotiation.JSON_PATCH, negotiation.XML_PATCH, *sorted(json_kinds), *sorted(xml_kinds)
    )
    body = await exchange.body.read(MOST_BYTES)
    if kind == negotiation.JSON_PATCH:
        operations = read_json_patch(parse_patch_json(body))
        check_touched(touched(operations))
        return lambda _: operations
    if kind == negotiation.XML_PATCH:
        diff = parse_xml_patch(body)
        check_touched(selected(diff))
        return lambda resource: read_xml_patch(diff, resource)
    parameters = check_resource(parse_json(body) if kind in json_kinds else parse_xml(body), "Parameters")
    check_touched(places_of(parameters))
    return lambda resource: read_fhirpath_patch(parameters, resource)


def _precondition(field: str, description: str) -> DmpError:
    return ProtocolRefusal(412, field, description)
