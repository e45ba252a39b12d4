"""Reading documents in tests: metadata as a submission would fill them, and projections by kind."""

from __future__ import annotations

from typing import Any

from dmp.document.v1 import document_pb2
from services.document import codes
from services.document.cda import read_header
from services.document.cda_metadata import document_of
from services.document.reading import reader
from services.document.reading.model import Kind, Reading
from tests.documents import cda


def metadata_of(content: bytes) -> document_pb2.Document:
    """The metadata that a CDA's header gives."""
    document = document_of(read_header(content))
    document.mime_type = "text/xml"
    found = codes.class_of(codes.Coded(document.type_code.code, document.type_code.system))
    if found is not None:
        document.class_code.code, document.class_code.system = found.code, found.system
    return document


def reading_of(content: bytes) -> Reading:
    """A CDA, read with the metadata of its header."""
    return reader.read(content, metadata_of(content))


def read_body(body: str, *, type_code: str = "11502-2", extra: str = "") -> Reading:
    """A document of our own with this body."""
    return reading_of(cda(type_code=type_code, body=body, extra=extra))


def messages(reading: Reading, kind: Kind) -> list[Any]:
    """The messages of a kind, in the document's order."""
    return [p.message for p in reading.projections if p.kind == kind and p.message is not None]
