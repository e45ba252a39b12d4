"""A submission set that is handed over to another host, as the Bundle of ITI-65 that makes it again there. Pure.

The set, its documents and folders keep their uniqueIds and dates. Each patient link is an identifier that any platform
knows. A folder that an earlier set made is named by its uniqueId (PUT), so that it takes the later documents too.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dmp.document.v1.document_pb2 import Document, Folder, SubmissionSet
from gateway.fhir import lists
from gateway.fhir.document_out import Links, write_document
from gateway.fhir.identifiers import write_unique_id
from gateway.fhir.node import JsonObject
from gateway.fhir.submission import BUNDLE_PROFILES
from services.runtime.identifiers import child_of

_NAMES: Final = uuid.UUID("0d0b9a0e-3f60-4c55-8e0b-4d0f6c1c8f61")
_OF_THIS_PLATFORM: Final = ("id", "meta")


@dataclass(frozen=True, slots=True)
class Filed:
    """A folder with those documents of a set that lie in it; `held` when an earlier set made it."""

    folder: Folder
    documents: Sequence[str]
    held: bool


@dataclass(frozen=True, slots=True)
class Whole:
    """A document, naming what it replaces by uniqueId, and the base64 of its content."""

    document: Document
    data: str


def write_set(
    found: SubmissionSet, documents: Sequence[Whole], folders: Sequence[Filed], patient: JsonObject, links: Links
) -> JsonObject:
    """The Bundle; `patient` is the identifier of whose dossier it is."""
    subject = {"identifier": patient}
    entries: list[JsonObject] = []
    for each in documents:
        entries += _document(each, subject, links)
    for filed in folders:
        entries.append(_folder(filed, subject, links))
    members = [each["fullUrl"] for each in entries if each["resource"]["resourceType"] != "Binary"]
    submission_set = {
        **_without_ids(lists.write_submission_set(found, [], links)),
        "subject": subject,
        "entry": [{"item": {"reference": url}} for url in members],
    }
    return {
        "resourceType": "Bundle",
        "meta": {"profile": [BUNDLE_PROFILES[0]]},
        "type": "transaction",
        "entry": [_posted(_url(found.name), submission_set), *entries],
    }


def _document(whole: Whole, subject: JsonObject, links: Links) -> list[JsonObject]:
    name = whole.document.name
    binary = _url(name, "content")
    reference = {**_without_ids(write_document(whole.document, links)), "subject": subject}
    reference["content"][0]["attachment"]["url"] = binary
    content = {"resourceType": "Binary", "contentType": whole.document.mime_type, "data": whole.data}
    return [_posted(_url(name), reference), _posted(binary, content)]


def _folder(filed: Filed, subject: JsonObject, links: Links) -> JsonObject:
    resource = {
        **_without_ids(lists.write_folder(filed.folder, [], links)),
        "subject": subject,
        "entry": [{"item": {"reference": _url(name)}} for name in filed.documents],
    }
    entry = _posted(_url(filed.folder.name), resource)
    if filed.held:
        named = write_unique_id(filed.folder.unique_id)
        entry["request"] = {"method": "PUT", "url": f"List?identifier={named['system']}|{named['value']}"}
    return entry


def _posted(full_url: str, resource: JsonObject) -> JsonObject:
    return {
        "fullUrl": full_url,
        "resource": resource,
        "request": {"method": "POST", "url": resource["resourceType"]},
    }


def _without_ids(resource: JsonObject) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if name not in _OF_THIS_PLATFORM}


def _url(name: str, part: str = "") -> str:
    """The fullUrl of what has this name here: the same whenever it is asked for, and nothing can be read from it."""
    collection = name.split("/")[2]
    _, entity = child_of(name, collection, "name")
    return f"urn:uuid:{uuid.uuid5(_NAMES, f'{collection}|{entity}|{part}')}"
