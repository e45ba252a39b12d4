"""Requests that mean harm, for any method: bytes that are no message, and messages with one field spoilt.

Hypothesis strategies over protobuf descriptors, and a well-formed request of each method to start from. Pure.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from dmp.audit.v1 import audit_pb2, log_pb2, notice_pb2
from dmp.common.v1 import context_pb2
from dmp.consent.v1 import consent_pb2, rights_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from dmp.identity.v1 import identity_pb2
from services.runtime.identifiers import dossier_name, person_name
from tests import hostile_people

SQL: Final = "'; DROP TABLE document; --"
TEXTS: Final = (
    "",
    "\0",
    "a\0b",
    " ",
    "x" * 300,
    "x" * 70_000,
    SQL,
    "../../../etc/passwd",
    "%s%n{0}${jndi:ldap://attacker.invalid}",
    "\u202eenrobe",
    "\U0010ffff",
    "é" * 128,
    "dossiers/",
    "dossiers/000000000000000000000",
    "dossiers/000000000000000000198",
    "dossiers/" + "9" * 21,
    "dossiers/٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٩٧",
    "urn:oid:1.2.3",
    "2026-13-45",
)
NUMBERS: Final = (-(2**63), -(2**31), -1, 0, 1, 2, 201, 2**31 - 1, 2**31, 2**63 - 1)
_INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
_MANY: Final = 70
_NOBODY: Final = 4_242
"""A dossier that may be destroyed."""
_LONG_AGO: Final = 1_700_000_000


def well_formed(health_id: int) -> Mapping[str, Message]:
    """A request of each method by the method's name, about this dossier, whose every level of nesting is filled."""
    name = dossier_name(health_id)
    grantee = consent_pb2.Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id="899700000012")
    child = f"{name}/documents/{uuid.UUID(int=7)}"
    check, append, verify = _batches(health_id)
    resolve = identity_pb2.BatchResolveIdentifiersRequest()
    resolve.identifiers.add(system="1.2.250.1.213.1.4.11", value="150017505691234")
    opening = consent_pb2.OpenDossierRequest(name=name, request_id="rubbish-open")
    opening.consent.method = consent_pb2.CONSENT_METHOD_ORAL
    opening.consent.given_by = consent_pb2.CONSENT_GIVER_PATIENT
    opening.consent.collect_time.seconds = _LONG_AGO
    opening.consent.collector = "899700000012"
    search = document_pb2.SearchDocumentsRequest(parent=name, type_codes=["11488-4"], page_size=2)
    for span in (search.create_time, search.service_time, search.submit_time):
        span.start_time.seconds, span.end_time.seconds = 1, 2_000_000_000
    return {
        "CreatePerson": identity_pb2.CreatePersonRequest(person=_person(), request_id="rubbish-person"),
        "BatchResolveIdentifiers": resolve,
        "BatchVerifyPatients": verify,
        "BatchCompareNames": _names(health_id),
        "BatchReadContacts": identity_pb2.BatchReadContactsRequest(health_ids=[health_id], idnps=["899700000012"]),
        **hostile_people.well_formed(health_id, _person()),
        "OpenDossier": opening,
        "CloseDossier": consent_pb2.CloseDossierRequest(
            name=name, reason=consent_pb2.CLOSE_REASON_PATIENT_REQUEST, request_id="rubbish-close"
        ),
        "GetDossier": consent_pb2.GetDossierRequest(name=name),
        "GrantAuthorization": consent_pb2.GrantAuthorizationRequest(
            parent=name, grantee=grantee, patient_consented=True, request_id="rubbish-grant"
        ),
        "RevokeAuthorization": consent_pb2.RevokeAuthorizationRequest(
            parent=name, grantee=grantee, request_id="rubbish-revoke"
        ),
        "BlockProfessional": consent_pb2.BlockProfessionalRequest(
            parent=name, grantee=grantee, request_id="rubbish-block"
        ),
        "UnblockProfessional": consent_pb2.UnblockProfessionalRequest(
            parent=name, grantee=grantee, request_id="rubbish-unblock"
        ),
        "BatchCheckAccess": check,
        **(_consent(health_id, opening.consent) | {"TakeInDossier": _take_in(name)}),
        "SubmitDocuments": _submission(name),
        "SearchDocuments": search,
        "GetDocument": document_pb2.GetDocumentRequest(name=child),
        "ReadDocument": document_pb2.ReadDocumentRequest(name=child),
        **_clinical(name),
        **_of_documents(health_id, name, child),
        "BatchAppendEvents": append,
        **_trail(name),
    }


def _trail(name: str) -> dict[str, Message]:
    """What is asked of the trail and of the logs."""
    event = f"{name}/events/{uuid.UUID(int=7)}"
    asked = audit_pb2.EventFilter(actor="899700000012", actions=["document.read"])
    asked.start_time.seconds, asked.end_time.seconds = 1, 2_000_000_000
    report = audit_pb2.RecordEventRequest(
        parent=name, outcome=audit_pb2.OUTCOME_SUCCESS, objects=["urn:oid:1.2.3"], request_id="rubbish-report"
    )
    report.event_time.seconds = _LONG_AGO
    report.reported.type, report.reported.subtype = "110106", "ITI-68"
    return {
        "ListEvents": audit_pb2.ListEventsRequest(parent=name, page_size=3, filter=asked),
        "GetEvent": audit_pb2.GetEventRequest(name=event),
        "SummarizeAccess": audit_pb2.SummarizeAccessRequest(parent=name, filter=asked, page_size=3),
        "ExportEvents": audit_pb2.ExportEventsRequest(parent=name, filter=asked),
        "RecordEvent": report,
        "GetReceipt": audit_pb2.GetReceiptRequest(name=event),
        "CountEvents": audit_pb2.CountEventsRequest(start_day="2026-11-01", end_day="2026-11-30"),
        "ListLogs": log_pb2.ListLogsRequest(),
        "GetCheckpoint": log_pb2.GetCheckpointRequest(),
        "GetTile": log_pb2.GetTileRequest(width=1),
        "GetEntryBundle": log_pb2.GetEntryBundleRequest(width=1),
        "CheckEntries": log_pb2.CheckEntriesRequest(count=3),
        "CheckTables": log_pb2.CheckTablesRequest(),
        "AdoptRows": log_pb2.AdoptRowsRequest(request_id="rubbish-adopt"),
        "DestroyDossier": audit_pb2.DestroyDossierRequest(health_id=_NOBODY, request_id="rubbish-destroy"),
        "ListNotices": notice_pb2.ListNoticesRequest(parent=name, page_size=3),
        "ListUnusualAccesses": notice_pb2.ListUnusualAccessesRequest(page_size=3),
        "DecideUnusualAccess": notice_pb2.DecideUnusualAccessRequest(
            name=f"unusualAccesses/{uuid.UUID(int=7)}",
            decision=notice_pb2.UNUSUAL_DECISION_EXPLAINED,
            request_id="rubbish-decide",
        ),
    }


def _of_documents(health_id: int, name: str, child: str) -> dict[str, Message]:
    """What else is asked of the document service."""
    upload = f"{name}/uploads/{uuid.UUID(int=8)}"
    created = f"{name}/submissionSets/{uuid.UUID(int=9)}"
    return {
        "CreateUpload": document_pb2.CreateUploadRequest(parent=name, size=3, request_id="rubbish-upload"),
        "WriteUpload": document_pb2.WriteUploadRequest(name=upload, chunk=b"abc"),
        "UploadContent": document_pb2.UploadContentRequest(
            parent=name, size=3, request_id="rubbish-stream", chunk=b"abc"
        ),
        "GetUpload": document_pb2.GetUploadRequest(name=upload),
        "ListDocumentVersions": document_pb2.ListDocumentVersionsRequest(name=child),
        "ChangeDocument": document_pb2.ChangeDocumentRequest(
            name=child, change=document_pb2.DOCUMENT_CHANGE_MASK, request_id="rubbish-change"
        ),
        "ListSubmissionSets": document_pb2.ListSubmissionSetsRequest(parent=name, page_size=2),
        "GetSubmissionSet": document_pb2.GetSubmissionSetRequest(name=created),
        "ListFolders": document_pb2.ListFoldersRequest(parent=name, page_size=2),
        "GetFirstOpening": document_pb2.GetFirstOpeningRequest(parent=name),
        "ListChanges": document_pb2.ListChangesRequest(parent=name, page_size=2),
        "WatchChanges": document_pb2.WatchChangesRequest(parent=name),
        "ListHeldDossiers": _held(),
        "ListRecentDossiers": document_pb2.ListRecentDossiersRequest(page_size=3),
        "ResolveUniqueId": document_pb2.ResolveUniqueIdRequest(parent=name, unique_id="2.25.78"),
        "DestroyDossier": document_pb2.DestroyDossierRequest(health_id=health_id, request_id="rubbish-destroy"),
        "VerifyContents": document_pb2.VerifyContentsRequest(limit=2, parent=name),
        "SweepContents": document_pb2.SweepContentsRequest(limit=2, request_id="rubbish-sweep"),
        "MoveContents": document_pb2.MoveContentsRequest(limit=2, request_id="rubbish-move"),
        "RewrapKeys": document_pb2.RewrapKeysRequest(limit=2, request_id="rubbish-rewrap"),
    }


def _held() -> Message:
    return consent_pb2.ListHeldDossiersRequest(context=context_pb2.ItemContext(request_id="rubbish-held"))


def _names(health_id: int) -> Message:
    compared = identity_pb2.CompareNameRequest(health_id=health_id, name="Claire ZZ")
    return identity_pb2.BatchCompareNamesRequest(requests=[compared])


def hostile_bytes(request: Message) -> st.SearchStrategy[bytes]:
    """Bytes in the place of `request`: noise, the request cut or with a byte changed, or with one field spoilt."""
    good = request.SerializeToString()
    noise = st.binary(max_size=200)
    cut = st.integers(0, max(0, len(good) - 1)).map(lambda end: good[:end])
    changed = st.tuples(st.integers(0, max(0, len(good) - 1)), st.integers(0, 255)).map(
        lambda change: good[: change[0]] + bytes([change[1]]) + good[change[0] + 1 :]
    )
    return st.one_of(noise, cut, changed, spoilt(request).map(lambda message: message.SerializeToString()))


@st.composite
def spoilt(draw: st.DrawFn, request: Message) -> Message:
    """The request with one field, at any depth, given a hostile value, left out, or repeated far too often."""
    message = type(request)()
    message.CopyFrom(request)
    target: Message = message
    while True:
        fields: list[Any] = list(target.DESCRIPTOR.fields)
        if not fields:
            return message  # there is nothing to spoil
        field: FieldDescriptor = draw(st.sampled_from(fields))
        if field.message_type is None or draw(st.booleans()):
            break
        inner = getattr(target, field.name)
        target = _first(inner) if field.is_repeated else inner
    _spoil(draw, target, field)
    return message


def _spoil(draw: st.DrawFn, target: Message, field: FieldDescriptor) -> None:
    if field.message_type is not None:
        inner = getattr(target, field.name)
        if not field.is_repeated or draw(st.booleans()):
            target.ClearField(field.name)
        else:
            inner.extend([_first(inner)] * _MANY)
        return
    value = draw(_value(field))
    if field.is_repeated:
        values = getattr(target, field.name)
        del values[:]
        values.extend([value] * draw(st.sampled_from((1, _MANY))))
    else:
        setattr(target, field.name, value)


def _first(inner: Any) -> Any:
    """The first of repeated messages, made if there is none."""
    return inner[0] if len(inner) else inner.add()


def _value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        return st.one_of(st.sampled_from([n for n in NUMBERS if low <= n <= high]), st.integers(low, high))
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.one_of(st.just(b""), st.just(b"\0" * 70_000), st.binary(max_size=40))
    return st.one_of(st.sampled_from(TEXTS), st.text(max_size=40))


def _batches(
    health_id: int,
) -> tuple[
    consent_pb2.BatchCheckAccessRequest, audit_pb2.BatchAppendEventsRequest, identity_pb2.BatchVerifyPatientsRequest
]:
    """The batches that services send one another, an item in each."""
    context = context_pb2.ItemContext(
        actor=context_pb2.ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
            subject="899700000012",
            profession="10",
            authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
            software=context_pb2.Software(id="s", name="s", version="1"),
            client_id="demo-software",
        ),
        request_id="rubbish",
    )
    check, append, verify = (
        consent_pb2.BatchCheckAccessRequest(),
        audit_pb2.BatchAppendEventsRequest(),
        identity_pb2.BatchVerifyPatientsRequest(),
    )
    check.requests.add(context=context, health_id=health_id, action=consent_pb2.ACTION_READ)
    event = append.events.add(
        event_id=bytes(range(16)), health_id=health_id, action="document.read", actor=context.actor
    )
    event.outcome = audit_pb2.OUTCOME_DENIED
    event.event_time.seconds = _LONG_AGO
    event.changes.add(attribute="state", before="a", after="b")
    claim = identity_pb2.PatientClaim(family_names=["ZZ"], given_names=["ZZ"], birth_date="1950-01-01")
    claim.identifiers.add(system="1.2.250.1.213.1.4.11", value="150017505691234")
    verify.requests.add(context=context, health_id=health_id, claim=claim)
    return check, append, verify


def _person() -> identity_pb2.Person:
    person = identity_pb2.Person(status=identity_pb2.IDENTITY_STATUS_PROVISIONAL)
    person.traits.birth_name, person.traits.first_birth_given_name = "RUBBISH", "TESSA"
    person.traits.birth_given_names, person.traits.birth_date = "TESSA", "1951-02-03"
    person.traits.sex, person.traits.birth_place = identity_pb2.SEX_FEMALE, "99999"
    person.identifiers.add(system="1.2.250.1.213.1.4.11", value="250017505691234")
    return person


def _clinical(name: str) -> Mapping[str, Message]:
    """What asks for what documents say."""
    time = document_pb2.TimeRange()
    time.start_time.seconds, time.end_time.seconds = 1, 2_000_000_000
    return {
        "ListMedications": clinical_pb2.ListMedicationsRequest(
            parent=name, kinds=[values.MEDICATION_KIND_PRESCRIBED], codes=["N02BE01"], time=time, page_size=2
        ),
        "ListResults": clinical_pb2.ListResultsRequest(parent=name, codes=["3016-3"], time=time, page_size=2),
        "GetVaccinationRecord": clinical_pb2.GetVaccinationRecordRequest(parent=name, page_size=2),
        "ListImaging": clinical_pb2.ListImagingRequest(parent=name, time=time, page_size=2),
        "ListSummaries": clinical_pb2.ListSummariesRequest(
            parent=name, kinds=[values.SUMMARY_KIND_MEDICAL], time=time, page_size=2
        ),
        "GetPathway": clinical_pb2.GetPathwayRequest(
            parent=name, categories=[values.PATHWAY_CATEGORY_BIOLOGY], time=time, page_size=2
        ),
        "RereadDocuments": clinical_pb2.RereadDocumentsRequest(restart=True, request_id="rubbish-reread"),
    }


def _submission(name: str) -> document_pb2.SubmitDocumentsRequest:
    request = document_pb2.SubmitDocumentsRequest(parent=name, request_id="rubbish-submit")
    request.submission_set.unique_id, request.submission_set.source_id = "2.25.77", "1.2.250.1.213.4.99"
    request.submission_set.author.name = "A"
    submitted = request.documents.add(content=b"text")
    document = submitted.document
    document.mime_type, document.title, document.unique_id = "text/plain", "T", "2.25.78"
    for coding in (document.type_code, document.format_code, document.facility_type, document.practice_setting):
        coding.system, coding.code = "1.2.3", "c"
    author = document.authors.add(name="A")
    author.id.system, author.id.value = "1.2.250.1.71.4.2.1", "899700000012"
    document.create_time.seconds = document.service_start_time.seconds = _LONG_AGO
    document.source_patient_info.family_names.append("ZZ")
    document.source_patient_info.birth_date = "1950-01-01"
    return request


def _take_in(name: str) -> consent_pb2.TakeInDossierRequest:
    opposed = consent_pb2.Dossier(state=consent_pb2.DOSSIER_STATE_OPPOSED, home_host="north")
    taken = consent_pb2.HostDossier(dossier=opposed)
    return consent_pb2.TakeInDossierRequest(name=name, taken=taken, request_id="rubbish-take-in")


def _consent(health_id: int, consent: consent_pb2.ConsentRecord) -> dict[str, Message]:
    """What consent does beside authorising: life, representatives, lists, explanations, rights."""
    name, person = dossier_name(health_id), person_name(7)
    died, since = Timestamp(seconds=_LONG_AGO), Timestamp(seconds=1)
    grantee = consent_pb2.Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id="899700000012")
    party = consent_pb2.ExplainedParty(
        kind=context_pb2.ACTOR_KIND_PROFESSIONAL, subject="899700000012", profession="10", structure="1750000001"
    )
    tables = rights_pb2.RightsTables(functional_rights_csv="transaction\n", document_type_denials_csv="profession\n")
    return {
        "BatchListAttendingPhysicians": consent_pb2.BatchListAttendingPhysiciansRequest(health_ids=[health_id]),
        "ReopenDossier": consent_pb2.ReopenDossierRequest(name=name, consent=consent, request_id="rubbish-reopen"),
        "OpposeOpening": consent_pb2.OpposeOpeningRequest(
            name=name, patient_consented=True, request_id="rubbish-oppose"
        ),
        "WithdrawOpposition": consent_pb2.WithdrawOppositionRequest(
            name=name, patient_consented=True, request_id="rubbish-withdraw"
        ),
        "RecordDeath": consent_pb2.RecordDeathRequest(name=name, death_time=died, request_id="rubbish-death"),
        "RequestDestruction": consent_pb2.RequestDestructionRequest(name=name, request_id="rubbish-destroy"),
        "WithdrawDestruction": consent_pb2.WithdrawDestructionRequest(name=name, request_id="rubbish-keep"),
        "MoveDossier": consent_pb2.MoveDossierRequest(
            name=name, home_host="north", region="coast", request_id="rubbish-move"
        ),
        "UpdatePreferences": consent_pb2.UpdatePreferencesRequest(
            name=name, break_glass_opposed=True, patient_consented=True, request_id="rubbish-prefer"
        ),
        "RemoveAttendingPhysician": consent_pb2.RemoveAttendingPhysicianRequest(
            parent=name, grantee=grantee, request_id="rubbish-leave"
        ),
        "ListAuthorizations": consent_pb2.ListAuthorizationsRequest(parent=name, page_size=3),
        "ListHostDossiers": consent_pb2.ListHostDossiersRequest(home_host="north", page_size=3),
        "ListAccessible": consent_pb2.ListAccessibleRequest(since=since, page_size=3),
        "RegisterRepresentative": consent_pb2.RegisterRepresentativeRequest(
            parent=name,
            person=person,
            kind=consent_pb2.REPRESENTATION_KIND_GUARDIAN,
            start_time=since,
            documents_seen=True,
            request_id="rubbish-represent",
        ),
        "EndRepresentation": consent_pb2.EndRepresentationRequest(parent=name, person=person, request_id="rubbish-end"),
        "ListRepresentatives": consent_pb2.ListRepresentativesRequest(parent=name),
        "ListRepresented": consent_pb2.ListRepresentedRequest(parent=person_name(health_id)),
        "ExplainAccess": consent_pb2.ExplainAccessRequest(name=name, party=party, action=consent_pb2.ACTION_READ),
        "ListConsentEvents": consent_pb2.ListConsentEventsRequest(parent=name, page_size=3),
        "GetRights": rights_pb2.GetRightsRequest(version=0),
        "ListRightsVersions": rights_pb2.ListRightsVersionsRequest(page_size=3),
        "DiffRights": rights_pb2.DiffRightsRequest(tables=tables),
        "ReplaceRights": rights_pb2.ReplaceRightsRequest(tables=tables, comment="rubbish", request_id="rubbish-rights"),
    }
