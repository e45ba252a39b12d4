"""The record that is measured: demo dossiers with documents, fed through the platform's own RPCs.

Everything is drawn from one seed. Each dossier has authorised one of a few physicians; dossiers hold a few documents
of usual size, and the first ones one of 100 kB more.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import document_pb2
from ops.acts import Acts
from ops.demo.cda_document import DocumentKind, cda_document
from ops.demo.directory import DemoProfessional, DemoStructure, professionals, structures
from ops.demo.people import DemoPerson, people
from ops.demo_platform import person_message
from ops.local.registrations import INTERNAL, PARTNER
from ops.session import Session, Statement
from services.runtime.identifiers import dossier_name

SEED: Final = 2111
CONTENT_BYTES: Final = 100_000
SOURCE: Final = "1.2.250.1.213.4.98"
"""The producing system that submissions name."""

_PHYSICIAN: Final = "10"
_AT_ONCE: Final = 16
_FORMAT: Final = coding_pb2.Coding(system="1.3.6.1.4.1.19376.1.2.3", code="urn:ihe:iti:xds:2017:mimeTypeSufficient")
_IDENTIFIERS: Final = re.compile(rb'<(?:id|setId) root="(2\.25\.\d+)"/>')
_BODY: Final = (b"<structuredBody>", b"</structuredBody>")
_KINDS: Final = tuple(kind for kind in DocumentKind if kind.profession_code == _PHYSICIAN)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is: dossiers, documents of usual size in each, documents of 100 kB (at most one a dossier)."""

    dossiers: int = 500
    documents_each: int = 4
    large: int = 128
    physicians: int = 8


@dataclass(frozen=True, slots=True)
class Physician:
    """Who reads and feeds: the same professional at an internal system and at a partner's software."""

    person: DemoProfessional
    structure: DemoStructure

    @property
    def direct(self) -> Statement:
        """Calling the services themselves."""
        return self._at(INTERNAL)

    @property
    def partner(self) -> Statement:
        """Calling through the gateway."""
        return self._at(PARTNER)

    def _at(self, client_id: str) -> Statement:
        return Statement.professional(
            self.person.idnps,
            self.person.profession_code,
            client_id=client_id,
            subject_name=f"{self.person.given} {self.person.family}",
            specialty=self.person.specialty.code,
            structure=self.structure.idnst,
            structure_name=self.structure.name,
        )


@dataclass(frozen=True, slots=True)
class Dossier:
    """A dossier, and the number of the physician whom it has authorised."""

    health_id: int
    patient: DemoPerson
    physician: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored document, and the number of its dossier."""

    name: str
    dossier: int


@dataclass(frozen=True, slots=True)
class Population:
    """All of it; `large` documents are not among `small`, and `models` are the contents of `large`, in order."""

    physicians: tuple[Physician, ...]
    dossiers: tuple[Dossier, ...]
    small: tuple[Stored, ...]
    large: tuple[Stored, ...]
    models: tuple[bytes, ...]


async def populate(session: Session, extent: Extent) -> Population:
    """Register, open, authorise and feed. Raises DmpError when the platform refuses."""
    cast = _physicians(extent.physicians)
    patients = people(extent.dossiers, SEED)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, patient: DemoPerson) -> tuple[Dossier, list[Stored], list[Stored], list[bytes]]:
        async with gate:
            return await _dossier(session, extent, cast, number, patient)

    made = await asyncio.gather(*(one(number, patient) for number, patient in enumerate(patients)))
    return Population(
        physicians=cast,
        dossiers=tuple(dossier for dossier, *_ in made),
        small=tuple(stored for _, small, *_ in made for stored in small),
        large=tuple(stored for _, _, large, _ in made for stored in large),
        models=tuple(model for *_, models in made for model in models),
    )


def submission(health_id: int, contents: Sequence[bytes]) -> document_pb2.SubmitDocumentsRequest:
    """A submission set of CDA documents, whose headers say the rest."""
    return document_pb2.SubmitDocumentsRequest(
        parent=dossier_name(health_id),
        submission_set=document_pb2.SubmissionSet(unique_id=_new_oid(), source_id=SOURCE),
        documents=[
            document_pb2.SubmittedDocument(
                document=document_pb2.Document(
                    mime_type="text/xml",
                    hash=hashlib.sha1(content, usedforsecurity=False).digest(),
                    size=len(content),
                    format_code=_FORMAT,
                ),
                content=content,
            )
            for content in contents
        ],
        request_id=str(uuid.uuid4()),
    )


def another(model: bytes) -> bytes:
    """A document like `model` with identifiers (id, setId) that none has yet."""
    for identifier in _IDENTIFIERS.findall(model):
        model = model.replace(identifier, _new_oid().encode(), 1)
    return model


def letter(model: bytes, seed: int) -> bytes:
    """A document with the header of `model`, about as long, whose body is a PDF: what most letters of hospitals are.
    The PDF is of noise, as its own compression leaves it, so that sealing finds nothing more to compress."""
    before, rest = model.split(_BODY[0], 1)
    after = rest.split(_BODY[1], 1)[1]
    room = (len(model) - len(before) - len(after)) * 3 // 4 - 200
    stream = random.Random(seed).randbytes(room)
    pdf = b"%%PDF-1.7\n1 0 obj\n<</Length %d>>\nstream\n%b\nendstream\nendobj\n%%%%EOF" % (room, stream)
    text = b'<text mediaType="application/pdf" representation="B64">' + base64.b64encode(pdf) + b"</text>"
    return before + b"<nonXMLBody>" + text + b"</nonXMLBody>" + after


def _physicians(count: int) -> tuple[Physician, ...]:
    known = [each for each in professionals(4 * count, SEED) if each.profession_code == _PHYSICIAN]
    places = structures(count, SEED)
    return tuple(Physician(person, places[number]) for number, person in enumerate(known[:count]))


async def _dossier(
    session: Session, extent: Extent, cast: Sequence[Physician], number: int, patient: DemoPerson
) -> tuple[Dossier, list[Stored], list[Stored], list[bytes]]:
    physician = cast[number % len(cast)]
    acts = Acts(session, physician.direct)
    health_id = await acts.register(person_message(patient))
    await acts.open(health_id)
    await acts.authorise(health_id)

    def cda(index: int, target_bytes: int = 0) -> bytes:
        kind = _KINDS[(number + index) % len(_KINDS)]
        return cda_document(
            patient, physician.person, physician.structure, kind, SEED + index, target_bytes=target_bytes
        )

    small = [cda(index) for index in range(extent.documents_each)]
    large = [cda(extent.documents_each, CONTENT_BYTES)] if number < extent.large else []
    answer = await session.call(
        "document",
        "SubmitDocuments",
        submission(health_id, small + large),
        document_pb2.SubmitDocumentsResponse,
        physician.direct,
    )
    stored = [Stored(document.name, number) for document in answer.documents]
    dossier = Dossier(health_id, patient, number % len(cast))
    return dossier, stored[: len(small)], stored[len(small) :], large


def _new_oid() -> str:
    return f"2.25.{uuid.uuid4().int}"
