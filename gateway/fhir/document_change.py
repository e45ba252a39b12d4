"""TD3.3: what a patch means for a document, from the difference that it makes to the DocumentReference. Pure.

PDSm lets `status`, `securityLabel` and the isArchived extension be changed, and the newer draft isDeleted; any other
element is 405. One patch is one change: each is atomic and refused by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any, Final, TypeAlias

from dmp.document.v1 import document_pb2
from gateway.fhir.codesystems import VISIBILITY
from gateway.fhir.document_out import IS_ARCHIVED, IS_DELETED
from gateway.fhir.node import JsonObject, Node
from gateway.fhir.refusals import ProtocolRefusal, unsupported

Change: TypeAlias = "document_pb2.DocumentChange.ValueType"

PATCHED: Final = frozenset({"status", "securityLabel", "extension"})
ERROR: Final = "entered-in-error"
_DELETED: Final = frozenset({ERROR, "superseded"})
"""fhir draft of the ANS: both words delete."""
_ADDED: Final[dict[str, Change]] = {"MASQUE_PS": document_pb2.DOCUMENT_CHANGE_MASK}
_REMOVED: Final[dict[str, Change]] = {
    "MASQUE_PS": document_pb2.DOCUMENT_CHANGE_UNMASK,
    "INVISIBLE_PATIENT": document_pb2.DOCUMENT_CHANGE_SHOW_TO_PATIENT,
    "INVISIBLE_REPRESENTANTS_LEGAUX": document_pb2.DOCUMENT_CHANGE_SHOW_TO_REPRESENTATIVES,
}


def check_touched(elements: Set[str]) -> None:
    """405 for a patch of anything that may not be patched."""
    for name in sorted(elements - PATCHED):
        where = f"DocumentReference.{name}" if name else "DocumentReference"
        raise ProtocolRefusal(405, where, "status, securityLabel and the extension isArchived may be patched")


def change_of(before: JsonObject, after: JsonObject) -> Change | None:
    """The one change that a patch asks for; None when it changes nothing."""
    changes = [*_status(before, after), *_labels(before, after), *_extensions(before, after)]
    if len(changes) > 1:
        raise unsupported("DocumentReference", "one patch makes one change: send one for each")
    return changes[0] if changes else None


def _status(before: JsonObject, after: JsonObject) -> Iterator[Change]:
    old, new = before.get("status"), after.get("status")
    if old == new:
        return
    if new not in _DELETED:
        raise unsupported("DocumentReference.status", "the status becomes entered-in-error (or superseded)")
    yield document_pb2.DOCUMENT_CHANGE_DELETE


def _labels(before: JsonObject, after: JsonObject) -> Iterator[Change]:
    old, new = _codes(before), _codes(after)
    for code in sorted(new - old):
        if code[1] not in _ADDED or code[0] not in ("", *VISIBILITY):
            raise unsupported("DocumentReference.securityLabel", "MASQUE_PS is what may be added")
        yield _ADDED[code[1]]
    for code in sorted(old - new):
        if code[1] not in _REMOVED:
            raise unsupported("DocumentReference.securityLabel", "the level of confidentiality stays")
        yield _REMOVED[code[1]]


def _codes(resource: JsonObject) -> set[tuple[str, str]]:
    concepts = Node("DocumentReference", resource).children("securityLabel", 16)
    codings = [coding for concept in concepts for coding in concept.children("coding", 16)]
    systems = dict.fromkeys(VISIBILITY, VISIBILITY[0])
    return {(systems.get(coding.uri("system"), coding.uri("system")), coding.token(name="code")) for coding in codings}


def _extensions(before: JsonObject, after: JsonObject) -> Iterator[Change]:
    old, new = _flags(before), _flags(after)
    for url in sorted(set(new) - set(old) - {IS_ARCHIVED, IS_DELETED}):
        raise ProtocolRefusal(405, "DocumentReference.extension", f"no such extension here: {url[:64]}")
    if old.get(IS_ARCHIVED, False) != new.get(IS_ARCHIVED, False):
        archived = new.get(IS_ARCHIVED, False)
        yield document_pb2.DOCUMENT_CHANGE_ARCHIVE if archived else document_pb2.DOCUMENT_CHANGE_UNARCHIVE
    if new.get(IS_DELETED, False) and not old.get(IS_DELETED, False):
        yield document_pb2.DOCUMENT_CHANGE_DELETE


def _flags(resource: JsonObject) -> dict[str, Any]:
    extensions = Node("DocumentReference", resource).children("extension", 16)
    return {
        extension.uri("url"): extension.boolean("valueBoolean")
        for extension in extensions
        if extension.uri("url") in (IS_ARCHIVED, IS_DELETED) or not extension.child("valueBoolean").present
    }
