"""SubmitDocuments: a submission set, its documents and folders, all or nothing, exactly once (TD2.1, TD2.2).

    consent → validate → prepare (measure, read headers, check formats, complete metadata)
    → identity verifies the patient ∥ the scanner looks → contents to the object store, where they go there
    → one commit {clock, key, submission set, documents, contents, changes, event, answer} (`committing`)

What is refused is in the trail before it is answered; what is accepted has its event in the same commit.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dmp.common.v1 import context_pb2
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document import envelope, preparation
from services.document.admission import Prospect
from services.document.committing import GROUP, Committer, Pending
from services.document.contents import Contents
from services.document.gate import Gate
from services.document.metadata import MetadataRules
from services.document.patients import PatientChecks
from services.document.preparation import Prepared
from services.document.scanning import Scanner, infected
from services.document.store.reading import translated
from services.document.store.rows import DocumentKey
from services.document.store.writing import NewContent
from services.document.unique_ids import UniqueIds
from services.document.uploads import Uploads
from services.runtime import faults, idempotency
from services.runtime.checks import dossiers_read
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.idempotency import IdempotencyKey
from services.runtime.identifiers import uuid7
from services.runtime.postgres import Pool, transaction
from services.runtime.validation import validate

_PATIENTS: Final = frozenset({context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE})


@dataclass(frozen=True, slots=True)
class SubmissionLimits:
    """The settings that submissions depend on. `max_document_bytes` is for each content, `max_submission_bytes` for
    all of a submission's together, `max_large` for the large submissions that are worked on at once, `group` for those
    that share a commit."""

    max_document_bytes: int
    allow_masked_and_invisible: bool
    max_submission_bytes: int = 256 << 20
    max_large: int = 2
    group: int = GROUP


class Submitter:
    """Accepts submissions."""

    def __init__(
        self,
        pool: Pool,
        keys: DossierKeys,
        gate: Gate,
        patients: PatientChecks,
        unique_ids: UniqueIds,
        uploads: Uploads,
        contents: Contents,
        scanner: Scanner,
        committer: Committer,
        limits: SubmissionLimits,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._gate = gate
        self._patients = patients
        self._unique_ids = unique_ids
        self._uploads = uploads
        self._contents = contents
        self._scanner = scanner
        self._committer = committer
        self._limits = limits
        self._large = asyncio.Semaphore(limits.max_large)

    async def submit(
        self, request: document_pb2.SubmitDocumentsRequest, call: Call
    ) -> document_pb2.SubmitDocumentsResponse:
        """The set and its documents as stored; the same answer for the same request_id."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_SUBMIT)
        faults.point("submit.entered")
        try:
            validate(request)
            if any(submitted.upload for submitted in request.documents):
                return await self._with_uploads(request, call, decision)
            contents = [submitted.content for submitted in request.documents]
            return await self._accept(request, contents, call, decision)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from error.__cause__

    async def close(self) -> None:
        """Finish the checks and commits under way."""
        await self._patients.close()
        await self._committer.close()

    async def _with_uploads(
        self, request: document_pb2.SubmitDocumentsRequest, call: Call, decision: consent_pb2.Decision
    ) -> document_pb2.SubmitDocumentsResponse:
        """Few at once: whole contents are in memory until they are committed. A retry is answered without them, since
        the uploads went with the first commit."""
        async with self._large:
            digests = [hashlib.sha256(s.content).digest() if s.content else b"" for s in request.documents]
            answered = await self._answered(request, call, preparation.body_digest(request, digests))
            if answered is not None:
                return answered
            contents = await self._uploads.contents(call, request.documents, self._limits.max_submission_bytes)
            return await self._accept(request, contents, call, decision)

    async def _answered(
        self, request: document_pb2.SubmitDocumentsRequest, call: Call, digest: bytes
    ) -> document_pb2.SubmitDocumentsResponse | None:
        key = _key(call, request)
        with translated():
            async with self._pool.acquire() as conn:
                known = idempotency.replay((await idempotency.find_many(conn, [key])).get(key), digest)
                if known is None:
                    return None
                dossier = (await self._keys.for_read(conn, [call.health_id]))[call.health_id]
        return envelope.open_answer(dossier, digest, known, document_pb2.SubmitDocumentsResponse)

    async def _accept(
        self,
        request: document_pb2.SubmitDocumentsRequest,
        contents: Sequence[bytes],
        call: Call,
        decision: consent_pb2.Decision,
    ) -> document_pb2.SubmitDocumentsResponse:
        preparation.check_sizes(contents, self._limits.max_document_bytes)
        prepared = await preparation.prepare(request, contents, self._rules(call, decision))
        faults.point("submit.prepared")
        await _all(self._verify(call, prepared), self._scan(contents))
        faults.point("submit.verified")
        digest = preparation.body_digest(request, [p.packed.sha256 for p in prepared])
        placed = await self._place(call, prepared)
        faults.point("submit.content_stored")
        uploads = [uuid.UUID(submitted.upload[-36:]) for submitted in request.documents if submitted.upload]
        ids = [uuid7() for _ in prepared]
        dossiers = dossiers_read(call.health_id, decision)
        prospect = Prospect(call, request, prepared, ids, decision.epoch, decision.basis, uploads, dossiers)
        pending = Pending(prospect, _key(call, request), digest, placed)
        return await self._committer.commit(pending, call.remaining())

    def _rules(self, call: Call, decision: consent_pb2.Decision) -> MetadataRules:
        return MetadataRules(
            call.actor.actor_kind in _PATIENTS,
            self._limits.allow_masked_and_invisible,
            secret=call.actor.secret_connection or decision.filter.secret,
        )

    async def _verify(self, call: Call, prepared: Sequence[Prepared]) -> None:
        """Ask identity about every claim once; the documents of a submission mostly make the same one."""
        claims = {claim.SerializeToString(deterministic=True): claim for p in prepared for claim in p.claims}
        await _all(*(self._patients.verify(call, claim) for claim in claims.values()))

    async def _scan(self, contents: Sequence[bytes]) -> None:
        found = [index for index, content in enumerate(contents) if not await self._scanner.scan(content)]
        if found:
            raise infected(found)

    async def _place(self, call: Call, prepared: Sequence[Prepared]) -> dict[uuid.UUID, NewContent]:
        """Seal and put into the object store what goes there; nothing where contents are in the database."""
        if not self._contents.writes_objects:
            return {}
        health_id = call.health_id
        with translated():
            async with transaction(self._pool, timeout=call.remaining()) as conn:
                key = (await self._keys.for_write(conn, [health_id]))[health_id]
        wanted = {self._unique_ids.of_content(health_id, p.packed.sha256): p for p in prepared}
        placed: dict[uuid.UUID, NewContent] = {}
        for content_id, one in wanted.items():
            sealed = await envelope.off_loop(len(one.packed.frame), envelope.seal_content, key, content_id, one.packed)
            placed[content_id] = await self._contents.put(DocumentKey(health_id, content_id), sealed)
        return placed


def _key(call: Call, request: document_pb2.SubmitDocumentsRequest) -> IdempotencyKey:
    return IdempotencyKey(call.health_id, call.client_id, call.method.path, request.request_id)


async def _all(*works: Coroutine[Any, Any, None]) -> None:
    """All of them, to their ends; then the first failure in their order."""
    if len(works) == 1:
        await works[0]
        return
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
