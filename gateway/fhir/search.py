"""ITI-67: the parameters of a search to one SearchDocuments request, and its page to a searchset. Pure.

How dates are read (one reading each, given in the CapabilityStatement): `date` is when the document was submitted
(DocumentReference.date), `creation` when it was authored (attachment.creation), `period` and `period-start` when the
act began (context.period.start). Without `status` the search is for `current`, and the `self` link says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from dmp.document.v1 import document_pb2
from dmp.document.v1.document_pb2 import SearchDocumentsRequest, SearchDocumentsResponse, TimeRange
from gateway.fhir.codesystems import CLASS_SYSTEMS, FORMAT_SYSTEMS, TYPE_SYSTEMS, to_oid
from gateway.fhir.document_out import Links, write_document
from gateway.fhir.identifiers import PatientLink, parse_token, patient_identifier, patient_reference, unique_id_of
from gateway.fhir.node import LONGEST_CODE, JsonObject
from gateway.fhir.parameters import Parameters, SearchParameter, encode
from gateway.fhir.refusals import invalid
from gateway.fhir.times import narrow

LARGEST_PAGE: Final = 200

STATUSES: Final[Mapping[str, document_pb2.DocumentStatus.ValueType]] = MappingProxyType(
    {
        "current": document_pb2.DOCUMENT_STATUS_APPROVED,
        "superseded": document_pb2.DOCUMENT_STATUS_DEPRECATED,
        "entered-in-error": document_pb2.DOCUMENT_STATUS_DELETED,
    }
)


PARAMETERS: Final = (
    SearchParameter("patient.identifier", "token", "system|value of the patient; this or patient is required"),
    SearchParameter("patient", "reference", "Patient/{id} as given in answers, or Patient?identifier=system|value"),
    SearchParameter("status", "token", "current, superseded, entered-in-error; current when left out"),
    SearchParameter("type", "token", "type of document"),
    SearchParameter("category", "token", "class of document"),
    SearchParameter("format", "token", "format of the content"),
    SearchParameter("identifier", "token", "uniqueId of the document: urn:ietf:rfc:3986|urn:oid:…"),
    SearchParameter("date", "date", "when the document was submitted"),
    SearchParameter("creation", "date", "when the document was authored (attachment.creation)"),
    SearchParameter("period", "date", "when the documented act began (context.period.start)"),
    SearchParameter("period-start", "date", "when the documented act began (context.period.start)"),
)
NAMES: Final = frozenset({parameter.name for parameter in PARAMETERS} | {"_count", "_page"})


@dataclass(frozen=True, slots=True)
class Search:
    """A search as read: the request without its dossier, and the patient it names.

    `pairs` are the parameters used, for links. `only_total` asks for no entries (`_count=0`).
    """

    request: SearchDocumentsRequest
    patient: PatientLink
    pairs: Sequence[tuple[str, str]]
    only_total: bool


def read_search(parameters: Parameters, base_url: str) -> Search:
    """The search that these parameters ask for; INVALID_FIELD names the parameter that is wrong."""
    patient = _patient(parameters, base_url)
    request = SearchDocumentsRequest(
        type_codes=_codes(parameters, "type", TYPE_SYSTEMS),
        class_codes=_codes(parameters, "category", CLASS_SYSTEMS),
        format_codes=_codes(parameters, "format", FORMAT_SYSTEMS),
        unique_id=_unique_id(parameters),
    )
    pairs = list(parameters.pairs)
    statuses = parameters.alternatives("status")
    if not statuses:
        statuses = ["current"]
        pairs.append(("status", "current"))
    for status in statuses:
        code = status.rpartition("|")[2]
        if code not in STATUSES:
            raise invalid("status", "code", "current, superseded or entered-in-error")
        request.statuses.append(STATUSES[code])
    for name, range_ in (
        ("date", request.submit_time),
        ("creation", request.create_time),
        ("period", request.service_time),
        ("period-start", request.service_time),
    ):
        _narrow(parameters, name, range_)
    count = _count(parameters)
    request.page_size = min(count, LARGEST_PAGE) if count else 1 if count == 0 else 0
    request.page_token = parameters.single("_page")
    if len(request.page_token) > 512:
        raise invalid("_page", "max_length", "a page token that this platform made")
    return Search(request, patient, pairs, count == 0)


def write_searchset(search: Search, response: SearchDocumentsResponse, links: Links, health_id: int) -> JsonObject:
    """The searchset Bundle of a page."""
    documents = [] if search.only_total else response.documents
    bundle: JsonObject = {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": response.total_size,
        "link": [{"relation": "self", "url": f"{links.base_url}/DocumentReference?{encode(search.pairs)}"}],
    }
    if response.next_page_token and not search.only_total:
        bundle["link"].append({"relation": "next", "url": _next(search, response.next_page_token, links, health_id)})
    entries = []
    for document in documents:
        resource = write_document(document, links, search.patient.identifier)
        full_url = links.url("DocumentReference", resource["id"])
        entries.append({"fullUrl": full_url, "resource": resource, "search": {"mode": "match"}})
    if entries:
        bundle["entry"] = entries
    return bundle


def _next(search: Search, token: str, links: Links, health_id: int) -> str:
    """The link to the next page. It names the patient by the opaque id, never by an INS: links get logged."""
    kept = [pair for pair in search.pairs if pair[0] not in ("patient", "patient.identifier", "_page")]
    patient = ("patient", f"Patient/{links.patient_id(health_id)}")
    return f"{links.base_url}/DocumentReference?{encode([patient, *kept, ('_page', token)])}"


def _patient(parameters: Parameters, base_url: str) -> PatientLink:
    identifier, reference = parameters.single("patient.identifier"), parameters.single("patient")
    if identifier and reference:
        raise invalid("patient", "repeated", "either patient or patient.identifier")
    if identifier:
        system, value = parse_token(identifier, "patient.identifier")
        field = "patient.identifier"
        return PatientLink(patient_identifier(system, value, field), field=field)
    if not reference:
        raise invalid("patient.identifier", "required", "a search names its patient: patient.identifier=system|value")
    if "/" not in reference and "?" not in reference:
        reference = f"Patient/{reference}"
    return patient_reference(reference, "patient", base_url)


def _codes(parameters: Parameters, name: str, systems: frozenset[str]) -> list[str]:
    """The codes of a token parameter. The record searches by code: a system is checked, and then implied by it."""
    codes = []
    for text in parameters.alternatives(name):
        system, bar, code = text.rpartition("|")
        if bar and to_oid(system) not in systems:
            raise invalid(name, "code_system", "the system is none of those that this parameter has codes of")
        if not code or len(code) > LONGEST_CODE:
            raise invalid(name, "code", f"a code of 1 to {LONGEST_CODE} characters, or system|code")
        codes.append(code)
    if len(codes) > 64:
        raise invalid(name, "max_items", "at most 64 codes")
    return codes


def _unique_id(parameters: Parameters) -> str:
    text = parameters.single("identifier")
    if not text:
        return ""
    system, value = parse_token(text, "identifier")
    unique_id = unique_id_of(system, value, "identifier")
    if len(unique_id) > 256:
        raise invalid("identifier", "max_length", "at most 256 characters")
    return unique_id


def _narrow(parameters: Parameters, name: str, range_: TimeRange) -> None:
    for value in parameters.values(name):
        if "," in value:
            raise invalid(name, "alternatives", "one date a parameter; several parameters must all hold")
        narrow(range_, value, name)


def _count(parameters: Parameters) -> int | None:
    """The page size asked for; None when left out."""
    text = parameters.single("_count")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise invalid("_count", "integer", "a number of entries, 0 or more")
    return int(text)
