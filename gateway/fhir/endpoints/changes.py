"""TD3.3: the PATCH of a DocumentReference, by id or by its identifier.

A patch is applied to the document as the caller may read it. Taking back what one fed needs no authorisation, so a
patch of the status alone is applied to what a feeder may know instead (decision 0039), and nothing is read for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1.document_pb2 import (
    DOCUMENT_CHANGE_DELETE,
    DOCUMENT_STATUS_DELETED,
    ChangeDocumentRequest,
    Document,
    DocumentReference,
    GetDocumentRequest,
    ResolveUniqueIdRequest,
)
from gateway.fhir import negotiation, search
from gateway.fhir.document_change import ERROR, Change, change_of, check_touched
from gateway.fhir.document_out import write_document, write_reference
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.identifiers import unique_id_token
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
_CURRENT: Final[JsonObject] = {"resourceType": "DocumentReference", "status": "current"}


class Patch(NamedTuple):
    """A patch, checked as far as it can be without the document: the elements that it touches, and what it does to the
    document's JSON."""

    touched: set[str]
    read: Reader

    @property
    def of_status_alone(self) -> bool:
        """Whether it needs to know nothing of the document but its status."""
        return self.touched == {"status"}

    @property
    def deletes(self) -> bool:
        """Whether it deletes the document whatever its status: it tests nothing, and enters it in error. (The other
        word, `superseded`, changes nothing where the document is that already.)"""
        if not self.of_status_alone:
            return False
        operations = self.read(_CURRENT)
        tests = any(operation.kind == "test" for operation in operations)
        return not tests and apply(_CURRENT, operations).get("status") == ERROR


class Changes(Endpoints):
    """The endpoints that change documents."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {"document-patch": self.patch, "document-patch-conditional": self.patch_conditional}

    async def patch(self, exchange: Exchange) -> Answer:
        """By the id of the DocumentReference."""
        patch = await _patch(exchange)
        name = document_name(*await self._read_id(exchange, "DocumentReference"))
        if patch.deletes:
            return await self._delete(exchange, DocumentReference(name=name), _version(exchange))
        return await self._change(exchange, name, patch)

    async def patch_conditional(self, exchange: Exchange) -> Answer:
        """By `identifier`: 404 when nothing matches, 412 when more than one does."""
        patch = await _patch(exchange)
        parameters = await exchange.query(frozenset({"identifier"} | search.PATIENT_NAMES))
        text = parameters.single("identifier")
        if not text:
            raise invalid("identifier", "required", "the document is named: identifier=system|value")
        request = ResolveUniqueIdRequest(unique_id=unique_id_token(text, "identifier"))
        if any(parameters.single(name) for name in search.PATIENT_NAMES):
            link = search.read_patient_parameter(parameters, self._links.base_url)
            request.parent = dossier_name(await self._health_id(exchange, link))
        found = (await self._backend.call(exchange.caller, table.RESOLVE, request)).documents
        if len(found) > 1:
            raise _precondition("identifier", "several documents match: name the patient too")
        if not found:
            await self._refuse(exchange, DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND))
        if patch.of_status_alone:
            before = write_reference(found[0], self._links, None, request.unique_id)
            deletes = change_of(before, apply(before, patch.read(before))) == DOCUMENT_CHANGE_DELETE
            if deletes or found[0].status == DOCUMENT_STATUS_DELETED:
                expected = _same_version(_version(exchange), found[0].version)
                if deletes:
                    return await self._delete(exchange, found[0], expected or found[0].version)
                return Answer(before, 200, {"ETag": etag(found[0].version)})
        return await self._change(exchange, found[0].name, patch)

    async def _delete(self, exchange: Exchange, found: DocumentReference, expected: int) -> Answer:
        """Of what is deleted already, that it is."""
        try:
            return self._answer(await self._made(exchange, found.name, DOCUMENT_CHANGE_DELETE, expected))
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE:
                raise
        found.status = DOCUMENT_STATUS_DELETED
        return Answer(write_reference(found, self._links, None, ""), 200)

    async def _change(self, exchange: Exchange, name: str, patch: Patch) -> Answer:
        expected = _version(exchange)
        current = (await self._backend.call(exchange.caller, table.GET, GetDocumentRequest(name=name))).document
        _same_version(expected, current.version)
        before = write_document(current, self._links)
        change = change_of(before, apply(before, patch.read(before)))
        if change is None:
            return self._answer(current)
        return self._answer(await self._made(exchange, name, change, expected or current.version))

    async def _made(self, exchange: Exchange, name: str, change: Change, expected: int) -> Document:
        """The document as it is after the change; 412 when it is not the version that the request states."""
        headers = exchange.request.headers
        request = ChangeDocumentRequest(
            name=name, change=change, expected_version=expected, request_id=negotiation.idempotency_key(headers)
        )
        try:
            return (await self._backend.call(exchange.caller, table.CHANGE, request)).document
        except DmpError as error:
            if error.reason == reasons.ERROR_REASON_CONCURRENT_CHANGE and _version(exchange):
                raise _another_version() from None
            raise

    def _answer(self, document: Document) -> Answer:
        return Answer(write_document(document, self._links), 200, {"ETag": etag(document.version)})


async def _patch(exchange: Exchange) -> Patch:
    """The patch in the body."""
    headers = exchange.request.headers
    json_kinds, xml_kinds = negotiation.media_types("json"), negotiation.media_types("xml")
    kind = negotiation.check_content_type(
        headers, negotiation.JSON_PATCH, negotiation.XML_PATCH, *sorted(json_kinds), *sorted(xml_kinds)
    )
    body = await exchange.body.read(MOST_BYTES)
    if kind == negotiation.JSON_PATCH:
        operations = read_json_patch(parse_patch_json(body))
        patch = Patch(touched(operations), lambda _: operations)
    elif kind == negotiation.XML_PATCH:
        diff = parse_xml_patch(body)
        patch = Patch(selected(diff), lambda resource: read_xml_patch(diff, resource))
    else:
        parameters = check_resource(parse_json(body) if kind in json_kinds else parse_xml(body), "Parameters")
        patch = Patch(places_of(parameters), lambda resource: read_fhirpath_patch(parameters, resource))
    check_touched(patch.touched)
    return patch


def _version(exchange: Exchange) -> int:
    """The version that the request states, 0 for any."""
    return version_of(exchange.request.headers.get("if-match", ""), "If-Match")


def _same_version(expected: int, version: int) -> int:
    if expected not in (0, version):
        raise _another_version()
    return expected


def _another_version() -> DmpError:
    return _precondition("If-Match", "the document has another version")


def _precondition(field: str, description: str) -> DmpError:
    return ProtocolRefusal(412, field, description)
