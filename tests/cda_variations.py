"""One document, and what becomes of it on its way in when something of it is written otherwise."""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from dmp.document.v1 import document_pb2 as pb
from services.document import preparation
from services.document.metadata import MetadataRules
from services.document.preparation import Prepared
from tests.documents import cda

NAMED: Final = "1.2.250.1.999.7"
PLAIN: Final = cda(NAMED).decode()


def accepted(document: str | bytes) -> Prepared:
    """What becomes of it on its way in; DmpError as a caller is told."""
    content = document.encode() if isinstance(document, str) else document
    submitted = pb.SubmittedDocument(document=pb.Document(mime_type="text/xml"), content=content)
    request = pb.SubmitDocumentsRequest(documents=[submitted])
    (made,) = asyncio.run(preparation.prepare(request, [content], MetadataRules(by_patient=False)))
    return made


def put(old: str, new: str) -> str:
    """The document with one thing written otherwise."""
    assert old in PLAIN
    return PLAIN.replace(old, new, 1)


def wrapping(attributes: str, text: str) -> str:
    """The document with a file for its body."""
    before, rest = PLAIN.split("<component>", 1)
    after = rest.rsplit("</component>", 1)[1]
    return f"{before}<component><nonXMLBody><text {attributes}>{text}</text></nonXMLBody></component>{after}"


def attached(attributes: str, content: bytes) -> str:
    """The document with a file in a section."""
    value = f'<value {attributes} representation="B64">{base64.b64encode(content).decode()}</value>'
    media = f'<entry><observationMedia classCode="OBS" moodCode="EVN">{value}</observationMedia></entry>'
    body = f"<structuredBody><component><section><text>x</text>{media}</section></component></structuredBody>"
    return wrapping("", "").replace("<nonXMLBody><text ></text></nonXMLBody>", body)
