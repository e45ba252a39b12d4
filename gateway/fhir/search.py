"""ITI-67: the parameters of a search to one SearchDocuments request, and its page to a searchset. Pure.

How dates are read (one reading each, given in the CapabilityStatement): `date` is when the document was submitted
(DocumentReference.date), `creation` when it was authored (attachment.creation), `period` the time of the act, which a
date overlaps or not, `period-start` when it began (context.period.start). An act without an end ended when it began.
Without `status` the search is for `current`, and the `self` link says so.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from dmp.common.v1.coding_pb2 import Identifier
from dmp.document.v1 import document_pb2
from dmp.document.v1.document_pb2 import SearchDocumentsRequest, SearchDocumentsResponse
from gateway.fhir.codesystems import CLASS_SYSTEMS, FORMAT_SYSTEMS, TYPE_SYSTEMS, to_oid
from gateway.fhir.document_out import Links, write_document, write_reference
from gateway.fhir.identifiers import (
    PatientLink,
    known_identifier,
    parse_token,
    patient_identifier,
    patient_reference,
    unique_id_token,
)
from gateway.fhir.node import LONGEST_CODE, JsonObject
from gateway.fhir.parameters import Parameters, SearchParameter, encode
from gateway.fhir.refusals import invalid
from gateway.fhir.times import narrow, narrow_period
from services.runtime.errors import DmpError

LARGEST_PAGE: Final = 200
PATIENT_NAMES: Final = frozenset({"patient", "patient.identifier", "patient:identifier"})
_PREFIX: Final = "DocumentReference/"
_NO_DOCUMENT: Final = f"dossiers/{'0' * 21}/documents/{uuid.UUID(int=0)}"

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
    SearchParameter("identifier", "token", "uniqueId or entryUUID of the document: urn:ietf:rfc:3986|urn:oid:…"),
    SearchParameter("date", "date", "when the document was submitted"),
    SearchParameter("creation", "date", "when the document was authored (attachment.creation)"),
    SearchParameter("period", "date", "the time of the documented act, which a date overlaps or not (context.period)"),
    SearchParameter("period-start", "date", "when the documented act began (context.period.start)"),
    SearchParameter("period-end", "date", "when the documented act ended (context.period.end)"),
    SearchParameter("facility", "token", "kind of facility"),
    SearchParameter("setting", "token", "practice setting"),
    SearchParameter("security-label", "token", "confidentiality or visibility flag"),
    SearchParameter("event", "token", "main act"),
    SearchParameter("author.identifier", "token", "system|value of an author (IDNPS, RPPS)"),
    SearchParameter("author", "token", "the same as author.identifier"),
    SearchParameter("author.family", "string", "beginning of the family name of an author, or of a later word of it"),
    SearchParameter("author.given", "string", "beginning of a given name of an author"),
    SearchParameter("related", "token", "system|value of a further identifier (context.related)"),
    SearchParameter("related.identifier", "token", "the same as related"),
    SearchParameter("relatesto", "reference", "DocumentReference/{id} that it replaces, appends to or transforms"),
    SearchParameter("relation", "token", "replaces, appends or transforms"),
    SearchParameter("isArchived", "token", "true: archived documents alone; false or left out: not archived"),
    SearchParameter("title", "string", "words that the title has, or that its words begin with"),
    SearchParameter("_id", "token", "ids as given in answers"),
    SearchParameter("_lastUpdated", "date", "when the current version was made (meta.lastUpdated)"),
)
_CONTROLS: Final = frozenset({"_count", "_page", "_sort", "_summary"})
NAMES: Final = frozenset({parameter.name for parameter in PARAMETERS} | PATIENT_NAMES | _CONTROLS)
_ORDERS: Final[Mapping[str, document_pb2.DocumentOrder.ValueType]] = MappingProxyType(
    {
        "-date": document_pb2.DOCUMENT_ORDER_SUBMIT_TIME_DESC,
        "date": document_pb2.DOCUMENT_ORDER_SUBMIT_TIME,
        "-period": document_pb2.DOCUMENT_ORDER_SERVICE_TIME_DESC,
        "period": document_pb2.DOCUMENT_ORDER_SERVICE_TIME,
        "-creation": document_pb2.DOCUMENT_ORDER_CREATE_TIME_DESC,
        "creation": document_pb2.DOCUMENT_ORDER_CREATE_TIME,
    }
)
_RELATIONS: Final[Mapping[str, document_pb2.RelationshipType.ValueType]] = MappingProxyType(
    {
        "replaces": document_pb2.RELATIONSHIP_TYPE_REPLACES,
        "appends": document_pb2.RELATIONSHIP_TYPE_APPENDS,
        "transforms": document_pb2.RELATIONSHIP_TYPE_TRANSFORMS,
    }
)


@dataclass(frozen=True, slots=True)
class Search:
    """A search as read: the request without its dossier, and the patient it names.

    `pairs` are the parameters used, for links. `only_total` asks for no entries (`_count=0`).
    """

    request: SearchDocumentsRequest
    patient: PatientLink
    pairs: Sequence[tuple[str, str]]
    only_total: bool


def read_search(parameters: Parameters, links: Links) -> Search:
    """The search that these parameters ask for; INVALID_FIELD names the parameter that is wrong."""
    patient = read_patient_parameter(parameters, links.base_url)
    request = SearchDocumentsRequest(
        type_codes=_codes(parameters, "type", TYPE_SYSTEMS),
        class_codes=_codes(parameters, "category", CLASS_SYSTEMS),
        format_codes=_codes(parameters, "format", FORMAT_SYSTEMS),
        facility_types=_codes(parameters, "facility"),
        practice_settings=_codes(parameters, "setting"),
        confidentiality_codes=_codes(parameters, "security-label"),
        event_codes=_codes(parameters, "event"),
        authors=read_identifiers(parameters, "author.identifier", "author"),
        reference_ids=read_identifiers(parameters, "related.identifier", "related"),
        title=parameters.single("title"),
        author_family_names=read_names(parameters, "author.family"),
        author_given_names=read_names(parameters, "author.given"),
        documents=[_document(links, text) for text in parameters.alternatives("_id")],
    )
    _read_unique_ids(parameters, request)
    request.reference_if_refused = bool(request.unique_id)
    _read_relations(parameters, request, links)
    pairs = list(parameters.pairs)
    _read_statuses(parameters, request, pairs)
    for name, range_ in (
        ("date", request.submit_time),
        ("creation", request.create_time),
        ("period-start", request.service_time),
        ("period-end", request.service_stop_time),
        ("_lastUpdated", request.change_time),
    ):
        for value in dates(parameters, name):
            narrow(range_, value, name)
    for value in dates(parameters, "period"):
        narrow_period(request.service_time, request.service_stop_time, value, "period")
    sort = parameters.single("_sort")
    if sort and sort not in _ORDERS:
        raise invalid("_sort", "code", f"one of {', '.join(_ORDERS)}")
    request.order = _ORDERS.get(sort, document_pb2.DOCUMENT_ORDER_UNSPECIFIED)
    page = read_page(parameters, LARGEST_PAGE)
    request.page_size, request.page_token = page.size, page.token
    return Search(request, patient, pairs, page.only_total)


def check_newest_first(parameters: Parameters) -> None:
    """Refuse an order that a list does not have: newest first is the only one."""
    if parameters.single("_sort") not in ("", "-date"):
        raise invalid("_sort", "code", "-date: newest first, the only order of this list")


@dataclass(frozen=True, slots=True)
class Page:
    """Which page is wanted. `only_total` asks for no entries."""

    size: int
    token: str
    only_total: bool


def read_page(parameters: Parameters, largest: int) -> Page:
    """The page that `_count`, `_page` and `_summary` ask for; size 0 is the service's own."""
    count = _count(parameters)
    token = parameters.single("_page")
    if len(token) > 512:
        raise invalid("_page", "max_length", "a page token that this platform made")
    only_total = count == 0 or parameters.single("_summary") == "count"
    return Page(1 if only_total else min(count or 0, largest), token, only_total)


def write_searchset(search: Search, response: SearchDocumentsResponse, links: Links, health_id: int) -> JsonObject:
    """The searchset Bundle of a page."""
    documents = [] if search.only_total else response.documents
    resources = [write_document(document, links, search.patient.identifier) for document in documents]
    if not search.only_total:
        asked = search.patient.identifier, search.request.unique_id
        resources += [write_reference(reference, links, *asked) for reference in response.references]
    token = "" if search.only_total else response.next_page_token
    return searchset(resources, search.pairs, links, health_id=health_id, token=token, total=response.total_size)


def searchset(
    resources: Sequence[JsonObject],
    pairs: Sequence[tuple[str, str]],
    links: Links,
    *,
    kind: str = "DocumentReference",
    health_id: int = 0,
    token: str = "",
    total: int | None = None,
    mode: Callable[[JsonObject], JsonObject] = lambda _: {"mode": "match"},
) -> JsonObject:
    """A page of a search. `total` is None where it is not counted.

    The next link names the patient by the opaque id, never by an INS: links get logged.
    """
    bundle: JsonObject = {"resourceType": "Bundle", "type": "searchset"}
    if total is not None:
        bundle["total"] = total
    bundle["link"] = [{"relation": "self", "url": f"{links.base_url}/{kind}?{encode(pairs)}"}]
    if token:
        kept = [pair for pair in pairs if pair[0] != "_page"]
        if health_id:
            kept = [pair for pair in kept if pair[0] not in PATIENT_NAMES]
            kept.insert(0, ("patient", f"Patient/{links.patient_id(health_id)}"))
        url = f"{links.base_url}/{kind}?{encode([*kept, ('_page', token)])}"
        bundle["link"].append({"relation": "next", "url": url})
    entries = [
        {
            "fullUrl": links.url(resource["resourceType"], resource["id"]),
            "resource": resource,
            "search": mode(resource),
        }
        for resource in resources
    ]
    if entries:
        bundle["entry"] = entries
    return bundle


def read_patient_parameter(parameters: Parameters, base_url: str) -> PatientLink:
    field = "patient:identifier" if parameters.single("patient:identifier") else "patient.identifier"
    identifier, reference = parameters.single(field), parameters.single("patient")
    if identifier and len(PATIENT_NAMES & {name for name, _ in parameters.pairs}) > 1:
        raise invalid("patient", "repeated", "either patient or patient.identifier")
    if identifier:
        system, value = parse_token(identifier, field)
        return PatientLink(patient_identifier(system, value, field), field=field)
    if not reference:
        raise invalid("patient.identifier", "required", "a search names its patient: patient.identifier=system|value")
    if "/" not in reference and "?" not in reference:
        reference = f"Patient/{reference}"
    return patient_reference(reference, "patient", base_url)


def _read_statuses(parameters: Parameters, request: SearchDocumentsRequest, pairs: list[tuple[str, str]]) -> None:
    archived = parameters.single("isArchived")
    if archived not in ("", "true", "false"):
        raise invalid("isArchived", "code", "true or false")
    statuses = parameters.alternatives("status")
    if not statuses:
        statuses = ["current"]
        pairs.append(("status", "current"))
    for status in statuses:
        code = status.rpartition("|")[2]
        if code not in STATUSES:
            raise invalid("status", "code", "current, superseded or entered-in-error")
        request.statuses.append(STATUSES[code])
    if archived == "true":
        del request.statuses[:]
        request.statuses.append(document_pb2.DOCUMENT_STATUS_ARCHIVED)


def _read_unique_ids(parameters: Parameters, request: SearchDocumentsRequest) -> None:
    for text in parameters.alternatives("identifier"):
        unique_id = unique_id_token(text, "identifier")
        if len(unique_id) > 256:
            raise invalid("identifier", "max_length", "at most 256 characters")
        request.unique_ids.append(unique_id)
    if len(request.unique_ids) == 1:
        request.unique_id = request.unique_ids.pop()
    if len(request.unique_ids) > 200:
        raise invalid("identifier", "max_items", "at most 200 identifiers")


def _read_relations(parameters: Parameters, request: SearchDocumentsRequest, links: Links) -> None:
    target = parameters.single("relatesto") or parameters.single("relatesTo")
    if target:
        request.related_to = _document(links, target.removeprefix(f"{links.base_url}/").removeprefix(_PREFIX))
    for text in parameters.alternatives("relation"):
        if text not in _RELATIONS:
            raise invalid("relation", "code", "replaces, appends or transforms")
        request.relationship_types.append(_RELATIONS[text])


def _document(links: Links, text: str) -> str:
    """The name behind an id; one that is not ours matches nothing."""
    try:
        return links.document_of(text)
    except DmpError:
        return _NO_DOCUMENT


def read_identifiers(parameters: Parameters, *names: str) -> list[Identifier]:
    """The identifiers of a token parameter `system|value`, by whichever of its names."""
    found = []
    for name in names:
        for text in parameters.alternatives(name):
            system, value = parse_token(text, name)
            found.append(known_identifier(system, value, name))
    return found


def _codes(parameters: Parameters, name: str, systems: frozenset[str] | None = None) -> list[str]:
    """The codes of a token parameter. The record searches by code: a system is checked, and then implied by it."""
    codes = []
    for text in parameters.alternatives(name):
        system, bar, code = text.rpartition("|")
        if bar and (to_oid(system) is None or (systems is not None and to_oid(system) not in systems)):
            raise invalid(name, "code_system", "the system is none of those that this parameter has codes of")
        if not code or len(code) > LONGEST_CODE:
            raise invalid(name, "code", f"a code of 1 to {LONGEST_CODE} characters, or system|code")
        codes.append(code)
    if len(codes) > 64:
        raise invalid(name, "max_items", "at most 64 codes")
    return codes


def dates(parameters: Parameters, name: str) -> list[str]:
    """The values of a date parameter, which must all hold."""
    values = parameters.values(name)
    if any("," in value for value in values):
        raise invalid(name, "alternatives", "one date a parameter; several parameters must all hold")
    return values


def read_names(parameters: Parameters, name: str) -> list[str]:
    """The names of a string parameter, any of which may be meant."""
    names = parameters.alternatives(name)
    if len(names) > 16 or any(len(each) > 200 for each in names):
        raise invalid(name, "max_items", "at most 16 names of at most 200 characters")
    return names


def _count(parameters: Parameters) -> int | None:
    """The page size asked for; None when left out."""
    text = parameters.single("_count")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise invalid("_count", "integer", "a number of entries, 0 or more")
    return int(text)
