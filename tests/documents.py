"""Documents, callers and neighbours of the document service, for its tests.

Lives here: a small CDA that obeys the header's obligations, the messages around it, and our own fakes of consent,
identity and audit (they implement what the service asks of them, and can be told to fail).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, coding_pb2, context_pb2
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.identity.v1 import identity_pb2
from services.runtime.access import methods_of
from services.runtime.context import Call
from services.runtime.errors import DmpError, unavailable
from services.runtime.identifiers import dossier_name

METHODS = {
    path.rpartition("/")[2]: method
    for path, method in methods_of(
        service for file in (document_pb2, clinical_pb2) for service in file.DESCRIPTOR.services_by_name.values()
    ).items()
}
AUTHOR = "801234567897"
OTHER = "801234560801"

_numbers = itertools.count(1)


def new_oid() -> str:
    """A producer's identifier that no other test document has."""
    return f"1.2.250.1.999.{next(_numbers)}"


def cda(
    unique_id: str = "1.2.250.1.999.0",
    *,
    identifier: str | None = None,
    type_code: str = "11488-4",
    confidentiality: str = "N",
    author: str = AUTHOR,
    effective: str = "20240102101500+0100",
    extra: str = "",
    body: str = "",
) -> bytes:
    """A CDA of the demonstration patient, with everything that metadata require."""
    named = identifier if identifier is not None else f'<id root="{unique_id}"/>'
    role = (
        f'<id root="1.2.250.1.71.4.2.1" extension="{author}"/>'
        '<code code="G15_10/SM26" codeSystem="1.2.250.1.213.1.1.4.5" displayName="Médecin généraliste"/>'
        "<assignedPerson><name><family>MARTIN</family><given>Anne</given></name></assignedPerson>"
        '<representedOrganization><id root="1.2.250.1.71.4.2.2" extension="1750803447"/><name>Cabinet</name>'
        '<standardIndustryClassCode code="AMBULATOIRE" codeSystem="1.2.250.1.213.1.1.4.9"/></representedOrganization>'
    )
    system = "2.16.840.1.113883.6.1" if type_code[0].isdigit() else "1.2.250.1.213.1.1.4.12"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ClinicalDocument xmlns="urn:hl7-org:v3">
<typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
{named}
<code code="{type_code}" codeSystem="{system}" displayName="Consultation"/>
<title>Consultation du 2 janvier</title>
<effectiveTime value="{effective}"/>
<confidentialityCode code="{confidentiality}" codeSystem="2.16.840.1.113883.5.25"/>
<languageCode code="fr-FR"/>
{extra}
<recordTarget><patientRole>
<id root="1.2.250.1.213.1.4.11" extension="279035121518989"/><id root="1.2.3.4.5" extension="LOCAL-1"/>
<patient><name><family qualifier="BR">PATIENTE</family><given qualifier="BR">DOMINIQUE</given></name>
<administrativeGenderCode code="F" codeSystem="2.16.840.1.113883.5.1"/><birthTime value="19790328"/></patient>
</patientRole></recordTarget>
<author><time value="{effective}"/><assignedAuthor>{role}</assignedAuthor></author>
<legalAuthenticator><time value="{effective}"/><signatureCode code="S"/><assignedEntity>{role}</assignedEntity>
</legalAuthenticator>
<documentationOf><serviceEvent><effectiveTime><low value="20240102100000+0100"/></effectiveTime>
<performer typeCode="PRF"><assignedEntity>{role}</assignedEntity></performer></serviceEvent></documentationOf>
<componentOf><encompassingEncounter><effectiveTime value="20240102"/><location><healthCareFacility>
<code code="SA07" codeSystem="1.2.250.1.71.4.2.4"/></healthCareFacility></location>
</encompassingEncounter></componentOf>
<component><structuredBody>{body}</structuredBody></component>
</ClinicalDocument>
""".encode()


def plain_metadata(unique_id: str) -> document_pb2.Document:
    """All that a producer must say of a document which is no CDA."""
    document = document_pb2.Document(
        unique_id=unique_id,
        mime_type="application/pdf",
        title="Ordonnance",
        authors=[
            coding_pb2.Author(id=coding_pb2.Identifier(system="1.2.250.1.71.4.2.1", value=AUTHOR), name="Anne MARTIN")
        ],
        type_code=coding_pb2.Coding(system="2.16.840.1.113883.6.1", code="57833-6"),
        facility_type=coding_pb2.Coding(system="1.2.250.1.71.4.2.4", code="SA07"),
        practice_setting=coding_pb2.Coding(system="1.2.250.1.213.1.1.4.9", code="AMBULATOIRE"),
        source_patient_id=coding_pb2.Identifier(system="1.2.3.4.5", value="LOCAL-1"),
        source_patient_info=document_pb2.SourcePatientInfo(
            identifiers=[coding_pb2.Identifier(system="1.2.250.1.213.1.4.11", value="279035121518989")],
            family_names=["PATIENTE"],
            given_names=["DOMINIQUE"],
            sex="F",
            birth_date="1979-03-28",
        ),
    )
    document.create_time.FromSeconds(1704186900)
    return document


def submission(
    health_id: int, *documents: tuple[document_pb2.Document, bytes], request_id: str = ""
) -> document_pb2.SubmitDocumentsRequest:
    """A submission of these documents."""
    number = next(_numbers)
    return document_pb2.SubmitDocumentsRequest(
        parent=dossier_name(health_id),
        submission_set=document_pb2.SubmissionSet(unique_id=f"1.2.250.1.998.{number}", source_id="1.2.250.1.997"),
        documents=[
            document_pb2.SubmittedDocument(document=document, content=content) for document, content in documents
        ],
        request_id=request_id or f"request-{number}",
    )


def professional(subject: str = AUTHOR) -> context_pb2.ActingContext:
    """A physician with a card of his own."""
    return context_pb2.ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
        subject=subject,
        subject_name="Anne MARTIN",
        profession="10",
        structure="1750803447",
        structure_name="Cabinet",
        authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
        access_mode=context_pb2.ACCESS_MODE_NORMAL,
        client_id="his",
        caller=access_pb2.CALLER_KIND_INTERNAL,
    )


def call(
    method: str,
    health_id: int,
    actor: context_pb2.ActingContext | None = None,
    *,
    timeout: float | None = 10.0,
    client_id: str = "his",
) -> Call:
    """A call as the dispatcher hands it over."""
    return Call(
        actor=actor or professional(),
        caller=access_pb2.CALLER_KIND_INTERNAL,
        client_id=client_id,
        peer=client_id,
        request_id="correlation",
        deadline=None if timeout is None else time.monotonic() + timeout,
        traceparent="",
        method=METHODS[method],
        health_id=health_id,
    )


def decision(**allowed: object) -> consent_pb2.Decision:
    """A yes that shows everything but what is narrowed."""
    bounds = consent_pb2.Filter(masked=consent_pb2.MASKED_VIEW_ALL, content_readable=True)
    bounds.MergeFrom(consent_pb2.Filter(**allowed))  # type: ignore[arg-type]
    if allowed.get("content_readable") is False:
        bounds.content_readable = False
    return consent_pb2.Decision(permitted=True, epoch=7, filter=bounds)


def no(reason: int) -> consent_pb2.Decision:
    """A no."""
    return consent_pb2.Decision(permitted=False, reason=reason, epoch=7)  # type: ignore[arg-type]


@dataclass
class FakeConsent:
    """Answers every check with `answer`, and the dossiers `linked` with the one; raises it when it is an error."""

    answer: consent_pb2.Decision | DmpError = field(default_factory=decision)
    any_dossier: bool = False
    linked: dict[int, Sequence[int]] = field(default_factory=dict)
    actions: list[int] = field(default_factory=list)
    held_dossiers: list[int] = field(default_factory=list)
    answers: dict[int, consent_pb2.Decision] = field(default_factory=dict)
    by_action: Callable[[int, int], consent_pb2.Decision] | None = None

    async def check(self, call: Call, health_id: int, action: int) -> consent_pb2.Decision:
        assert call.health_id == health_id or self.any_dossier
        self.actions.append(action)
        if isinstance(self.answer, DmpError):
            raise self.answer
        if self.by_action is not None:
            return self.by_action(health_id, action)
        answer = self.answers.get(health_id, self.answer)
        if not self.linked.get(health_id):
            return answer
        together = consent_pb2.Decision(linked=self.linked[health_id])
        together.MergeFrom(answer)
        return together

    async def check_all(self, calls: Sequence[Call], action: int) -> list[consent_pb2.Decision]:
        return [await self.check(call, call.health_id, action) for call in calls]

    async def held(self, call: Call) -> consent_pb2.ListHeldDossiersResponse:
        """Every one of `held_dossiers`, with those linked with it."""
        if isinstance(self.answer, DmpError):
            raise self.answer
        held = [
            consent_pb2.HeldDossier(health_id=health_id, linked=self.linked.get(health_id, ()))
            for health_id in self.held_dossiers
        ]
        return consent_pb2.ListHeldDossiersResponse(decision=self.answer, held=held if self.answer.permitted else ())


@dataclass
class FakeIdentity:
    """Verifies every claim with `answer`."""

    answer: bool | DmpError = True
    claims: list[identity_pb2.PatientClaim] = field(default_factory=list)

    async def verify(self, requests: list[identity_pb2.VerifyPatientRequest]) -> Sequence[bool | DmpError]:
        self.claims += [request.claim for request in requests]
        return [self.answer] * len(requests)


@dataclass
class FakeAudit:
    """A log in memory; `down` refuses everything."""

    events: list[audit_pb2.AuditEvent] = field(default_factory=list)
    down: bool = False

    async def append(self, events: list[audit_pb2.AuditEvent]) -> Sequence[audit_pb2.AppendReceipt | DmpError]:
        if self.down:
            raise unavailable("audit")
        self.events += events
        return [audit_pb2.AppendReceipt(leaf_index=index) for index, _ in enumerate(events)]
