"""The entries of an ITI-65 Bundle by the slice that they fill. Pure.

A Bundle has closed slices: one SubmissionSet List, folder Lists, DocumentReferences, their contents (Binaries or
document Bundles), the patches that supersede what is replaced, and one Patient, who says whose the rest is. What is not
linked, linked twice, or of another kind is refused, so that nothing is accepted that would not be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.fhir.node import LONGEST_URI, Node
from gateway.fhir.refusals import metadata, unsupported

MOST_ENTRIES: Final = 258
"""A SubmissionSet, a Patient and 64 documents, each with its content, its patch and a folder."""
LIST_TYPES: Final = "https://profiles.ihe.net/ITI/MHD/CodeSystem/MHDlistTypes"

SlotKind = Literal["List", "Folder", "DocumentReference", "Binary", "Bundle", "Patch", "Patient"]
_POSTED: Final[dict[str, SlotKind]] = {
    "List": "List",
    "DocumentReference": "DocumentReference",
    "Binary": "Binary",
    "Bundle": "Bundle",
}


@dataclass(frozen=True, slots=True)
class Slot:
    """An entry of a Bundle that comes in; `held` marks a folder that the dossier holds already."""

    kind: SlotKind
    full_url: str
    entry: Node
    resource: Node
    held: bool = False


def read_slots(bundle: Node) -> list[Slot]:
    """The entries in their order."""
    return [_slot(entry) for entry in bundle.child("entry").required().array(MOST_ENTRIES)]


def by_full_url(slots: Sequence[Slot]) -> dict[str, Slot]:
    """The entries by their fullUrl, which each has alone."""
    found: dict[str, Slot] = {}
    for slot in slots:
        if slot.full_url in found:
            raise metadata(f"{slot.entry.path}.fullUrl", "unique", "each entry has a fullUrl of its own")
        if slot.full_url:
            found[slot.full_url] = slot
    return found


def submission_set_slot(bundle: Node, slots: Sequence[Slot]) -> Slot:
    """The one SubmissionSet List."""
    found = [slot for slot in slots if slot.kind == "List"]
    if not found:
        raise metadata(f"{bundle.path}.entry", "required", "a submission has one SubmissionSet List")
    if len(found) > 1:
        raise metadata(found[1].entry.path, "max_items", "a submission has one SubmissionSet List")
    return found[0]


def patient_slot(slots: Sequence[Slot]) -> Slot | None:
    """The Patient who is sent along: a copy of somebody who is registered."""
    found = [slot for slot in slots if slot.kind == "Patient"]
    if len(found) > 1:
        raise metadata(found[1].entry.path, "max_items", "a submission is about one Patient")
    return found[0] if found else None


def members_of(slot: Slot) -> list[Node]:
    """The references of a List's entries."""
    members = slot.resource.children("entry", MOST_ENTRIES)
    return [member.child("item").required().child("reference").required() for member in members]


def check_set_members(set_slot: Slot, expected: Sequence[Slot]) -> None:
    """The SubmissionSet names each DocumentReference and folder of the Bundle, once, and nothing else."""
    missing = {slot.full_url: slot for slot in expected}
    for reference in members_of(set_slot):
        if missing.pop(reference.token(LONGEST_URI), None) is None:
            raise metadata(
                reference.path, "member", "each member is a DocumentReference or folder of this Bundle, named once"
            )
    for slot in missing.values():
        raise metadata(slot.entry.path, "member", "the SubmissionSet List does not name this entry")


def _slot(entry: Node) -> Slot:
    resource = entry.child("resource")
    request = entry.child("request")
    method = request.child("method").required().token()
    full_url = entry.token(LONGEST_URI, "fullUrl")
    if method == "PATCH":
        return Slot("Patch", "", entry, resource.required())
    if method in ("GET", "POST", "PUT") and resource.token(name="resourceType") == "Patient":
        if not request.child("url").required().token(LONGEST_URI).startswith("Patient"):
            raise request.child("url").error("url", "the url of this entry begins with Patient")
        return Slot("Patient", full_url, entry, resource)
    if method == "PUT" and resource.required().token(name="resourceType") == "List":
        return _held_folder(entry, request, full_url)
    if method != "POST":
        raise unsupported(
            f"{request.path}.method",
            "an entry is a POST, the PUT of a folder that is there, or the PATCH that supersedes what is replaced",
        )
    for condition in ("ifNoneExist", "ifMatch", "ifNoneMatch", "ifModifiedSince"):
        if request.child(condition).present:
            raise unsupported(f"{request.path}.{condition}", "conditional entries are not offered")
    kind = _POSTED.get(resource.required().child("resourceType").required().token())
    if kind is None:
        raise unsupported(
            entry.path,
            "a submission has one SubmissionSet List, folders, DocumentReferences, their contents and one Patient",
        )
    if request.child("url").required().token(LONGEST_URI) != kind:
        raise request.child("url").error("url", f"the url of this entry is {kind}")
    entry.child("fullUrl").required()
    return Slot(_list_kind(resource) if kind == "List" else kind, full_url, entry, resource)


def _held_folder(entry: Node, request: Node, full_url: str) -> Slot:
    """A folder that the dossier holds, into which documents of this Bundle go too: named by its uniqueId."""
    url = request.child("url").required()
    if not url.token(LONGEST_URI).startswith("List?identifier="):
        raise unsupported(url.path, "a folder that is there is named by List?identifier=system|value")
    resource = entry.child("resource")
    if _list_kind(resource) != "Folder":
        raise unsupported(f"{resource.path}.code", "nothing but a folder takes documents later")
    entry.child("fullUrl").required()
    return Slot("Folder", full_url, entry, resource, held=True)


def _list_kind(resource: Node) -> SlotKind:
    codings = resource.child("code").required().children("coding", 16)
    codes = {coding.token(name="code") for coding in codings if coding.uri("system") == LIST_TYPES}
    if "submissionset" in codes:
        return "List"
    if "folder" in codes:
        return "Folder"
    raise unsupported(f"{resource.path}.code", "the List is a submissionset or a folder")
