"""Submitting documents, on a real PostgreSQL: what is refused, what stays, and exactly once."""

from __future__ import annotations

import asyncio

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import coding_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.runtime.errors import DmpError, unavailable
from services.runtime.identifiers import new_health_id
from tests import documents
from tests.document_world import MAX_DOCUMENT, World
from tests.documents import call, cda, new_oid, no, submission
from tests.refusals import refused

# --- what is refused, and what stays ---------------------------------------------------------------------------------


async def test_wrong_hash_and_size_are_refused_and_recorded(world: World) -> None:
    content = cda(new_oid())
    with refused(reasons.ERROR_REASON_HASH_MISMATCH, "documents[0].document.hash"):
        await world.submit((document_pb2.Document(hash=b"x" * 20), content))
    assert world.last_event().outcome == audit_pb2.OUTCOME_REJECTED
    assert world.last_event().reason == reasons.ERROR_REASON_HASH_MISMATCH
    with refused(reasons.ERROR_REASON_SIZE_MISMATCH, "documents[0].document.size"):
        await world.submit((document_pb2.Document(size=len(content) + 1), content))
    with refused(reasons.ERROR_REASON_MISSING_DOCUMENT, "documents[0].content"):
        await world.submit((document_pb2.Document(), b""))
    with refused(reasons.ERROR_REASON_REQUEST_TOO_LARGE, "documents[0].content"):
        await world.submit((document_pb2.Document(), b"x" * (MAX_DOCUMENT + 1)))
    assert set((await world.rows()).values()) == {0}


async def test_one_bad_document_keeps_the_whole_submission_out(world: World) -> None:
    taken = new_oid()
    await world.submit((document_pb2.Document(), cda(taken)))
    before = await world.rows()
    with refused(reasons.ERROR_REASON_METADATA_ERROR, "documents[1].document.type_code"):
        await world.submit(
            (document_pb2.Document(), cda(new_oid())),
            (document_pb2.Document(type_code=coding_pb2.Coding(code="11502-2")), cda(new_oid())),
        )
    with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, "documents[1].document.unique_id"):
        await world.submit((document_pb2.Document(), cda(new_oid())), (document_pb2.Document(), cda(taken)))
    assert world.last_event().reason == reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID
    with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, "documents[1].document.unique_id"):
        twice = new_oid()
        await world.submit((document_pb2.Document(), cda(twice)), (document_pb2.Document(), cda(twice, body=" ")))
    assert await world.rows() == before


async def test_the_same_identifier_in_another_dossier_is_another_document(world: World) -> None:
    oid = new_oid()
    await world.submit((document_pb2.Document(), cda(oid)))
    await world.submit((document_pb2.Document(), cda(oid)), dossier=new_health_id())


async def test_of_two_submissions_of_one_identifier_at_once_one_wins(world: World) -> None:
    oids = [new_oid() for _ in range(4)]
    requests = [[(document_pb2.Document(), cda(oid)) for oid in order] for order in (oids, oids[::-1]) * 4]
    outcomes = await asyncio.gather(*(world.submit(*given) for given in requests), return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, document_pb2.SubmitDocumentsResponse)]
    lost = {outcome.reason for outcome in outcomes if isinstance(outcome, DmpError)}
    assert len(won) == 1
    assert lost == {reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID}
    assert (await world.rows())["document"] == 4


async def test_a_cda_version_is_taken_once(world: World) -> None:
    version = '<setId root="1.2.250.1.996"/><versionNumber value="1"/>'
    await world.submit((document_pb2.Document(), cda(new_oid(), extra=version)))
    with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, "documents[0].document.unique_id"):
        await world.submit((document_pb2.Document(), cda(new_oid(), extra=version)))
    await world.submit((document_pb2.Document(), cda(new_oid(), extra=version.replace('"1"/>', '"3"/>'))))


async def test_a_document_of_another_patient_is_refused_and_recorded(world: World) -> None:
    world.identity.answer = DmpError(reasons.ERROR_REASON_PATIENT_MISMATCH)
    with refused(reasons.ERROR_REASON_PATIENT_MISMATCH):
        await world.add()
    assert world.last_event().outcome == audit_pb2.OUTCOME_REJECTED
    assert set((await world.rows()).values()) == {0}
    world.identity.answer = unavailable("identity")
    events = len(world.audit.events)
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await world.add()
    assert len(world.audit.events) == events


async def test_what_is_said_of_the_patient_beside_the_document_is_verified_too(world: World) -> None:
    info = document_pb2.SourcePatientInfo(family_names=["AUTRE"], birth_date="1980")
    await world.submit((document_pb2.Document(source_patient_info=info), cda(new_oid())))
    assert [list(claim.family_names) for claim in world.identity.claims] == [["PATIENTE"], ["AUTRE"]]


async def test_names_that_postgres_cannot_hold_are_refused_by_name(world: World) -> None:
    with refused(reasons.ERROR_REASON_METADATA_ERROR, "documents[0].document.format_code.code"):
        await world.submit(
            (document_pb2.Document(format_code=coding_pb2.Coding(code="a\0b")), cda(new_oid())),
        )
    with refused(reasons.ERROR_REASON_INVALID_FIELD, "type_codes"):
        await world.search(type_codes=["a\0b"])
    with refused(reasons.ERROR_REASON_INVALID_FIELD, "page_size"):
        await world.search(page_size=-1)


async def test_patients_types_are_for_patients(world: World) -> None:
    metadata = documents.plain_metadata(new_oid())
    metadata.type_code.CopyFrom(coding_pb2.Coding(code="EXPPAT_2"))
    request = submission(world.dossier, (metadata, b"%PDF-1"))
    with refused(reasons.ERROR_REASON_METADATA_ERROR, "documents[0].document.type_code"):
        await world.send(request)
    patient = context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_PATIENT, subject="1")
    await world.service.servicer.SubmitDocuments(request, call("SubmitDocuments", world.dossier, patient))


# --- exactly once ----------------------------------------------------------------------------------------------------


async def test_a_retry_changes_nothing_and_gets_the_same_answer(world: World) -> None:
    request = submission(world.dossier, (document_pb2.Document(), cda(new_oid())))
    answers = await asyncio.gather(*(world.send(request) for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)
    assert await world.send(request) == answers[0]
    assert await world.rows() == {"document": 1, "content": 1, "submission_set": 1, "outbox": 1, "idempotency": 1}


async def test_a_request_id_with_another_body_is_refused(world: World) -> None:
    request = submission(world.dossier, (document_pb2.Document(), cda(new_oid())))
    await world.send(request)
    changed = document_pb2.SubmitDocumentsRequest()
    changed.CopyFrom(request)
    changed.documents[0].document.comments = "autre"
    with refused(reasons.ERROR_REASON_REQUEST_ID_REUSED):
        await world.send(changed)
    changed.CopyFrom(request)
    changed.documents[0].content += b" "
    with refused(reasons.ERROR_REASON_REQUEST_ID_REUSED):
        await world.send(changed)


async def test_a_retry_is_authorised_before_it_is_answered(world: World) -> None:
    request = submission(world.dossier, (document_pb2.Document(), cda(new_oid())))
    await world.send(request)
    world.consent.answer = no(reasons.ERROR_REASON_DOSSIER_CLOSED)
    with refused(reasons.ERROR_REASON_DOSSIER_CLOSED):
        await world.send(request)


async def test_the_event_of_a_submission_is_in_the_same_commit(world: World) -> None:
    document = await world.add()
    payload = await world.pool.fetchval("SELECT payload FROM outbox WHERE health_id = $1", world.dossier)
    event = audit_pb2.AuditEvent.FromString(payload)
    assert event.action == "document.submit"
    assert event.outcome == audit_pb2.OUTCOME_SUCCESS
    assert event.objects == [document.submission_set, document.name]
    assert event.epoch == 7
