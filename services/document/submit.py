"""SubmitDocuments: a submission set and its documents, all or nothing, exactly once (TD2.1, TD2.2).

    consent → validate → prepare (measure, read headers, complete metadata) → identity verifies the patient
    → one transaction {request id, dossier key, submission set, documents, contents, event, answer}

What is refused is in the trail before it is answered; what is accepted has its event in the same commit.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import coding_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document import codes, envelope, preparation
from services.document.authorship import IDNPS, IDNST, Authorship
from services.document.envelope import ContentPointer
from services.document.gate import Gate
from services.document.metadata import MetadataRules, flags_of
from services.document.patients import PatientChecks
from services.document.preparation import Prepared
from services.document.store import (
    SET_VERSION_CONSTRAINT,
    NewDocument,
    NewSet,
    insert_documents,
    insert_set,
    translated,
)
from services.document.times import instant, timestamp
from services.document.unique_ids import UniqueIds
from services.runtime import faults, idempotency, outbox
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.idempotency import IdempotencyKey
from services.runtime.identifiers import document_name, submission_set_name, uuid7
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Connection, Pool, transaction
from services.runtime.sealing import DossierKey
from services.runtime.trail import build_event
from services.runtime.validation import validate

_PATIENTS = frozenset({context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE})
_AUTHOR_SYSTEMS = {
    context_pb2.ACTOR_KIND_PROFESSIONAL: IDNPS,
    context_pb2.ACTOR_KIND_STRUCTURE_STAFF: IDNST,
    context_pb2.ACTOR_KIND_STRUCTURE: IDNST,
}


@dataclass(frozen=True, slots=True)
class SubmissionLimits:
    """The settings that submissions depend on. `max_document_bytes` is for each content."""

    max_document_bytes: int
    allow_masked_and_invisible: bool


class Submitter:
    """Accepts submissions."""

    def __init__(
        self,
        pool: Pool,
        keys: DossierKeys,
        gate: Gate,
        patients: PatientChecks,
        authorship: Authorship,
        unique_ids: UniqueIds,
        limits: SubmissionLimits,
        *,
        clock: Callable[[], datetime],
        committed: Callable[[Sequence[int]], None],
    ) -> None:
        """`committed` is called with the dossiers concerned after each commit: the relay then looks at once."""
        self._pool = pool
        self._keys = keys
        self._gate = gate
        self._patients = patients
        self._authorship = authorship
        self._unique_ids = unique_ids
        self._limits = limits
        self._clock = clock
        self._committed = committed

    async def submit(
        self, request: document_pb2.SubmitDocumentsRequest, call: Call
    ) -> document_pb2.SubmitDocumentsResponse:
        """The set and its documents as stored; the same answer for the same request_id."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_SUBMIT)
        try:
            return await self._accept(request, call, decision)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from error.__cause__

    async def close(self) -> None:
        """Finish the checks under way."""
        await self._patients.close()

    async def _accept(
        self, request: document_pb2.SubmitDocumentsRequest, call: Call, decision: consent_pb2.Decision
    ) -> document_pb2.SubmitDocumentsResponse:
        preparation.check_sizes(request.documents, self._limits.max_document_bytes)
        validate(request)
        rules = MetadataRules(call.actor.actor_kind in _PATIENTS, self._limits.allow_masked_and_invisible)
        prepared = await preparation.prepare(request, rules)
        await self._verify(call, prepared)
        digest = preparation.body_digest(request, prepared)
        key = IdempotencyKey(call.health_id, call.client_id, call.method.path, request.request_id)
        with translated():
            async with transaction(self._pool, timeout=call.remaining()) as conn:
                kept = await idempotency.begin(conn, key, digest)
                if kept is not None:
                    dossier = (await self._keys.for_read(conn, [call.health_id]))[call.health_id]
                    return envelope.open_answer(dossier, digest, kept)
                dossier = (await self._keys.for_write(conn, [call.health_id]))[call.health_id]
                answer = await self._store(conn, call, dossier, request.submission_set, prepared, decision.epoch)
                await idempotency.finish(conn, key, envelope.seal_answer(dossier, digest, answer))
                faults.point("submit.before_commit")
        faults.point("submit.after_commit")
        self._committed([call.health_id])
        return answer

    async def _verify(self, call: Call, prepared: Sequence[Prepared]) -> None:
        """Ask identity about every claim once; the documents of a submission mostly make the same one."""
        claims = {claim.SerializeToString(deterministic=True): claim for p in prepared for claim in p.claims}
        if len(claims) == 1:
            await self._patients.verify(call, *claims.values())
            return
        asked = [self._patients.verify(call, claim) for claim in claims.values()]
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _store(
        self,
        conn: Connection,
        call: Call,
        dossier: DossierKey,
        submission_set: document_pb2.SubmissionSet,
        prepared: Sequence[Prepared],
        epoch: int,
    ) -> document_pb2.SubmitDocumentsResponse:
        """Write everything but the answer; DUPLICATE_UNIQUE_ID when the dossier holds one of them already."""
        answer, set_id = self._answer(call, submission_set, prepared)
        now = instant(answer.submission_set.submit_time)
        new_set = NewSet(
            set_id,
            self._unique_ids.of_set(submission_set.unique_id),
            document_pb2.DOCUMENT_STATUS_APPROVED,
            now,
            envelope.seal_submission_set(dossier, set_id, answer.submission_set),
        )
        if not await insert_set(conn, call.health_id, new_set):
            field = FieldViolation("submission_set.unique_id", "unique", "the dossier holds a submission set with it")
            raise DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, fields=(field,))
        handled = sum(len(p.packed.frame) for p in prepared)
        new = await envelope.off_loop(handled, self._sealed, dossier, answer, prepared)
        await _insert(conn, call.health_id, new_set, new)
        objects = [answer.submission_set.name, *(document.name for document in answer.documents)]
        event = build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS, objects=objects, epoch=epoch)
        row = OutboxRow(call.health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())
        await outbox.put(conn, [row])
        return answer

    def _answer(
        self, call: Call, submission_set: document_pb2.SubmissionSet, prepared: Sequence[Prepared]
    ) -> tuple[document_pb2.SubmitDocumentsResponse, uuid.UUID]:
        """The answer with the names, versions and times that this service gives."""
        set_id = uuid7()
        now = timestamp(self._clock())
        answer = document_pb2.SubmitDocumentsResponse(submission_set=submission_set)
        answer.submission_set.name = submission_set_name(call.health_id, set_id)
        answer.submission_set.submit_time.CopyFrom(now)
        if not answer.submission_set.HasField("author"):
            answer.submission_set.author.CopyFrom(_author_of(call.actor))
        for document in prepared:
            added = answer.documents.add()
            added.CopyFrom(document.document)
            added.name = document_name(call.health_id, uuid7())
            added.logical_id = str(uuid7())
            added.version = 1
            added.status = document_pb2.DOCUMENT_STATUS_APPROVED
            added.submit_time.CopyFrom(now)
            added.submission_set = answer.submission_set.name
        return answer, set_id

    def _sealed(
        self, dossier: DossierKey, answer: document_pb2.SubmitDocumentsResponse, prepared: Sequence[Prepared]
    ) -> list[NewDocument]:
        return [self._seal(dossier, named, p) for named, p in zip(answer.documents, prepared, strict=True)]

    def _seal(self, dossier: DossierKey, named: document_pb2.Document, prepared: Prepared) -> NewDocument:
        document = prepared.document
        document_id, content_id = uuid.UUID(named.name[-36:]), uuid7()
        flags = flags_of(document)
        pointer = ContentPointer(content_id, prepared.packed.sha256)
        set_version = prepared.set_version
        return NewDocument(
            document_id=document_id,
            logical_id=uuid.UUID(named.logical_id),
            type_code=document.type_code.code,
            class_code=document.class_code.code,
            format_code=document.format_code.code,
            created_at=instant(document.create_time),
            service_start=instant(document.service_start_time),
            unique_id_digest=self._unique_ids.digest(document.unique_id),
            set_version_digest=None if set_version is None else self._unique_ids.of_set_version(set_version),
            masked=codes.MASKED_FROM_PROFESSIONALS in flags,
            invisible_patient=codes.INVISIBLE_TO_PATIENT in flags,
            invisible_representatives=codes.INVISIBLE_TO_REPRESENTATIVES in flags,
            content_id=content_id,
            sealed=envelope.seal_metadata(dossier, document_id, pointer, document),
            author_digests=self._authorship.of_authors(document.authors),
            sealed_content=envelope.seal_content(dossier, content_id, prepared.packed),
        )


async def _insert(conn: Connection, health_id: int, owner: NewSet, new: Sequence[NewDocument]) -> None:
    try:
        stored = await insert_documents(conn, health_id, document_pb2.DOCUMENT_STATUS_APPROVED, owner, new)
    except asyncpg.UniqueViolationError as error:
        if not (error.constraint_name or "").startswith(SET_VERSION_CONSTRAINT):
            raise
        field = FieldViolation("documents", "set_version", "the dossier holds a CDA of this setId and versionNumber")
        raise DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, fields=(field,)) from None
    if len(stored) != len(new):
        raise preparation.taken([index for index, document in enumerate(new) if document.document_id not in stored])


def _author_of(actor: context_pb2.ActingContext) -> coding_pb2.Author:
    """Who hands in, when the submission set does not say."""
    author = coding_pb2.Author(name=actor.subject_name, institution_name=actor.structure_name)
    system = _AUTHOR_SYSTEMS.get(actor.actor_kind)
    if system is not None:
        author.id.CopyFrom(coding_pb2.Identifier(system=system, value=actor.subject))
    if actor.structure:
        author.institution_id.CopyFrom(coding_pb2.Identifier(system=IDNST, value=actor.structure))
    return author
