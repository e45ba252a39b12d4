"""`relatesTo` and the patch entries of a submission: what a document is to others, and the old one superseded. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from dmp.document.v1 import document_pb2
from dmp.document.v1.document_pb2 import Relationship, SubmitDocumentsRequest
from gateway.fhir.document_out import Links
from gateway.fhir.identifiers import read_unique_id, unique_id_token
from gateway.fhir.node import LONGEST_URI, Node
from gateway.fhir.patch.fhirpath_patch import read_fhirpath_patch
from gateway.fhir.patch.json_patch import parse_patch_json, read_json_patch
from gateway.fhir.refusals import metadata, unsupported
from gateway.fhir.submission_slots import Slot
from gateway.fhir.versions import version_of
from services.runtime.errors import DmpError

_TYPES: Final = {
    "replaces": document_pb2.RELATIONSHIP_TYPE_REPLACES,
    "appends": document_pb2.RELATIONSHIP_TYPE_APPENDS,
    "transforms": document_pb2.RELATIONSHIP_TYPE_TRANSFORMS,
}
_PREFIX: Final = "DocumentReference/"
_CONDITIONAL: Final = "DocumentReference?identifier="


def read_relations(resource: Node, links: Links) -> list[Relationship]:
    """The relations of a DocumentReference to documents that are in the dossier already."""
    return [_relation(item, links) for item in resource.children("relatesTo", 16)]


def target_of(text: str, field: str, links: Links) -> tuple[str, str]:
    """(name, uniqueId) of the document that a reference names: one of the two is empty."""
    local = text.removeprefix(f"{links.base_url}/")
    if local.startswith(_PREFIX):
        try:
            return links.document_of(local.removeprefix(_PREFIX)), ""
        except DmpError:
            raise metadata(field, "reference", "no DocumentReference that we gave out has this id") from None
    if local.startswith(_CONDITIONAL):
        return "", unique_id_token(unquote(local.removeprefix(_CONDITIONAL)), field)
    raise unsupported(field, "DocumentReference/{id} as given in answers, or DocumentReference?identifier=system|value")


def _relation(item: Node, links: Links) -> Relationship:
    code = item.child("code").required().token()
    if code not in _TYPES:
        raise unsupported(f"{item.path}.code", "replaces, appends and transforms are offered")
    target = item.child("target").required()
    if not target.child("reference").present:
        return Relationship(type=_TYPES[code], target_unique_id=read_unique_id(target.child("identifier").required()))
    name, unique_id = target_of(target.token(LONGEST_URI, "reference"), f"{target.path}.reference", links)
    return Relationship(type=_TYPES[code], target=name, target_unique_id=unique_id)


def read_superseding(slot: Slot, request: SubmitDocumentsRequest, links: Links) -> int:
    """The index of the document that replaces the target of a PATCH entry; the version that it must have is noted.

    MHD sends the patch along with the replacement; a patch of anything else is refused, and so is one that does
    anything but supersede.
    """
    entry_request = slot.entry.child("request")
    url = entry_request.child("url").required()
    target = target_of(url.token(LONGEST_URI), url.path, links)
    _check_supersedes(slot.resource)
    version = version_of(entry_request.token(64, "ifMatch"), f"{entry_request.path}.ifMatch")
    for index, submitted in enumerate(request.documents):
        for relation in submitted.relationships:
            same = (relation.target, relation.target_unique_id) == target
            if same and relation.type == document_pb2.RELATIONSHIP_TYPE_REPLACES:
                relation.expected_version = version
                return index
    raise metadata(url.path, "replaces", "the patched DocumentReference is one that a document of this Bundle replaces")


def _check_supersedes(resource: Node) -> None:
    kind = resource.token(name="resourceType")
    if kind == "Binary":
        json = parse_patch_json(resource.base64("data") or b"", f"{resource.path}.data")
        operations = [(each.kind, each.place, each.value) for each in read_json_patch(json)]
    elif kind == "Parameters":
        skeleton = {"resourceType": "DocumentReference", "status": "current"}
        found = read_fhirpath_patch(resource, skeleton)
        operations = [(each.kind, each.place, each.value) for each in found]
    else:
        raise unsupported(f"{resource.path}.resourceType", "a patch entry is Parameters, or a Binary of a JSON Patch")
    if operations != [("replace", ("status",), "superseded")]:
        raise unsupported(resource.path, "a patch entry replaces DocumentReference.status with superseded")
