"""Codings and codeable concepts to the record's codings and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dmp.common.v1.coding_pb2 import Coding
from gateway.fhir.codesystems import to_oid, to_uri
from gateway.fhir.node import LONGEST_CODE, LONGEST_URI, JsonObject, Node

_LONGEST_DISPLAY: Final = 255


def read_coding(node: Node) -> Coding:
    """A Coding; its system must be an OID or a URL of the table."""
    code = node.child("code").required().token(LONGEST_CODE)
    system = to_oid(node.child("system").required().token(LONGEST_URI))
    if system is None:
        raise node.child("system").error("code_system", "urn:oid:… or the URL of a code system that the platform knows")
    return Coding(system=system, code=code, display=node.text(_LONGEST_DISPLAY, "display"))


def read_concept(node: Node) -> Coding:
    """The first Coding of a concept that is in a known system; an error about the first one when none is."""
    codings = node.child("coding").required().array(16)
    if not codings:
        raise node.child("coding").error("empty", "an array is never empty")
    for coding in codings:
        coding.object()
        if to_oid(coding.uri("system")) is not None:
            return read_coding(coding)
    return read_coding(codings[0])


def read_all(concepts: Sequence[Node], most: int) -> list[Coding]:
    """Every Coding of the concepts, each once: flags may come in one concept or in several, and none may be lost."""
    found: dict[tuple[str, str], Coding] = {}
    for concept in concepts:
        for item in concept.child("coding").required().array(most):
            coding = read_coding(item)
            found.setdefault((coding.system, coding.code), coding)
    return list(found.values())


def write_coding(coding: Coding) -> JsonObject:
    """A Coding as JSON."""
    written: JsonObject = {"code": coding.code}
    if coding.system:
        written = {"system": to_uri(coding.system), **written}
    if coding.display:
        written["display"] = coding.display
    return written


def write_concept(coding: Coding) -> JsonObject:
    """A CodeableConcept of one Coding."""
    return {"coding": [write_coding(coding)]}
