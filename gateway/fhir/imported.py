"""A line of an import as the request that it stands for: what another platform wrote, without its ids. Pure.

    Patient            ITI-104, a person whom nobody knows yet is registered
    Parameters         TD1.1, the dossier of a patient is opened
    Consent            ITI-108
    DocumentReference  ITI-105, with its content in attachment.data; archived again if it was
    Bundle             ITI-65, for who takes over a home host: a submission set with its documents, as it was

A document keeps its uniqueId, metadata, labels and relations. Ids, versions and entryUUIDs are this platform's own. One
that was superseded comes in as current: the one that replaces it, later in the file, supersedes it again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.fhir.codesystems import domain_uri
from gateway.fhir.document_out import IS_ARCHIVED, IS_DELETED
from gateway.fhir.identifiers import INS_DOMAINS
from gateway.fhir.node import JsonObject
from gateway.fhir.refusals import unsupported

INTERACTIONS: Final = {
    "Patient": "patient-feed",
    "Parameters": "dossier-open",
    "Consent": "consent-create",
    "DocumentReference": "simplified-publish",
}
WHOLE_SET: Final = "Bundle"
_OF_THE_OTHER_PLATFORM: Final = ("id", "meta", "text", "identifier", "implicitRules")
_INS: Final = frozenset({*(domain_uri(oid) for oid in INS_DOMAINS), *(f"urn:oid:{oid}" for oid in INS_DOMAINS)})


@dataclass(frozen=True, slots=True)
class Line:
    """A line as a request: of which type, its body, its headers and query, and whether the document is archived.

    Of a Bundle, `archived_documents` are the places of those archived among its documents, `submitted` is the date of
    the set as it was written.
    """

    kind: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    archived: bool = False
    archived_documents: tuple[int, ...] = ()
    submitted: str = ""


def read_line(resource: JsonObject, *, whole_sets: bool = False) -> Line:
    """The request that a line stands for; INVALID_FIELD for a type that is not imported."""
    kind = resource.get("resourceType")
    if kind == WHOLE_SET and whole_sets:
        return _whole_set(copy.deepcopy(resource))
    if not isinstance(kind, str) or kind not in INTERACTIONS:
        raise unsupported("resourceType", f"a line is one of {', '.join(INTERACTIONS)}")
    if kind == "DocumentReference":
        return _document(copy.deepcopy(resource))
    kept = {name: value for name, value in resource.items() if name not in ("id", "meta", "text")}
    if kind == "Patient":
        return Line(kind, orjson.dumps(kept), query=_criterion(kept))
    return Line(kind, orjson.dumps(kept))


def _whole_set(bundle: JsonObject) -> Line:
    resources = [each["resource"] for each in _objects(bundle.get("entry")) if isinstance(each.get("resource"), dict)]
    references = [each for each in resources if each.get("resourceType") == "DocumentReference"]
    archived = [index for index, each in enumerate(references) if _cleaned(each)]
    dates = [each.get("date") for each in resources if each.get("resourceType") == "List" and "date" in each]
    submitted = dates[0] if dates and isinstance(dates[0], str) else ""
    return Line(WHOLE_SET, orjson.dumps(bundle), archived_documents=tuple(archived), submitted=submitted)


def _document(resource: JsonObject) -> Line:
    subject = _subject(resource)
    if subject is not None:
        resource["subject"] = {"identifier": subject}
    archived = _cleaned(resource)
    for content in _objects(resource.get("content")):
        attachment = content.get("attachment")
        if isinstance(attachment, dict) and "data" in attachment:
            attachment.pop("url", None)
    return Line("DocumentReference", orjson.dumps(resource), _condition(resource), archived=archived)


def _cleaned(resource: JsonObject) -> bool:
    """Take away what is the other platform's own; whether the document was archived there."""
    for name in _OF_THE_OTHER_PLATFORM:
        resource.pop(name, None)
    if resource.get("status") == "superseded":
        resource["status"] = "current"
    for relation in _objects(resource.get("relatesTo")):
        target = relation.get("target")
        if isinstance(target, dict) and "identifier" in target:
            target.pop("reference", None)
    archived = False
    if isinstance(resource.get("extension"), list):
        flags = _objects(resource["extension"])
        archived = any(each.get("url") == IS_ARCHIVED and each.get("valueBoolean") is True for each in flags)
        resource["extension"] = [each for each in flags if each.get("url") not in (IS_ARCHIVED, IS_DELETED)]
        if not resource["extension"]:
            del resource["extension"]
    return archived


def _condition(resource: JsonObject) -> tuple[tuple[bytes, bytes], ...]:
    """If-None-Exist by the uniqueId: what is there already is not imported twice."""
    master = resource.get("masterIdentifier")
    if not isinstance(master, dict):
        return ()
    criterion = f"identifier={master.get('system', '')}|{master.get('value', '')}"
    return ((b"if-none-exist", criterion.encode("ascii", "replace")),)


def _subject(resource: JsonObject) -> Any:
    """The patient by an identifier that any platform knows: the subject's, else the INS of the source patient."""
    subject = resource.get("subject")
    if isinstance(subject, dict) and "identifier" in subject:
        return subject["identifier"]
    for contained in _objects(resource.get("contained")):
        if contained.get("resourceType") == "Patient":
            for identifier in _objects(contained.get("identifier")):
                if identifier.get("system") in _INS:
                    return {"system": identifier["system"], "value": identifier.get("value")}
    return None


def _criterion(patient: JsonObject) -> tuple[tuple[str, str], ...]:
    """The search parameter of the feed: the first identifier, an INS before others."""
    held = _objects(patient.get("identifier"))
    held.sort(key=lambda each: each.get("system") not in _INS)
    return tuple(("identifier", f"{each.get('system', '')}|{each.get('value', '')}") for each in held[:1])


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
